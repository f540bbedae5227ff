"""Making the approximate indexes of collections that have become large, beside everybody's work."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any, Final

from polymem.contracts.vectors import VectorSpace
from polymem.engines.postgres._runner import Fetch, PoolRunner
from polymem.engines.postgres._vector_index import (
    VectorIndexInfo,
    creation,
    indexed_type,
    indexes_of,
    lists_for,
)

_log = logging.getLogger("polymem.engines.postgres")
LEAST: Final = 10_000
"""Rows below which a collection has no index: comparing with all of them takes milliseconds, and finds the nearest."""
_GROWTH: Final = 10
"""A collection is counted again when a tenth more has been written to it."""
_FRESH: Final = 60.0
"""Seconds for which it is not asked again which index a collection has."""
_MOST_KNOWN: Final = 10_000
_PAUSE: Final = 1.0
_CLOSE: Final = 5.0
_SCHEMA: Final = """
select quote_ident(n.nspname) from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.oid = 'pm_vectors'::regclass"""
_BUSY: Final = "select exists(select from pg_stat_progress_create_index where relid = to_regclass('pm_vectors'))"
_COUNT: Final = "select count(*) from pm_vectors where collection = $1"
Connect = Callable[[], Awaitable[Any]]


class Approximate:
    """Which collections of an engine have an index, and the making of those that are missing.

    `connect` gives an asyncpg connection whose statements may take hours.
    """

    def __init__(self, kind: str, connect: Connect) -> None:
        self._kind, self._connect = kind, connect
        self._known: dict[int, tuple[float, list[VectorIndexInfo]]] = {}
        self._unwritten: dict[int, int] = {}
        """How many more rows are to be written to a collection before it is counted."""
        self._building: dict[int, asyncio.Task[None]] = {}
        self._turn = asyncio.Lock()
        """Two that are made at once on one table would wait for each other."""

    async def indexes(self, fetch: Fetch, number: int) -> list[VectorIndexInfo]:
        """The indexes to search a collection by, as they were known a minute ago at most: one, while it is replaced two."""
        asked_at, indexes = self._known.get(number, (-_FRESH, []))
        if monotonic() - asked_at >= _FRESH:
            indexes = [index for index in await indexes_of(fetch, number) if index.valid]
            self._note(number, indexes)
        return indexes

    def wrote(self, runner: PoolRunner, number: int, space: VectorSpace, rows: int) -> None:
        """Rows were written, so a collection may be large enough by now."""
        left = self._unwritten.get(number, 0) - rows
        self._unwritten[number] = left
        if left <= 0 and number not in self._building:
            task = self._building[number] = asyncio.create_task(self._make_beside(runner, number, space))
            task.add_done_callback(lambda _: self._building.pop(number, None))

    async def settle(self) -> None:
        """Wait until nothing is being made."""
        await asyncio.gather(*self._building.values(), return_exceptions=True)

    async def stop(self) -> None:
        """Give up what is being made; it begins anew when more is written."""
        for task in self._building.values():
            task.cancel()
        await self.settle()
        self._turn = asyncio.Lock()  # of the event loop that opens it next
        self._known.clear()
        self._unwritten.clear()

    async def make(self, runner: PoolRunner, number: int, space: VectorSpace) -> None:
        """Make the index of a collection that is large enough if it is missing or much too small."""
        rows = (await runner.fetch(_COUNT, number))[0][0]
        self._unwritten[number] = LEAST - rows if rows < LEAST else rows // _GROWTH
        if rows < LEAST or indexed_type(space) is None:
            return
        async with self._turn:
            while (await runner.fetch(_BUSY))[0][0]:  # noqa: ASYNC110 - by another process
                await asyncio.sleep(_PAUSE)
            there = await indexes_of(runner.fetch, number)
            if not any(self._suffices(index, rows) for index in there):
                schema = (await runner.fetch(_SCHEMA))[0][0]
                await self._replace(there, creation(number, self._kind, rows, space, schema), schema)
                self._known.pop(number, None)

    async def _make_beside(self, runner: PoolRunner, number: int, space: VectorSpace) -> None:
        try:
            await self.make(runner, number, space)
        except Exception as error:  # noqa: BLE001 - searching goes on without it
            self._unwritten[number] = LEAST // _GROWTH
            _log.warning("no index of the vectors of collection %d: %s", number, type(error).__name__)

    async def _replace(self, there: Sequence[VectorIndexInfo], creation: str, schema: str) -> None:
        """Make an index, then drop what it replaces; what a failed attempt left goes before."""

        def drop(name: str) -> str:
            return f"drop index concurrently if exists {schema}.{name}"

        connection = await self._connect()
        try:
            failed = [index.name for index in there if not index.valid]
            replaced = [index.name for index in there if index.valid]
            for statement in (*map(drop, failed), creation, *map(drop, replaced)):
                await connection.execute(statement)
        finally:
            await connection.close(timeout=_CLOSE)

    def _suffices(self, index: VectorIndexInfo, rows: int) -> bool:
        """HNSW grows with its rows. The lists of IVFFlat are those of the rows that were there when it was made."""
        grown = index.kind == "ivfflat" and lists_for(rows) >= 2 * index.lists
        return index.valid and index.kind == self._kind and not grown

    def _note(self, number: int, indexes: list[VectorIndexInfo]) -> None:
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[number] = monotonic(), indexes
