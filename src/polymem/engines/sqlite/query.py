"""Queries over `pm_kv` in SQL; nothing is filtered or ordered in Python."""

import json
from collections.abc import Callable, Sequence
from math import isqrt
from typing import Any, Final, TypeVar

import apsw
import msgspec

from polymem.contracts._filter_match import MISSING
from polymem.contracts._query_values import partial
from polymem.contracts.filter import Filter, Path
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
from polymem.engines.sqlite import _query_indexes
from polymem.engines.sqlite._database import Runner
from polymem.engines.sqlite._filter import in_document
from polymem.engines.sqlite._query_aggregate import aggregate_statement, read_row
from polymem.engines.sqlite._query_choice import MANY, Choice
from polymem.engines.sqlite._query_places import VALUE, Source
from polymem.engines.sqlite._query_sql import Scope, Statement, by_index, by_key, by_sorting, matching
from polymem.errors import StorageCorruptError

Result = TypeVar("Result")
_DENSE: Final = 300
"""Times the root of the page size: from so many matches on, a page in key order is found sooner by looking at every
document in that order than by sorting the matches (they cost alike where matches = root of page size * documents,
a document costing as much as ten entries of an index).
"""
_PAGE: Final = 100
"""The page that is explained."""
_RECORD: Final = "kv.key, cast(kv.value as blob), kv.type, kv.version, kv.created_at, kv.updated_at, kv.expires_at"


class SqliteQuery:
    """One namespace of `pm_kv`. A page is found by keys first; only its documents are then read whole."""

    features = QueryFeatures()

    def __init__(self, runner: Runner, clock: Clock, namespace: str) -> None:
        self._runner, self._clock, self._namespace = runner, clock, namespace

    async def find(self, query: Query, after: Position | None, limit: int, /) -> Found:
        scope = self._scope()

        def find(connection: apsw.Connection) -> Found:
            statements = _statements(connection, scope, query, after, limit)
            hits = _hits(connection, statements, query.offset, limit + 1)
            following = statements[0].position(hits[limit - 1]) if limit and len(hits) > limit else None
            rows = hits[:limit]
            if not statements[0].whole:
                rows = _records(connection, scope.namespace, [row[0] for row in rows], query.select)
            return Found(_items(rows, query.select), following)

        return await self._runner.read(_sound(find))

    async def count(self, prefix: str, where: Filter | None, /) -> int:
        scope = self._scope()

        def count(connection: apsw.Connection) -> int:
            source = _choice(connection, scope, Query(prefix, where)).best
            return int(connection.execute(*matching(scope, "count(*)", prefix, where, source)).get)

        return await self._runner.read(_sound(count))

    async def aggregate(self, wanted: Aggregation, /) -> list[AggregateRow]:
        scope = self._scope()

        def aggregate(connection: apsw.Connection) -> list[AggregateRow]:
            source = _choice(connection, scope, Query(wanted.prefix, wanted.where)).best
            sql, values = aggregate_statement(scope, wanted, source)
            return [read_row(wanted, row) for row in connection.execute(sql, values)]

        return await self._runner.read(_sound(aggregate))

    async def explain(self, query: Query, /) -> Explanation:
        scope = self._scope()

        def explain(connection: apsw.Connection) -> Explanation:
            steps: dict[str, None] = {}
            for statement in _statements(connection, scope, query, None, _PAGE):
                rows = connection.execute(f"explain query plan {statement.sql} limit 1", statement.values)
                steps |= {str(row[3]): None for row in rows}
            plan = tuple(steps)
            names = (index.name for index in _query_indexes.defined(connection))
            return Explanation(tuple(name for name in names if any(name in step for step in plan)), plan)

        return await self._runner.read(_sound(explain))

    async def create_index(self, index: IndexInfo, /) -> None:
        await self._runner.write(_sound(lambda c: _query_indexes.create(c, self._namespace, index)))

    async def drop_index(self, name: str, /) -> bool:
        return await self._runner.write(lambda c: _query_indexes.drop(c, self._namespace, name))

    async def list_indexes(self) -> list[IndexInfo]:
        return await self._runner.read(lambda c: _query_indexes.used_by(c, self._namespace))

    def _scope(self) -> Scope:
        return Scope(self._namespace, self._clock.now())


