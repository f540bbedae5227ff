"""Queries as SQL over `pm_kv`, with exactly the answers of the memory engine. The server's planner chooses the indexes."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from polymem.contracts._filter_match import MISSING
from polymem.contracts._filter_values import INT64_MAX, INT64_MIN, number
from polymem.contracts._query_values import finite
from polymem.contracts.filter import And, Compare, Filter, OrderBy, Path
from polymem.contracts.query import IndexInfo, Position, Query
from polymem.core.text import prefix_end
from polymem.engines.postgres._schema_query import LONGEST
from polymem.engines.postgres._traffic import LIVE
from polymem.engines.postgres.filter_sql import (
    Values,
    compile_filter,
    is_number,
    node_at,
    number_parameter,
    path_literal,
)

DOCUMENT: Final = "kv.body::json"
RECORD: Final = "kv.codec, kv.version, kv.created_at, kv.updated_at, kv.expires_at"
NUMBER, STRING, FALSE, TRUE, NESTED, NULL = range(6)
"""The kinds of `pm_value`, in the order of values; a missing value has none."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Which records a query may see, and the indexes there are to find them."""

    namespace: str
    now: int
    indexes: Sequence[IndexInfo] = ()

    def condition(self, prefix: str, where: Filter | None, values: Values) -> str:
        """The documents of a prefix that satisfy a filter."""
        parts = [f"kv.namespace = {values.add(self.namespace, 'text')}", "kv.body is not null"]
        if prefix:
            parts.append(f"kv.key >= {values.add(prefix, 'text')}")
        if prefix and (end := prefix_end(prefix)) is not None:
            parts.append(f"kv.key < {values.add(end, 'text')}")
        parts.append(LIVE.format(values.add(self.now, "bigint")))
        parts += _sargable(where, self.indexes, values)
        if where is not None:
            parts.append(compile_filter(where, DOCUMENT, values))
        return " and ".join(parts)


def page_of(scope: Scope, query: Query, after: Position | None, limit: int) -> tuple[str, Values]:
    """A statement for one page: body or parts, record, key, then kind, number and text of each order value."""
    values = Values()
    condition = scope.condition(query.prefix, query.where, values)
    places = range(len(query.order))
    if after is not None:
        condition += f" and {_beyond(query.order, after, values)}"
    shown = [f"{node_at(path, DOCUMENT)}::text" for path in query.select] if query.select is not None else ["kv.body"]
    columns = [*shown, RECORD, "kv.key", *(f"v{at}.kind, v{at}.n, v{at}.t" for at in places)]
    order = [term for at in places for term in _terms(at, query.order[at][1])]
    sql = (
        f"select {', '.join(columns)} from pm_kv kv {joined(path for path, _ in query.order)} where {condition} "
        f"order by {', '.join([*order, 'kv.key'])} limit {values.add(limit, 'bigint')} "
        f"offset {values.add(query.offset, 'bigint')}"
    )
    return sql, values


def joined(paths: Iterable[Path]) -> str:
    """The values at paths, as v0, v1, ..."""
    each = enumerate(paths)
    return " ".join(f"cross join lateral pm_value({node_at(path, DOCUMENT)}) as v{at}" for at, path in each)


def _terms(at: int, direction: str) -> Iterator[str]:
    yield f"(case v{at}.kind when {NULL} then 1 else 2 * (v{at}.kind is null)::int end)"
    yield f"v{at}.kind {direction}"
    yield f"v{at}.n {direction}"
    yield f'v{at}.t collate "C" {direction}'


def _beyond(order: Sequence[OrderBy], after: Position, values: Values) -> str:
    """The condition that a document comes after a position."""
    sql = f"kv.key > {values.add(after.key, 'text')}"
    for at in range(len(order) - 1, -1, -1):
        past, same = _step(f"v{at}", order[at][1], after.values.get(str(at), MISSING), values)
        sql = f"({past} or ({same} and {sql}))"
    return f"{sql} is true"


