"""Queries over `pm_kv` in SQL; nothing is filtered or ordered in Python."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]
import msgspec

from polymem.contracts._filter_match import MISSING
from polymem.contracts._query_values import partial
from polymem.contracts.filter import Filter
from polymem.contracts.kv import Record
from polymem.contracts.query import (
    DOCUMENT_TAG,
    AggregateRow,
    Aggregation,
    Explanation,
    Found,
    IndexInfo,
    Position,
    Query,
    QueryFeatures,
)
from polymem.core.clock import Clock
from polymem.engines.postgres import _query_indexes
from polymem.engines.postgres._query_aggregate import aggregate_statement, read_row
from polymem.engines.postgres._query_indexes import KnownIndexes
from polymem.engines.postgres._query_sql import Scope, order_value, page_of, read_plan
from polymem.engines.postgres._runner import Fetch, Runner
from polymem.engines.postgres.filter_sql import Values
from polymem.errors import StorageCorruptError

_PAGE: Final = 100
"""The page that is explained."""
_NOT_JSON: Final = (asyncpg.InvalidTextRepresentationError, asyncpg.UntranslatableCharacterError)


class PostgresQuery:
    """One namespace of `pm_kv`."""

    features = QueryFeatures()

    def __init__(self, runner: Runner, clock: Clock, namespace: str, known: KnownIndexes) -> None:
        self._runner, self._clock, self._namespace, self._known = runner, clock, namespace, known

    async def find(self, query: Query, after: Position | None, limit: int, /) -> Found:
        statement, values = page_of(await self._scope(query.where), query, after, limit + 1)
        async with self._sound() as fetch:
            rows = await fetch(statement, *values)
        shown = 1 if query.select is None else len(query.select)
        items = [_item(query, row, shown) for row in rows[:limit]]
        return Found(items, _position(rows[limit - 1], shown) if items and len(rows) > limit else None)

    async def count(self, prefix: str, where: Filter | None, /) -> int:
        values = Values()
        condition = (await self._scope(where)).condition(prefix, where, values)
        async with self._sound() as fetch:
            return int((await fetch(f"select count(*) from pm_kv kv where {condition}", *values))[0][0])

    async def aggregate(self, wanted: Aggregation, /) -> list[AggregateRow]:
        statement, values = aggregate_statement(await self._scope(wanted.where), wanted)
        async with self._sound() as fetch:
            return [read_row(wanted, row) for row in await fetch(statement, *values)]

    async def explain(self, query: Query, /) -> Explanation:
        scope = await self._scope(query.where)
        statement, values = page_of(scope, query, None, _PAGE)
        rows = await self._runner.fetch(f"explain (format json) {statement}", *values)
        steps = list(read_plan(rows[0][0]))
        used = {index for _, index in steps}
        names = tuple(index.name for index in scope.indexes if index.name in used)
        return Explanation(names, tuple(dict.fromkeys(step for step, _ in steps)))

    async def create_index(self, index: IndexInfo, /) -> None:
        self._known.forget()
        with _readable():
            await _query_indexes.create(self._runner, self._namespace, index)

    async def drop_index(self, name: str, /) -> bool:
        self._known.forget()
        return await _query_indexes.drop(self._runner, self._namespace, name)

    async def list_indexes(self) -> list[IndexInfo]:
        return await _query_indexes.used_by(self._runner, self._namespace)

    async def _scope(self, where: Filter | None) -> Scope:
        indexes: Sequence[IndexInfo] = await self._known.read(self._runner) if where is not None else ()
        return Scope(self._namespace, self._clock.now(), indexes)

    @asynccontextmanager
    async def _sound(self) -> AsyncIterator[Fetch]:
        with _readable():
            async with self._runner.attempt() as fetch:
                yield fetch


@contextmanager
def _readable() -> Iterator[None]:
    """Say what it means that a document cannot be read."""
    try:
        yield
    except _NOT_JSON as error:
        raise StorageCorruptError("a stored value is not valid JSON") from error


def _item(query: Query, row: Any, shown: int) -> tuple[str, Record]:
    codec, *facts = row[shown : shown + 5]
    if query.select is None:
        return row[shown + 5], Record(row[0].encode(), codec, *facts)
    nodes = [MISSING if text is None else msgspec.Raw(text.encode()) for text in row[:shown]]
    return row[shown + 5], Record(msgspec.json.encode(partial(query.select, nodes)), DOCUMENT_TAG, *facts)


def _position(row: Any, shown: int) -> Position:
    key, *terms = row[shown + 5 :]
    found = [order_value(*terms[at : at + 3]) for at in range(0, len(terms), 3)]
    return Position({str(at): value for at, value in enumerate(found) if value is not MISSING}, key)
