"""One replica: its connections, and how much of what the primary has committed it shows (PG-4)."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf
from time import monotonic
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import asyncpg  # type: ignore[import-untyped]

from polymem.core.breaker import PoolExhaustedError
from polymem.core.clock import Clock
from polymem.engines.postgres._connecting import Connector
from polymem.engines.postgres._errors import translate
from polymem.engines.postgres._pool import Link
from polymem.engines.postgres._runner import Fetch, PoolRunner
from polymem.engines.postgres._settings import Settings
from polymem.engines.postgres._traffic import Traffic
from polymem.errors import StorageConnectionError, StorageDataError, StorageError, StorageTimeoutError

_log = logging.getLogger("polymem.engines.postgres")
_PATIENCE: Final = 2.0
"""Seconds within which a replica answers; one that is silent for longer is cut off."""
_AGAIN: Final = 1.0
"""Seconds between two looks that nobody waits for, and after which a replica that is away is sought again."""
_LEAST: Final = 0.005
"""Seconds between two looks, however many wait."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.25
# what is acknowledged was flushed, and only what is flushed is sent to replicas, unless commits do not wait for that
_MARK: Final = """
select pg_wal_lsn_diff(case current_setting('synchronous_commit') when 'off' then pg_current_wal_insert_lsn()
else pg_current_wal_flush_lsn() end, '0/0')::bigint,
('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::int"""
_REPLAYED: Final = """
select pg_is_in_recovery(), pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::bigint,
greatest((select received_tli from pg_stat_wal_receiver), (select timeline_id from pg_control_checkpoint()),
(select min_recovery_end_timeline from pg_control_recovery()))"""
_IDENTITY: Final = "select system_identifier::text, current_database()::text from pg_control_system()"


class Mark(NamedTuple):
    """How far the primary's log was at a moment of this process's clock, and which timeline it is."""

    at: float
    position: int
    timeline: int


async def mark_of(fetch: Fetch) -> Mark:
    """Everything that the primary acknowledged before now is before the mark."""
    now = monotonic()
    return Mark(now, *(await fetch(_MARK))[0])


async def identity_of(fetch: Fetch) -> tuple[str, str]:
    """What a replica has in common with its primary: the cluster, and the name of the database."""
    cluster, name = (await fetch(_IDENTITY))[0]
    return cluster, name


class Primary(NamedTuple):
    """What a replica asks the primary, and how old it may become."""

    mark: Callable[[], Awaitable[Mark]]
    identity: Callable[[], Awaitable[tuple[str, str]]]
    max_staleness: float


