"""Aggregates as one statement: groups as the values of `pm_value`, results as one JSON object.

The results being JSON, `having` is compiled as any other filter.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from polymem.contracts._query_values import path_text
from polymem.contracts.filter import Path
from polymem.contracts.query import AggregateRow, Aggregation
from polymem.engines.postgres._query_sql import DOCUMENT, FALSE, NESTED, NULL, NUMBER, STRING, TRUE, Scope, plain_number
from polymem.engines.postgres.filter_sql import Values, compile_filter, node_at

_WIDE: Final = "('0.' || repeat('0', 1100))::numeric"
"""Added to a number, it gives a quotient so many digits that its nearest float is that of the exact one."""


def aggregate_statement(scope: Scope, wanted: Aggregation) -> tuple[str, Values]:
    """A row for each group: kind, number and text of each group value, then the results as a JSON object."""
    values = Values()
    condition = scope.condition(wanted.prefix, wanted.where, values)
    paths = list(dict.fromkeys([*wanted.group_by, *(r.path for r in wanted.results.values() if r.path is not None)]))
    names = {path: f"v{at}" for at, path in enumerate(paths)}
    groups = [f"{names[path]}_{part}" for path in wanted.group_by for part in ("kind", "n", "t")]
    shown = ", ".join([*groups, f"{_results(wanted, names)} as results"])
    inner = f"select {shown} from ({_documents(condition, names)}) as docs"
    if groups:
        inner += f" group by {', '.join(groups)}"
    having = compile_filter(wanted.having, "made.results", values)
    order = ", ".join(
        f'{group} collate "C" nulls last' if group.endswith("_t") else f"{group} nulls last" for group in groups
    )
    limit = f" limit {values.add(wanted.limit, 'bigint')}" if wanted.limit is not None else ""
    return f"select * from ({inner}) as made where {having}{f' order by {order}' if order else ''}{limit}", values


def read_row(wanted: Aggregation, row: Sequence[Any]) -> AggregateRow:
    *group, results = row
    found = ((path, *group[3 * at : 3 * at + 3]) for at, path in enumerate(wanted.group_by))
    revealed = {path_text(path): _revealed(kind, n, t) for path, kind, n, t in found if kind is not None}
    return AggregateRow(revealed, json.loads(results))


def _revealed(kind: int, n: Any, t: Any) -> Any:
    if kind == NUMBER:
        return plain_number(n)
    if kind == NESTED:
        return json.loads(t)
    return t if kind == STRING else {FALSE: False, TRUE: True, NULL: None}[kind]


def _documents(condition: str, names: dict[Path, str]) -> str:
    """Every document's values; nested ones as canonical text."""
    shown, joins = ["1"], []
    for path, name in names.items():
        node = node_at(path, DOCUMENT)
        joins.append(
            f"cross join lateral (select found.*, {node} as node from pm_value({node}) as found offset 0) as {name}"
        )
        nested = f"case {name}.kind when {NESTED} then pm_canonical({name}.node) else {name}.t end"
        shown.append(
            f"{name}.kind as {name}_kind, {name}.n as {name}_n, {nested} as {name}_t, {name}.literal as {name}_literal"
        )
    return f"select {', '.join(shown)} from pm_kv kv {' '.join(joins)} where {condition}"


def _results(wanted: Aggregation, names: dict[Path, str]) -> str:
    made = (
        f"'{name}', ({'count(*)::text' if result.path is None else _RESULTS[result.op](names[result.path])})::json"
        for name, result in wanted.results.items()  # names are plain identifiers
    )
    return f"json_build_object({', '.join(made)})"


def _sum(v: str) -> str:
    return f"case when {_of_floats(v, 'count(*)')} = 0 then {_integers(v)}::text else pm_real({_integers(v)} + {_floats(v)}) end"


def _avg(v: str) -> str:
    numbers = f"count(*) filter (where {v}_kind = {NUMBER})"
    total = f"(coalesce({_of_integers(v, f'sum({v}_literal::numeric)')}, 0) + coalesce({_floats(v)}, 0) + {_WIDE})"
    return f"case when {numbers} = 0 then 'null' else pm_real({total} / nullif({numbers}, 0)) end"


def _integers(v: str) -> str:
    return f"coalesce({_of_integers(v, f'sum({v}_literal::numeric)')}, 0)"


def _floats(v: str) -> str:
    return _of_floats(v, f"sum(pm_exact({v}_literal::float8))")


def _of_integers(v: str, figure: str) -> str:
    return f"{figure} filter (where {v}_kind = {NUMBER} and {v}_literal !~ '[.eE]')"


def _of_floats(v: str, figure: str) -> str:
    return f"{figure} filter (where {v}_kind = {NUMBER} and {v}_literal ~ '[.eE]')"


def _extreme(function: str) -> Callable[[str], str]:
    def sql(v: str) -> str:
        of = f"filter (where {v}_kind = "
        ranked = [
            (NUMBER, f"pm_plain({function}({v}_n) {of}{NUMBER}))"),
            (STRING, f'to_json({function}({v}_t collate "C") {of}{STRING}))::text'),
            (FALSE, "'false'"),
            (TRUE, "'true'"),
            (NESTED, f'{function}({v}_t collate "C") {of}{NESTED})'),
        ]
        cases = (f"when {kind} then {result}" for kind, result in ranked)
        return f"case {function}({v}_kind) filter (where {v}_kind < {NULL}) {' '.join(cases)} else 'null' end"

    return sql


_RESULTS: Final[dict[str, Callable[[str], str]]] = {
    "count": lambda v: f"count(*) filter (where {v}_kind < {NULL})::text",
    "sum": _sum,
    "avg": _avg,
    "min": _extreme("min"),
    "max": _extreme("max"),
    "distinct": lambda v: f"count(distinct row({v}_kind, {v}_n, {v}_t)) filter (where {v}_kind < {NULL})::text",
}
"""SQL of each result as JSON text, given the name of its value."""
