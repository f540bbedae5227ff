"""The postgres engine: every contract in one PostgreSQL database."""

import asyncio
import itertools
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import NoneType
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]

from polymem.contracts.drivers import Drivers
from polymem.core.clock import MICROSECONDS, Clock
from polymem.core.engine import Health, Hearer
from polymem.core.page import Page
from polymem.engines.postgres import _maintenance
from polymem.engines.postgres._clock import ServerClock
from polymem.engines.postgres._collections import Numbers
from polymem.engines.postgres._connecting import Connector
from polymem.engines.postgres._errors import translate
from polymem.engines.postgres._listener import Listener
from polymem.engines.postgres._query_indexes import KnownIndexes
from polymem.engines.postgres._replicas import Replicas
from polymem.engines.postgres._runner import PoolRunner, Runner
from polymem.engines.postgres._schema import create_tables
from polymem.engines.postgres._schema_vectors import create_vectors
from polymem.engines.postgres._settings import Settings, read_settings
from polymem.engines.postgres._telling import Notes
from polymem.engines.postgres._text_index import Indexes
from polymem.engines.postgres._traffic import Traffic
from polymem.engines.postgres._vector_building import Approximate
from polymem.engines.postgres.blobs import PostgresBlobs
from polymem.engines.postgres.events import PostgresEvents
from polymem.engines.postgres.graph import PostgresGraph
from polymem.engines.postgres.kv import PostgresKV
from polymem.engines.postgres.query import PostgresQuery
from polymem.engines.postgres.sql import PostgresSql
from polymem.engines.postgres.text import PostgresText
from polymem.engines.postgres.transactions import PostgresTransactions
from polymem.engines.postgres.turns import PostgresTurns
from polymem.engines.postgres.vectors import PostgresVectors
from polymem.errors import StorageDataError, StorageError

_log = logging.getLogger("polymem.engines.postgres")
_EVERY: Final = 60
"""Seconds between two looks at the server's clock and at idle connections."""


def from_url(url: str, **options: Any) -> "PostgresEngine":
    """`postgresql://user:password@host:5432/database?max_size=20&sslmode=require`; options may be given beside it."""
    client, clock = options.pop("client", None), options.pop("clock", None)
    if not isinstance(client, (asyncpg.Pool, NoneType)):
        raise StorageDataError("expected a pool of asyncpg", field="client")
    return PostgresEngine(read_settings(url, options), client=client, clock=clock)