class Replica:
    """A task of its own follows it: connects, asks how far it is, and finds out when it is away or back."""

    def __init__(self, settings: Settings, primary: Primary, clock: Clock) -> None:
        self._connector, self._primary, self._clock = Connector(settings, None), primary, clock
        self.name = urlsplit(settings.dsn).netloc.rpartition("@")[2]
        self.runner = PoolRunner()
        self.as_of = -inf
        """It shows all that was committed on the primary before this moment of the process's clock."""
        self.calls = 0
        """Reads under way on it."""
        self.state = "away"
        """ready, behind, away, promoted, diverged (on another timeline), foreign (of another database)."""
        self.reads = 0
        """Those that it has answered."""
        self._passed_on = 0
        self._error: StorageError | None = None
        self._tick = min(_AGAIN, primary.max_staleness / 2)
        self._traffic: Traffic | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Return when it is known, or known to be away; one of another database is a `StorageDataError`."""
        self.runner.attach(self._connector.pool())
        self._traffic = Traffic(self.runner, self._clock)
        self._needed, self._met = asyncio.Event(), asyncio.Event()
        self._task = asyncio.create_task(self._tend())
        await self._met.wait()
        if self.state == "foreign" and self._error is not None:
            raise self._error

    async def close(self) -> None:
        traffic, task, self._traffic, self._task = self._traffic, self._task, None, None
        if traffic is not None:
            await traffic.close()
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        pool = self.runner.detach()
        if pool is not None:
            await pool.close()
        self.as_of, self.state = -inf, "away"

    def traffic(self) -> Traffic:
        """Its batches of gets."""
        return self._traffic or self.runner.not_open()

    def need(self) -> None:
        """Somebody would read here if it were further."""
        if self.state == "ready":
            self._needed.set()

    def doubt(self, error: Exception) -> None:
        """A read failed here. It is to be asked of the primary, unless it took too long: it would there, too.

        If that is what the error is about, nobody is to read here before the replica has answered again.
        """
        if isinstance(error, asyncpg.QueryCanceledError) and "recovery" not in str(error):
            raise error
        self._passed_on += 1
        failure = error if isinstance(error, StorageError) else translate(error)
        if isinstance(failure, PoolExhaustedError):
            return
        if isinstance(failure, (StorageConnectionError, StorageTimeoutError)):
            self.as_of = -inf
            self.need()

    def status(self) -> dict[str, Any]:
        """How it is, for people: `behind` is in seconds at most, None where it is not known."""
        behind = None if self.as_of == -inf else round(monotonic() - self.as_of, 3)
        error = None if self._error is None else str(self._error)
        pool = self.runner.pool.figures() if self.runner.is_open else None
        return {
            "replica": self.name, "state": self.state, "behind": behind, "reads": self.reads,
            "passed_on": self._passed_on, "error": error, "pool": pool,
        }  # fmt: skip

    async def _tend(self) -> None:
        while True:
            try:
                await self._follow()
            except Exception as error:  # noqa: BLE001 - whatever it is, the primary answers and it is tried again
                self._error = error if isinstance(error, StorageError) else translate(error)
                self._lose("foreign" if isinstance(error, StorageDataError) else "away")
            await asyncio.sleep(_AGAIN)

    async def _follow(self) -> None:
        await self._connector.probe()
        link = await self._connector.link()
        try:
            link.timeout = min(link.timeout, _PATIENCE)
            await self._recognise(link)
            self._met.set()
            while True:
                await self._look(link)
                self.runner.pool.watch()
                self.runner.pool.prune()
                await self._until_needed()
        finally:
            link.raw.terminate()

    async def _recognise(self, link: Link) -> None:
        if await identity_of(link.fetch) != await self._primary.identity():
            raise StorageDataError(
                f"{self.name} is no replica of this database: expected the same system identifier and database name",
                field="replicas",
            )

    async def _look(self, link: Link) -> None:
        """Take a mark at the primary and wait until it is replayed here."""
        try:
            mark = await self._primary.mark()
        except Exception:  # noqa: BLE001 - what ails the primary is no fault of the replica
            await asyncio.sleep(_AGAIN)
            return
        pause = _FIRST_PAUSE
        while (state := _state(mark, (await link.fetch(_REPLAYED))[0])) == "behind":
            if monotonic() - mark.at > self._tick:
                self._turn(state)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        self._error = None
        self.as_of = mark.at if state == "ready" else -inf
        self._turn(state)

    async def _until_needed(self) -> None:
        await asyncio.sleep(_LEAST)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._tick):
                await self._needed.wait()
        self._needed.clear()

    def _lose(self, state: str) -> None:
        """Reads under way go to the primary at once."""
        self.as_of = -inf
        if self.runner.is_open:
            self.runner.pool.cut()
        self._turn(state)
        self._met.set()

    def _turn(self, state: str) -> None:
        if state != self.state:
            level = logging.INFO if state == "ready" else logging.WARNING
            _log.log(level, "replica %s is %s", self.name, state)
        self.state = state


def _state(mark: Mark, row: Any) -> str:
    recovering, position, timeline = row
    if not recovering:
        return "promoted"
    if timeline != mark.timeline:
        return "diverged"
    return "behind" if position is None or position < mark.position else "ready"
