"""Filters as SQLite JSON SQL, with exactly the answers of `polymem.contracts.filter.matches`.

Every predicate is 0 or 1, never NULL: `json_extract(...) = ?` is NULL for null and missing, and is joined
by AND to a test of the type that is then 0. The type test is also what keeps `true` from `1` and `"[1]"`
from `[1]`, which `json_extract` conflates. Paths are SQL literals, not parameters, as triggers have none;
values are parameters.

The column holds JSON as text. Qualify it (`kv.value`) if its name is one of json_each's columns.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Final

import apsw

from polymem.contracts.filter import (
    And,
    Compare,
    Filter,
    Json,
    Not,
    Operand,
    Or,
    Path,
    Scalar,
    canonical,
    is_index,
    regex_search,
)
from polymem.core.text import prefix_end

Value = str | int | float
Sql = tuple[str, list[Value]]

BEYOND_INT64: Final = 2.0**63
JSON_EACH_COLUMNS: Final = frozenset(
    ("key", "value", "type", "atom", "id", "parent", "fullkey", "path", "json", "root")
)


def register(connection: apsw.Connection) -> None:
    """Add the SQL functions that compiled filters call; needed once per connection."""
    connection.create_scalar_function("polymem_regex", _regex, 2, deterministic=True)
    connection.create_scalar_function("polymem_canonical", _canonical, 1, deterministic=True)
    # innocuous: the triggers that keep indexes call it
    connection.create_scalar_function("polymem_number", _number, 1, deterministic=True, flags=apsw.SQLITE_INNOCUOUS)


def _regex(*arguments: "apsw.SQLiteValue") -> int:
    pattern, text = arguments
    return int(isinstance(pattern, str) and isinstance(text, str) and regex_search(pattern, text))


def _canonical(*arguments: "apsw.SQLiteValue") -> str | None:
    (text,) = arguments
    return canonical(json.loads(text)) if isinstance(text, str) else None


def _number(*arguments: "apsw.SQLiteValue") -> float | None:
    (text,) = arguments
    # SQLite's own conversion of more than 19 digits is off by one unit now and then.
    return float(text) if isinstance(text, str) else None


def compile_filter(where: Filter | None, column: str = "payload") -> Sql:
    """Give (sql, parameters) of a filter from `filter.parse`; sql is 1 where there is no filter."""
    if column in JSON_EACH_COLUMNS:
        raise ValueError(f"column {column!r} must be qualified with its table")
    return compile_at(where, lambda path: in_document(path, column))


def compile_at(where: Filter | None, place: Callable[[Path], "Place"]) -> Sql:
    """Give (sql, parameters) of a filter on values that are found where `place` says."""
    match where:
        case None:
            return "1", []
        case Compare():
            return _TESTS[where.op](place(where.path), where.value)
        case And(items):
            return _join(" AND ", (compile_at(item, place) for item in items))
        case Or(items):
            return _join(" OR ", (compile_at(item, place) for item in items))
        case Not(item):
            return _negated(compile_at(item, place))
        case _:
            raise TypeError(f"not a filter: {type(where).__name__}")


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _json_paths(path: Path) -> list[str]:
    """Give the SQLite paths of a path: two for each segment of digits, which is a key or an index."""
    readings = [
        (f".{json.dumps(segment)}", f"[{segment}]") if is_index(segment) else (f".{json.dumps(segment)}",)
        for segment in path
    ]
    return ["$" + "".join(steps) for steps in product(*readings)]


def _each_reading(template: str, path: Path, column: str) -> str:
    # At most one reading exists in a document: a node is either an array or an object.
    readings = [template.format(column=column, path=_literal(text)) for text in _json_paths(path)]
    return readings[0] if len(readings) == 1 else f"coalesce({', '.join(readings)})"


def _join(word: str, parts: Iterable[Sql]) -> Sql:
    texts, values = [], []
    for sql, more in parts:
        texts.append(sql)
        values += more
    return (texts[0] if len(texts) == 1 else f"({word.join(texts)})"), values


def _negated(part: Sql) -> Sql:
    return f"NOT ({part[0]})", part[1]


class Place:
    """The SQL for one place: a path in the document, or a member of an array."""

    def __init__(self, kind: str, value: str, exact: str, node: str) -> None:
        self.kind = kind
        self.value = value
        self.exact = exact
        """`value`, with integers beyond 64 bits rounded correctly."""
        self.node = node

    def is_a(self, kind: str) -> str:
        return f"{self.kind} IS '{kind}'"

    def is_number(self) -> str:
        return f"ifnull({self.kind}, '') IN ('integer', 'real')"

    def is_missing(self) -> str:
        return f"{self.kind} IS NULL"

    def compare(self, sign: str, operand: Value) -> Sql:
        if isinstance(operand, str):
            return f"({self.value} {sign} ? AND {self.is_a('text')})", [operand]
        value = self.exact if abs(operand) >= BEYOND_INT64 else self.value
        return f"({value} {sign} ? AND {self.is_number()})", [operand]

    def equals(self, operand: Scalar | Json) -> Sql:
        if isinstance(operand, Json):
            kind = "array" if operand.text.startswith("[") else "object"
            found = f"CASE WHEN {self.is_a(kind)} THEN polymem_canonical({self.node}) = ? ELSE 0 END"
            return found, [operand.text]
        if operand is None or isinstance(operand, bool):
            return f"({self.is_a(json.dumps(operand))})", []
        return self.compare("=", operand)

    def is_one_of(self, operands: Sequence[Scalar | Json]) -> Sql:
        """Numbers and strings travel as one parameter each, the rest as single tests."""
        plain = [item for item in operands if _travels_in_list(item)]
        parts = [self.equals(item) for item in operands if not _travels_in_list(item)]
        if texts := [item for item in plain if isinstance(item, str)]:
            parts.append((f"({self.value} IN {_LIST} AND {self.is_a('text')})", [json.dumps(texts)]))
        if numbers := [item for item in plain if not isinstance(item, str)]:
            parts.append((f"({self.value} IN {_LIST} AND {self.is_number()})", [json.dumps(numbers)]))
        return _join(" OR ", parts) if parts else ("0", [])


_LIST: Final = "(SELECT value FROM json_each(?))"
_MEMBER: Final = Place(
    "e.type",
    "e.value",
    # An integer beyond 64 bits in json_each has lost its digits; its text is found again by its position.
    "CASE WHEN e.type IS 'integer' AND typeof(e.value) = 'real' THEN polymem_number(e.json -> e.fullkey) "
    "ELSE e.value END",
    "e.value",
)


def _travels_in_list(item: Scalar | Json) -> bool:
    if isinstance(item, str):
        return True
    return isinstance(item, int | float) and not isinstance(item, bool) and abs(item) < BEYOND_INT64


def in_document(path: Path, column: str) -> Place:
    """The place of a path in the documents of a column."""
    templates = "json_type({column}, {path})", "json_extract({column}, {path})", "({column} -> {path})"
    kind, value, node = (_each_reading(template, path, column) for template in templates)
    big = f"{kind} IS 'integer' AND typeof({value}) = 'real'"
    return Place(kind, value, f"CASE WHEN {big} THEN polymem_number({node}) ELSE {value} END", node)


def _scalar(operand: Operand) -> Scalar | Json:
    assert not isinstance(operand, tuple)  # noqa: S101 - parse made it so
    return operand


def _bound(operand: Operand) -> Value:
    assert isinstance(operand, Value)  # noqa: S101 - parse made it so
    return operand


def _several(operand: Operand) -> tuple[Scalar | Json, ...]:
    assert isinstance(operand, tuple)  # noqa: S101 - parse made it so
    return operand


def _sign(sign: str) -> Callable[[Place, Operand], Sql]:
    return lambda at, operand: at.compare(sign, _bound(operand))


def _between(at: Place, operand: Operand) -> Sql:
    low, high = _several(operand)
    return _join(" AND ", (at.compare(">=", _bound(low)), at.compare("<=", _bound(high))))


def _exists(at: Place, operand: Operand) -> Sql:
    return f"({'NOT ' if operand else ''}{at.is_missing()})", []


def _contains(at: Place, operand: Operand) -> Sql:
    member, values = _MEMBER.equals(_scalar(operand))
    found = f"CASE WHEN {at.is_a('array')} THEN EXISTS (SELECT 1 FROM json_each({at.node}) AS e WHERE {member})"
    if isinstance(operand, str):
        return f"{found} WHEN {at.is_a('text')} THEN instr({at.value}, ?) > 0 ELSE 0 END", [*values, operand]
    return f"{found} ELSE 0 END", values


def _starts_with(at: Place, operand: Operand) -> Sql:
    """Write the prefix as a range, which an index can serve."""
    prefix = str(_bound(operand))
    after = prefix_end(prefix)
    least = at.compare(">=", prefix)
    return least if after is None else _join(" AND ", (least, at.compare("<", after)))


def _matches_regex(at: Place, operand: Operand) -> Sql:
    return f"CASE WHEN {at.is_a('text')} THEN polymem_regex(?, {at.value}) ELSE 0 END", [_bound(operand)]


_TESTS: Final[dict[str, Callable[[Place, Operand], Sql]]] = {
    "eq": lambda at, operand: at.equals(_scalar(operand)),
    "ne": lambda at, operand: _negated(at.equals(_scalar(operand))),
    "lt": _sign("<"),
    "le": _sign("<="),
    "gt": _sign(">"),
    "ge": _sign(">="),
    "in": lambda at, operand: at.is_one_of(_several(operand)),
    "not_in": lambda at, operand: _negated(at.is_one_of(_several(operand))),
    "exists": _exists,
    "contains": _contains,
    "starts_with": _starts_with,
    "between": _between,
    "regex": _matches_regex,
}


def condition_on(where: Filter | None, column: str) -> Sql:
    """A filter as a condition to put after AND; one that is always true where there is no filter."""
    return ("1", []) if where is None else compile_filter(where, column)