def _sound(operation: Callable[[apsw.Connection], Result]) -> Callable[[apsw.Connection], Result]:
    """The operation, saying what it means that a document cannot be read."""

    def run(connection: apsw.Connection) -> Result:
        try:
            return operation(connection)
        except apsw.SQLError as error:
            if "malformed JSON" not in str(error):
                raise
            raise StorageCorruptError("a stored value is not valid JSON") from error

    return run


def _choice(connection: apsw.Connection, scope: Scope, query: Query) -> Choice:
    def entries(source: Source, where: Filter | None) -> int:
        return _count_up_to(MANY, connection, scope, Query(query.prefix, where), source)

    return Choice(_query_indexes.defined(connection), query, entries)


def _count_up_to(most: int, connection: apsw.Connection, scope: Scope, query: Query, source: Source) -> int:
    sql, values = matching(scope, "1", query.prefix, query.where, source)
    return int(connection.execute(f"select count(*) from ({sql} limit {most})", values).get)


def _statements(
    connection: apsw.Connection, scope: Scope, query: Query, after: Position | None, limit: int
) -> Sequence[Statement]:
    """What finds the documents, one statement after the other."""
    choice = _choice(connection, scope, query)
    if choice.ordered is not None:
        return list(by_index(scope, query, after, choice.ordered))
    if query.order:
        return [by_sorting(scope, query, after, choice.best)]
    dense = not choice.gives_key_order and _is_dense(connection, scope, query, choice.best, limit)
    return [by_key(scope, query, after, Source() if dense else choice.best, _columns(query.select))]


def _is_dense(connection: apsw.Connection, scope: Scope, query: Query, source: Source, limit: int) -> bool:
    if source.index is None:
        return True
    most = _DENSE * (isqrt(limit) + 1)
    return _count_up_to(most, connection, scope, query, source) == most


def _hits(
    connection: apsw.Connection, statements: Sequence[Statement], offset: int, limit: int
) -> list[tuple[Any, ...]]:
    if len(statements) == 1:
        (only,) = statements
        return connection.execute(f"{only.sql} limit ? offset ?", (*only.values, limit, offset)).fetchall()
    rows: list[tuple[Any, ...]] = []
    for statement in statements:
        left = offset + limit - len(rows)
        rows += connection.execute(f"{statement.sql} limit ?", (*statement.values, left)).fetchall() if left else ()
    return rows[offset:]


def _records(
    connection: apsw.Connection, namespace: str, keys: Sequence[str], select: Sequence[Path] | None
) -> list[tuple[Any, ...]]:
    """The rows of these keys, in this order."""
    # CROSS JOIN: the keys outside, so that each is looked up
    wanted = "from json_each(?) as wanted cross join pm_kv kv on kv.namespace = ? and kv.key = wanted.value"
    rows = connection.execute(f"select {_columns(select)} {wanted}", (json.dumps(keys), namespace))
    found = {row[0]: row for row in rows}
    return [found[key] for key in keys]


def _columns(select: Sequence[Path] | None) -> str:
    if select is None:
        return _RECORD
    return ", ".join([_RECORD.replace(VALUE, "''"), *(in_document(path, VALUE).node for path in select)])


def _items(rows: Sequence[tuple[Any, ...]], select: Sequence[Path] | None) -> list[tuple[str, Record]]:
    if select is None:
        return [(row[0], Record._make(row[1:])) for row in rows]
    return [(row[0], _partial(row, select)) for row in rows]


def _partial(row: Sequence[Any], select: Sequence[Path]) -> Record:
    _, _, _, version, created_at, updated_at, expires_at, *nodes = row
    found = [MISSING if text is None else msgspec.Raw(text.encode()) for text in nodes]
    body = msgspec.json.encode(partial(select, found))
    return Record(body, DOCUMENT_TAG, version, created_at, updated_at, expires_at)