def _step(name: str, direction: str, value: Any, values: Values) -> tuple[str, str]:
    """The conditions that a value comes after another one, and that it ties with it."""
    kind, sign = f"{name}.kind", ">" if direction == "asc" else "<"
    if value is MISSING:
        return "false", f"{kind} is null"
    if value is None:
        return f"{kind} is null", f"{kind} = {NULL}"
    rank = _kind_of(value)
    past = f"({kind} is null or {kind} = {NULL} or {kind} {sign} {rank})"
    if rank not in (NUMBER, STRING):
        return past, f"{kind} = {rank}"
    given = values.add(value, "text") if rank == STRING else values.add(number_parameter(number(value)), "numeric")
    term = f'{name}.t collate "C"' if rank == STRING else f"{name}.n"
    return f"({past} or ({kind} = {rank} and {term} {sign} {given}))", f"({kind} = {rank} and {term} = {given})"


def _kind_of(value: Any) -> int:
    if isinstance(value, bool):
        return TRUE if value else FALSE
    if isinstance(value, list):
        return NESTED
    return STRING if isinstance(value, str) else NUMBER


def order_value(kind: int | None, n: Decimal | None, t: str | None) -> Any:
    """The order value that a row of `pm_value` stands for, as a position has it."""
    if n is not None:
        return finite(plain_number(n))
    return _ORDER_VALUES.get(kind, t)


_ORDER_VALUES: Final[dict[int | None, Any]] = {None: MISSING, FALSE: False, TRUE: True, NESTED: [], NULL: None}


def plain_number(n: Decimal) -> float:
    """A whole number within 64 bits as an integer."""
    whole = n.is_finite() and n == n.to_integral_value() and INT64_MIN <= n <= INT64_MAX
    return int(n) if whole else float(n)


def index_columns(paths: Iterable[Path], body: str = "body") -> str:
    """What an index holds of each path."""
    each = (f"pm_indexed_{kind}({body}, {path_literal(path)})" for path in paths for kind in ("string", "number"))
    return ", ".join(f'({column}) collate "C"' if "string" in column else f"({column})" for column in each)


def _sargable(where: Filter | None, indexes: Sequence[IndexInfo], values: Values) -> Iterator[str]:
    """Conditions in the words of the indexes: true of all that is sought, and of little else."""
    indexed = {path for index in indexes for path in index.paths}
    for item in where.items if isinstance(where, And) else (where,):
        if isinstance(item, Compare) and item.path in indexed and item.op in _SOUGHT:
            yield from _places(item, values)


_SOUGHT: Final = {"eq": "=", "lt": "<=", "le": "<=", "gt": ">=", "ge": ">=", "between": "", "in": "", "starts_with": ""}


def _places(item: Compare, values: Values) -> Iterator[str]:
    operand: Any = item.value
    several = list(operand) if isinstance(operand, tuple) else [operand]
    if not several or len({isinstance(one, str) for one in several}) != 1 or not all(map(_is_plain, several)):
        return
    kind = "string" if isinstance(several[0], str) else "number"
    column, other = (f"pm_indexed_{name}(kv.body, {path_literal(item.path)})" for name in _KINDS[kind])
    given = [one[:LONGEST] if isinstance(one, str) else number_parameter(one) for one in several]
    sql_type = "text" if kind == "string" else "numeric"
    compared = f'{column} collate "C"' if kind == "string" else column
    if kind == "number":
        yield f"{other} is null"  # so that an index on several paths is searched by the later ones too
    if item.op == "in":
        yield f"{compared} = any({values.add(given, f'{sql_type}[]')})"
    elif item.op == "between":
        yield f"{compared} >= {values.add(given[0], sql_type)}"
        yield f"{compared} <= {values.add(given[1], sql_type)}"
    elif item.op == "starts_with":
        yield f"{compared} >= {values.add(given[0], sql_type)}"
        if (end := prefix_end(str(given[0]))) is not None:
            yield f"{compared} < {values.add(end, sql_type)}"
    else:
        yield f"{compared} {_SOUGHT[item.op]} {values.add(given[0], sql_type)}"
    if kind == "string":
        yield f"{other} is null"


_KINDS: Final = {"string": ("string", "number"), "number": ("number", "string")}


def _is_plain(operand: object) -> bool:
    return isinstance(operand, str) or is_number(operand)


def read_plan(text: str) -> Iterator[tuple[str, str | None]]:
    """The steps of a plan as text, and the index of each; conditions are left out, for they hold values."""
    waiting = [json.loads(text)[0]["Plan"]]
    while waiting:
        step = waiting.pop(0)
        index = step.get("Index Name")
        place = f" on {step['Relation Name']}" if "Relation Name" in step else ""
        yield f"{step['Node Type']}{f' using {index}' if index else ''}{place}", index
        waiting += step.get("Plans", ())
