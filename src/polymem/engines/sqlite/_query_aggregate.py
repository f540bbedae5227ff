"""Aggregates as one statement: groups as comparables (`contracts._query_values`), results as one JSON object.

The results being JSON, `having` is compiled as any other filter.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from polymem.contracts._query_values import path_text, revealed
from polymem.contracts.filter import Path
from polymem.contracts.query import Aggregate, AggregateRow, Aggregation
from polymem.engines.sqlite._filter import _exact as exact
from polymem.engines.sqlite._filter import _node as node_at
from polymem.engines.sqlite._filter import _type as json_type
from polymem.engines.sqlite._filter import compile_filter, extract
from polymem.engines.sqlite._query_sql import VALUE, Scope


def aggregate_statement(scope: Scope, wanted: Aggregation, hint: str) -> tuple[str, list[Any]]:
    """A row for each group: its comparables, then the results as a JSON object."""
    condition, values = scope.condition(wanted.prefix, wanted.where)
    groups = [f"{_comparable(path, null=True)} as g{at}" for at, path in enumerate(wanted.group_by)]
    names = [f"g{at}" for at in range(len(groups))]
    shown = ", ".join([*groups, f"{_results(wanted)} as results"])
    grouped = f"group by {', '.join(str(at + 1) for at in range(len(names)))}" if names else ""
    having, more = compile_filter(wanted.having, "made.results")
    inner = f"select {shown} from pm_kv kv {hint} where {condition} {grouped}"
    order = f"order by {', '.join(f'{name} nulls last' for name in names)}" if names else ""
    limit = -1 if wanted.limit is None else wanted.limit
    return f"select * from ({inner}) as made where {having} {order} limit ?", [*values, *more, limit]


def read_row(wanted: Aggregation, row: Sequence[Any]) -> AggregateRow:
    """The row of a group; a NULL comparable is a missing value."""
    *group, results = row
    named = zip(map(path_text, wanted.group_by), group, strict=True)
    return AggregateRow({path: revealed(value) for path, value in named if value is not None}, json.loads(results))


def _results(wanted: Aggregation) -> str:
    # names are plain identifiers
    members = [f"'\"{name}\":' || {_result(result)}" for name, result in wanted.results.items()]
    return " || ".join(["'{'", " || ',' || ".join(members) or "''", "'}'"])


def _result(wanted: Aggregate) -> str:
    return "count(*)" if wanted.path is None else _RESULTS[wanted.op](wanted.path)


def _comparable(path: Path, *, null: bool = False) -> str:
    of_null = "x'ff'" if null else "null"
    return (
        f"case {json_type(path, VALUE)} when 'text' then {extract(path, VALUE)} when 'false' then x'00' "
        f"when 'true' then x'01' when 'null' then {of_null} "
        f"when 'array' then {_nested(path)} when 'object' then {_nested(path)} else {exact(path, VALUE)} end"
    )


def _nested(path: Path) -> str:
    return f"cast(char(2) || polymem_canonical({node_at(path, VALUE)}) as blob)"


def _added(function: str) -> Callable[[Path], str]:
    """Integers of 64 bits are added natively, in halves that cannot overflow; other numbers by `polymem_exact`."""

    def sql(path: Path) -> str:
        kind, value, node = json_type(path, VALUE), extract(path, VALUE), node_at(path, VALUE)
        plain = f"{kind} is 'integer' and typeof({value}) = 'integer'"
        rest = f"{kind} is 'real' or ({kind} is 'integer' and typeof({value}) = 'real')"
        return (
            f"{function}(sum({value} >> 32) filter (where {plain}), sum({value} & 4294967295) filter (where {plain}), "
            f"count(*) filter (where {plain}), polymem_exact({node}) filter (where {rest}))"
        )

    return sql


_RESULTS: Final[dict[str, Callable[[Path], str]]] = {
    "count": lambda path: f"count(nullif({json_type(path, VALUE)}, 'null'))",
    "sum": _added("polymem_sum"),
    "avg": _added("polymem_avg"),
    "min": lambda path: f"polymem_json(min({_comparable(path)}))",
    "max": lambda path: f"polymem_json(max({_comparable(path)}))",
    "distinct": lambda path: f"count(distinct {_comparable(path)})",
}
