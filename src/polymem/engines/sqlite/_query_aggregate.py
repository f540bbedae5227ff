"""Aggregates as one statement: groups as comparables (`contracts._query_values`), results as one JSON object.

The results being JSON, `having` is compiled as any other filter.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from polymem.contracts._query_values import path_text, revealed
from polymem.contracts.filter import Path
from polymem.contracts.query import Aggregate, AggregateRow, Aggregation
from polymem.engines.sqlite._filter import Place, compile_filter, in_document
from polymem.engines.sqlite._query_places import VALUE, Source
from polymem.engines.sqlite._query_sql import Scope, matching


def aggregate_statement(scope: Scope, wanted: Aggregation, source: Source) -> tuple[str, list[Any]]:
    """A row for each group: its comparables, then the results as a JSON object."""
    groups = [f"{_comparable(_place(path), null=True)} as g{at}" for at, path in enumerate(wanted.group_by)]
    names = [f"g{at}" for at in range(len(groups))]
    shown = ", ".join([*groups, f"{_results(wanted)} as results"])
    inner, values = matching(scope, shown, wanted.prefix, wanted.where, source)
    grouped = f"group by {', '.join(str(at + 1) for at in range(len(names)))}" if names else ""
    having, more = compile_filter(wanted.having, "made.results")
    order = f"order by {', '.join(f'{name} nulls last' for name in names)}" if names else ""
    limit = -1 if wanted.limit is None else wanted.limit
    return f"select * from ({inner} {grouped}) as made where {having} {order} limit ?", [*values, *more, limit]


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
    return "count(*)" if wanted.path is None else _RESULTS[wanted.op](_place(wanted.path))


def _place(path: Path) -> Place:
    return in_document(path, VALUE)


def _comparable(at: Place, *, null: bool = False) -> str:
    of_null, nested = "x'ff'" if null else "null", f"cast(char(2) || polymem_canonical({at.node}) as blob)"
    return (
        f"case {at.kind} when 'text' then {at.value} when 'false' then x'00' when 'true' then x'01' "
        f"when 'null' then {of_null} when 'array' then {nested} when 'object' then {nested} else {at.exact} end"
    )


def _added(function: str) -> Callable[[Place], str]:
    """Integers of 64 bits are added natively, in halves that cannot overflow; other numbers by `polymem_exact`."""

    def sql(at: Place) -> str:
        plain = f"{at.kind} is 'integer' and typeof({at.value}) = 'integer'"
        rest = f"{at.kind} is 'real' or ({at.kind} is 'integer' and typeof({at.value}) = 'real')"
        return (
            f"{function}(sum({at.value} >> 32) filter (where {plain}), "
            f"sum({at.value} & 4294967295) filter (where {plain}), "
            f"count(*) filter (where {plain}), polymem_exact({at.node}) filter (where {rest}))"
        )

    return sql


_RESULTS: Final[dict[str, Callable[[Place], str]]] = {
    "count": lambda at: f"count(nullif({at.kind}, 'null'))",
    "sum": _added("polymem_sum"),
    "avg": _added("polymem_avg"),
    "min": lambda at: f"polymem_json(min({_comparable(at)}))",
    "max": lambda at: f"polymem_json(max({_comparable(at)}))",
    "distinct": lambda at: f"count(distinct {_comparable(at)})",
}
