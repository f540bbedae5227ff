"""Queries as SQL over `pm_kv` and the tables of its indexes, with exactly the answers of the memory engine.

Of several bounds on one value SQLite seeks the one that is written first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from polymem.contracts._filter_match import MISSING
from polymem.contracts.filter import Filter, OrderBy
from polymem.contracts.query import Position, Query
from polymem.core.text import prefix_end
from polymem.engines.sqlite._filter import compile_at
from polymem.engines.sqlite._query_indexes import is_document
from polymem.engines.sqlite._query_places import NESTED, Source, pair_of, sorting_pair, standing, turned, value_at

Sql = tuple[str, list[Any]]


@dataclass(frozen=True, slots=True)
class Statement:
    """Finds keys, each with a pair for every order value, in order; LIMIT comes behind."""

    sql: str
    values: list[Any]
    directions: Sequence[str] = ()
    """How the rank of each pair is turned."""
    whole: bool = False
    """Behind the keys are the records."""

    def position(self, row: Sequence[Any]) -> Position:
        """Where a document stands, given its row."""
        pairs = [(turned(row[1 + 2 * at], way), row[2 + 2 * at]) for at, way in enumerate(self.directions)]
        values = {str(at): value_at(*pair) for at, pair in enumerate(pairs)}
        return Position({at: value for at, value in values.items() if value is not MISSING}, row[0])


@dataclass(frozen=True, slots=True)
class Scope:
    """Which records a query may see."""

    namespace: str
    now: int

    def condition(self, source: Source, prefix: str, where: Filter | None) -> Sql:
        """The documents of a prefix that satisfy a filter."""
        table = source.table
        texts, values = [f"{table}.namespace = ?"], [self.namespace]
        if prefix:
            texts.append(f"{table}.key >= ?")
            values.append(prefix)
        if prefix and (end := prefix_end(prefix)) is not None:
            texts.append(f"{table}.key < ?")
            values.append(end)
        sql, more = compile_at(where, source.place)
        texts += [is_document("kv.type")] if source.index is None else []
        texts += [f"({table}.expires_at is null or {table}.expires_at > ?)", sql]
        return " and ".join(texts), [*values, self.now, *more]


def matching(scope: Scope, shown: str, prefix: str, where: Filter | None, source: Source) -> Sql:
    """Something of all documents of a prefix that satisfy a filter."""
    condition, values = scope.condition(source, prefix, where)
    return f"select {shown} from {source.tables(condition, shown)} where {condition}", values


def by_key(scope: Scope, query: Query, after: Position | None, source: Source, record: str) -> Statement:
    """Documents in key order; without an index with their records, as their rows are read anyway."""
    condition, values = scope.condition(source, query.prefix, query.where)
    key = f"{source.table}.key"
    if after is not None:
        condition, values = f"{key} > ? and {condition}", [after.key, *values]
    whole = source.index is None
    sql = f"select {record if whole else key} from {source.tables(condition)} where {condition} order by {key}"
    return Statement(sql, values, whole=whole)


def by_sorting(scope: Scope, query: Query, after: Position | None, source: Source) -> Statement:
    """Documents in any order."""
    condition, values = scope.condition(source, query.prefix, query.where)
    if after is not None:
        beyond, more = _beyond(query.order, after, source)
        condition, values = f"{condition} and {beyond}", [*values, *more]
    shown, terms = [f"{source.table}.key"], []
    for path, direction in query.order:
        rank, scalar = sorting_pair(source.place(path), direction)
        shown += [rank, scalar]
        terms += [rank, f"{scalar} {direction}"]
    columns, order = ", ".join(shown), ", ".join([*terms, f"{source.table}.key"])
    sql = f"select {columns} from {source.tables(condition, columns)} where {condition} order by {order}"
    return Statement(sql, values, [direction for _, direction in query.order])


def _beyond(order: Sequence[OrderBy], after: Position, source: Source) -> Sql:
    """The condition that a document comes after a position."""
    sql = f"{source.table}.key > ?"
    values: list[Any] = [after.key]
    for at, (path, direction) in reversed([*enumerate(order)]):
        rank, scalar = sorting_pair(source.place(path), direction)
        at_rank, at_scalar = standing(after.values.get(str(at), MISSING))
        for term, sign, bound in (
            (scalar, ">" if direction == "asc" else "<", at_scalar),
            (rank, ">", turned(at_rank, direction)),
        ):
            sql, values = f"({term} {sign} ? or ({term} = ? and {sql}))", [bound, bound, *values]
    return sql, values


def by_index(scope: Scope, query: Query, after: Position | None, source: Source) -> Iterator[Statement]:
    """Documents in the order of one field, read off an index: one statement after the other."""
    path, direction = query.order[0]
    condition, values = scope.condition(source, query.prefix, query.where)
    rank, scalar = pair_of(source.place(path))
    key = f"{source.table}.key"
    for part, bounds, terms in _stretches(rank, scalar, key, direction, after):
        where = f"{part} and {condition}"
        columns = f"{key}, {rank}, {scalar}"
        sql = f"select {columns} from {source.tables(where)} where {where} order by {terms}"
        yield Statement(sql, [*bounds, *values], ("asc",))


Stretch = tuple[str, list[Any], str]
"""A part of the index: a condition, its parameters, the order."""


def _stretches(rank: str, scalar: str, key: str, direction: str, after: Position | None) -> Iterator[Stretch]:
    """What is left after a position. As null and missing always come last, a descending order is not one stretch."""
    upwards, downwards = f"{rank}, {scalar}, {key}", f"{rank} desc, {scalar} desc, {key}"
    at_rank, at_scalar = (None, 0) if after is None else standing(after.values.get("0", MISSING))
    falling = direction == "desc" and (at_rank is None or at_rank <= NESTED)
    if after is not None:
        sign = "<" if falling else ">"
        beyond = f"{rank} = ? and {scalar} {sign}= ? and ({scalar} {sign} ? or {key} > ?)"
        yield beyond, [at_rank, at_scalar, at_scalar, after.key], downwards if falling else upwards
    if falling:
        yield f"{rank} < ?", [NESTED + 1 if at_rank is None else at_rank], downwards
    yield f"{rank} > ?", [NESTED if falling else -1 if at_rank is None else at_rank], upwards
