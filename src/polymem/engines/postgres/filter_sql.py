"""Filters as PostgreSQL SQL over JSON, with exactly the answers of `polymem.contracts.filter.matches`.

For the cells, and for statements of your own over tables that hold JSON (`adapters` searches turns and facts so). The
functions that start with `pm_` are made by `_schema_query`. Every test is `is true`, so never null. Paths are literals,
values are parameters.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal
from math import isfinite
from typing import Any, Final, TypeGuard

from polymem.contracts.filter import And, Compare, Filter, Json, Not, Operand, Or, Path, Scalar, is_index
from polymem.core.codec import encode_json
from polymem.engines.postgres._regex import to_server

_EXACT: Final = 2.0**53
"""Below it a float and its shortest decimal form lie between the same integers."""

_MOST_CONTAINED: Final = 32
"""Of more values than these one test of all is cheaper than one for each."""


class Values(list[Any]):
    """The parameters of a statement, in order."""

    def add(self, value: Any, kind: str) -> str:
        """Note one more; how the statement refers to it."""
        self.append(value)
        return f"${len(self)}::{kind}"


def compile_filter(
    where: Filter | None, document: str, values: Values, *, jsonb: str | None = None, at: Path = ()
) -> str:
    """The condition, never null; `document` is SQL of type json. Adds to `values`.

    `jsonb` is SQL of what the document has `at` a path, its whole unless told, as jsonb, which must be an object: what
    equals a scalar is asked of that, since an index (GIN) can answer it and no text is parsed.
    """
    match where:
        case None:
            return "true"
        case Compare():
            contained = None if jsonb is None else _contained(where, jsonb, at, values)
            return contained or f"({_TESTS[where.op](_At(node_at(where.path, document)), where.value, values)} is true)"
        case And(items):
            return f"({' and '.join(compile_filter(item, document, values, jsonb=jsonb, at=at) for item in items)})"
        case Or(items):
            return f"({' or '.join(compile_filter(item, document, values, jsonb=jsonb, at=at) for item in items)})"
        case Not(item):
            return f"(not {compile_filter(item, document, values, jsonb=jsonb, at=at)})"
        case _:
            raise TypeError(f"not a filter: {type(where).__name__}")


def _contained(where: Compare, jsonb: str, at: Path, values: Values) -> str | None:
    """What equals scalars, as containment, where that means exactly the same; else None.

    It does where no segment could lead into an array, and below 2**53, from where on jsonb forgets what a float was.
    """
    inside = where.path[len(at) :]
    if where.op not in ("eq", "ne", "in", "not_in") or any(map(is_index, where.path)):
        return None
    if where.path[: len(at)] != at or not inside:
        return None
    operands = where.value if isinstance(where.value, tuple) else (where.value,)
    if not 1 <= len(operands) <= _MOST_CONTAINED or not all(map(_is_alike, operands)):
        return None
    tests = (f"{jsonb} @> {values.add(_document(inside, operand), 'jsonb')}" for operand in operands)
    return f"({'not ' if where.op in ('ne', 'not_in') else ''}({' or '.join(tests)}))"


def _is_alike(operand: Scalar | Json) -> bool:
    """Whether it equals the same values in jsonb."""
    return not isinstance(operand, Json) and (not is_number(operand) or abs(operand) < _EXACT)


def _document(path: Path, operand: Any) -> str:
    """The JSON of an object with nothing but a value at a path."""
    for segment in reversed(path):
        operand = {segment: operand}
    return encode_json(operand).decode()


def node_at(path: Path, document: str) -> str:
    """The JSON at a path, null where it leads nowhere. The server counts "-1" and "01" as places of an array too."""
    found = f"({document} #> {path_literal(path)})"
    for at, segment in enumerate(path):
        if _looks_like_index(segment) and not is_index(segment):
            parent = f"({document} #> {path_literal(path[:at])})"
            found = f"(case json_typeof{parent} when 'object' then {found} end)"
    return found


def path_literal(path: Path) -> str:
    escaped = (segment.replace("\\", "\\\\").replace('"', '\\"').replace("'", "''") for segment in path)
    return "'{" + ",".join(f'"{segment}"' for segment in escaped) + "}'"


def number_parameter(value: float) -> Decimal:
    """A number as `pm_number` gives it."""
    if isinstance(value, float) and abs(value) >= _EXACT and isfinite(value):
        return Decimal(int(value))
    return Decimal(repr(value))


def _looks_like_index(segment: str) -> bool:
    stripped = segment.lstrip(" \t\n\r\f\v")
    return (stripped[1:] if stripped[:1] in ("+", "-") else stripped).isdigit()


class _At:
    """A place: the JSON there, its type and its text."""

    def __init__(self, node: str) -> None:
        self.node, self.kind, self.text = node, f"json_typeof({node})", f"({node} #>> '{{}}')"

    def compare(self, sign: str, operand: Any, values: Values) -> str:
        if isinstance(operand, str):
            given = values.add(operand, "text")
            return f"({self.kind} = 'string' and {self.text} collate \"C\" {sign} {given})"
        given = values.add(number_parameter(operand), "numeric")
        return f"(case {self.kind} when 'number' then pm_number({self.text}) {sign} {given} end)"

    def equals(self, operand: Scalar | Json, values: Values) -> str:
        if isinstance(operand, Json):
            kind = "array" if operand.text.startswith("[") else "object"
            given = values.add(operand.text, "text")
            return f"(case {self.kind} when '{kind}' then pm_canonical({self.node}) = {given} end)"
        if operand is None:
            return f"({self.kind} = 'null')"
        if isinstance(operand, bool):
            return f"({self.kind} = 'boolean' and {self.text} = '{str(operand).lower()}')"
        return self.compare("=", operand, values)

    def is_one_of(self, operands: Sequence[Scalar | Json], values: Values) -> str:
        """Numbers and strings travel as one parameter each, the rest as single tests."""
        texts = [item for item in operands if isinstance(item, str)]
        numbers = [number_parameter(item) for item in operands if is_number(item)]
        parts = [self.equals(i, values) for i in operands if not isinstance(i, str) and not is_number(i)]
        if texts:
            parts.append(f"({self.kind} = 'string' and {self.text} = any({values.add(texts, 'text[]')}))")
        if numbers:
            given = values.add(numbers, "numeric[]")
            parts.append(f"(case {self.kind} when 'number' then pm_number({self.text}) = any({given}) end)")
        return f"({' or '.join(f'{part} is true' for part in parts) or 'false'})"


def is_number(item: object) -> TypeGuard[float]:
    return isinstance(item, int | float) and not isinstance(item, bool)


_Test = Callable[[_At, Any, Values], str]


def _contains(at: _At, operand: Any, values: Values) -> str:
    member = _At("item.value").equals(operand, values)
    found = f"exists (select from json_array_elements({at.node}) as item(value) where {member})"
    text = (
        f"when 'string' then strpos({at.text}, {values.add(operand, 'text')}) > 0" if isinstance(operand, str) else ""
    )
    return f"(case {at.kind} when 'array' then {found} {text} end)"


def _between(at: _At, operand: Any, values: Values) -> str:
    low, high = operand
    return f"({at.compare('>=', low, values)} and {at.compare('<=', high, values)})"


def _sign(sign: str) -> _Test:
    return lambda at, operand, values: at.compare(sign, operand, values)


def _not(test: _Test) -> _Test:
    return lambda at, operand, values: f"({test(at, operand, values)} is not true)"


def _string(condition: str, given: Callable[[str], str] = str) -> _Test:
    """A test of strings only."""

    def test(at: _At, operand: Operand, values: Values) -> str:
        made = condition.format(text=at.text, given=values.add(given(str(operand)), "text"))
        return f"({at.kind} = 'string' and {made})"

    return test


_TESTS: Final[dict[str, _Test]] = {
    "eq": _At.equals,
    "ne": _not(_At.equals),
    "lt": _sign("<"),
    "le": _sign("<="),
    "gt": _sign(">"),
    "ge": _sign(">="),
    "in": _At.is_one_of,
    "not_in": _not(_At.is_one_of),
    "exists": lambda at, operand, _: f"({at.node} is {'not ' if operand else ''}null)",
    "contains": _contains,
    "starts_with": _string("starts_with({text}, {given})"),
    "between": _between,
    "regex": _string('{text} collate "C" ~ {given}', to_server),
}