class PostgresEngine:
    """One database. A `client` is your own asyncpg pool, which is never closed here."""

    name = "postgres"
    remote = True

    def __init__(self, settings: Settings, *, client: asyncpg.Pool | None = None, clock: Clock | None = None) -> None:
        self._settings = settings
        self._server_clock = ServerClock()
        self.clock: Clock = clock or self._server_clock
        self._connector = Connector(settings, client)
        self._runner = PoolRunner()
        self._known = KnownIndexes()
        self._indexes, self._numbers = Indexes(), Numbers()
        self._has_vectors = True
        kind = settings.vector_index
        self._approximate = None if kind == "exact" else Approximate(kind, self._connector.patient)
        self._listener = Listener(self._connector)
        self._replicas = Replicas(settings, self._runner, self.clock)
        self._traffic: Traffic | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def open(self) -> None:
        if self._runner.is_open:
            return
        await self._connector.probe()
        pool = self._connector.pool()
        await pool.open()
        try:
            async with pool.lease() as link:
                await create_tables(link, self._settings.schema)
                self._has_vectors = await create_vectors(link)
        except BaseException:
            await pool.close()
            raise
        self._listener.reopen()
        self._runner.attach(pool)
        self._traffic = Traffic(self._runner, self.clock)
        try:
            await self._replicas.open()
            await self._keep()
        except BaseException:
            await self.close()
            raise
        self._keeper = asyncio.create_task(self._keep_for_ever())

    async def close(self) -> None:
        keeper, traffic, self._keeper, self._traffic = self._keeper, self._traffic, None, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        await self._replicas.close()
        if self._approximate is not None:
            await self._approximate.stop()
        if traffic is not None:
            await traffic.close()
        pool = self._runner.detach()
        await self._listener.close()
        if pool is not None:
            await pool.close()

    def translate(self, error: Exception, /) -> StorageError | None:
        return translate(error)

    def drivers(self, namespace: str, /) -> Drivers:
        outside = self._cells(self._runner, namespace, self._busy, self._indexes)
        transactions = PostgresTransactions(self._runner, self._cells, self._replicas.ending)
        events = PostgresEvents(self._runner, self.clock, namespace, self._listener)
        if not self._replicas.all:
            return replace(outside, transactions=transactions, events=events)
        split = self._replicas.split(outside, lambda one: self._cells(one.runner, namespace, one.traffic))
        return replace(split, transactions=transactions, events=self._replicas.heard(events))

    def _cells(
        self, runner: Runner, namespace: str, busy: Callable[[], Traffic] | None = None, indexes: Indexes | None = None
    ) -> Drivers:
        """Outside of transactions calls may travel together, and collections have numbers that are known."""
        numbers = None if busy is None else self._numbers
        return Drivers(
            kv=PostgresKV(runner, self.clock, namespace, busy),
            query=PostgresQuery(runner, self.clock, namespace, self._known),
            turns=PostgresTurns(runner, self.clock, namespace),
            vectors=PostgresVectors(runner, namespace, numbers, self._approximate) if self._has_vectors else None,
            text=PostgresText(runner, namespace, numbers, indexes),
            graph=PostgresGraph(runner, namespace),
            blobs=PostgresBlobs(runner, self.clock, namespace),
            sql=None if namespace else PostgresSql(runner),
        )

    def _busy(self) -> Traffic:
        """The batches of calls by key; none are made before opening and after closing."""
        return self._traffic or self._runner.not_open()

    async def namespaces(self, prefix: str, after: str | None, limit: int, /) -> Page[str]:
        return await _maintenance.namespaces(self._runner, prefix, after, limit)

    async def drop_namespace(self, prefix: str, /) -> int:
        """Waits for open transactions, and lets new ones wait for it."""
        return int(await self._replicas.writing(_maintenance.drop_namespace)(self._runner, prefix))

    async def delete_expired(self, limit: int, /) -> int:
        return await _maintenance.delete_expired(self._runner, self.clock.now(), limit)

    async def lease(self, name: str, holder: str, seconds: float, /) -> bool:
        """A claim kept in the database, for everybody who has it open (see `Leasing`)."""
        now = self.clock.now()
        return await _maintenance.lease(self._runner, name, holder, now, now + int(seconds * MICROSECONDS))

    async def purge(self) -> None:
        """Rewrite the tables without dead rows, one by one; each is locked meanwhile. The server's log of changes
        (WAL) holds deleted values until it is recycled, and archived copies of it for as long as you keep them.
        """
        if self._approximate is not None:
            await self._approximate.stop()  # it would be waited for
        await _maintenance.purge(self._runner)

    async def check(self) -> Health:
        found = await _maintenance.check(self._runner, self._connector.version, self._connector.pooled)
        if replicas := self.replica_status():
            found.details["replicas"] = replicas
        return found

    async def probe(self) -> str:
        """The server's version, by one short call that proves that the engine answers."""
        return str((await self._runner.fetch("show server_version"))[0][0])

    def pool_status(self) -> Mapping[str, int] | None:
        """Connections by state; None while not open."""
        return {**self._runner.pool.figures(), **self._replicas.figures()} if self._runner.is_open else None

    def details(self) -> Mapping[str, Any] | None:
        if not self._runner.is_open:
            return None
        found = self._connector
        return {
            "server_version": found.version, "pooled": found.pooled, "prepared_statements": found.prepares,
            "connections_opened": self._runner.pool.connects, "replicas": self.replica_status(),
        }  # fmt: skip

    def replica_status(self) -> list[dict[str, Any]]:
        """Each replica by address: its state, how far it is behind, reads answered and passed on, its pool."""
        return self._replicas.status()

    async def follow_changes(self, hearer: Hearer, within: float, /) -> Notes:
        """Tell of what is written (see `Telling`). Replicas may answer what a cache reads anew only when they show it."""
        return await Notes(self._connector, hearer, self._replicas.note, within).open()

    async def _keep_for_ever(self) -> None:
        for second in itertools.count(1):
            await asyncio.sleep(1)
            self._runner.pool.watch()
            if second % _EVERY:
                continue
            try:
                await self._keep()
            except Exception as error:  # noqa: BLE001 - the next call meets it too, and says so to its caller
                _log.debug("the server's clock could not be read: %s", type(error).__name__)

    async def _keep(self) -> None:
        self._runner.pool.prune()
        await self._server_clock.correct(self._runner)
