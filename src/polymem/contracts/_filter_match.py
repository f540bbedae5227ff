"""The oracle: what a filter and an order mean, in plain Python. Every engine must give these answers."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, TypeGuard

from polymem.contracts._filter_ast import And, Compare, Filter, Not, Or
from polymem.contracts._filter_regex import regex_search
from polymem.contracts._filter_values import (
    Json,
    Operand,
    Path,
    canonical,
    is_index,
    number,
    parse_path,
    refuse,
)

Direction: TypeAlias = Literal["asc", "desc"]
OrderBy: TypeAlias = tuple[Path, Direction]


class _Missing:
    """What a path that leads nowhere leads to."""


MISSING: Final = _Missing()


def matches(where: Filter | None, document: object) -> bool:
    """Whether a decoded JSON document satisfies the filter (no filter: yes)."""
    match where:
        case None:
            return True
        case Compare():
            return _TESTS[where.op](find(document, where.path), where.value)
        case And(items):
            return all(matches(item, document) for item in items)
        case Or(items):
            return any(matches(item, document) for item in items)
        case Not(item):
            return not matches(item, document)
        case _:
            return refuse((), "a filter")


def find(document: object, path: Path) -> object:
    """Follow a path; MISSING if it leads nowhere."""
    for segment in path:
        if isinstance(document, dict) and segment in document:
            document = document[segment]
        elif isinstance(document, list) and is_index(segment) and int(segment) < len(document):
            document = document[int(segment)]
        else:
            return MISSING
    return document


def _equal(value: object, operand: Operand) -> bool:
    if isinstance(operand, Json):
        return isinstance(value, dict | list) and canonical(value) == operand.text
    if operand is None or isinstance(operand, bool):
        return value is operand
    if isinstance(operand, str):
        return isinstance(value, str) and value == operand
    return _is_number(value) and number(value) == operand


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[object, Operand], bool]:
    def test(value: object, operand: Operand) -> bool:
        if isinstance(operand, str):
            return isinstance(value, str) and compare(value, operand)
        return _is_number(value) and compare(number(value), operand)

    return test


_at_least, _at_most = _ordered(operator.ge), _ordered(operator.le)


def _between(value: object, operand: Operand) -> bool:
    low, high = _several(operand)
    return _at_least(value, low) and _at_most(value, high)


def _several(operand: Operand) -> Sequence[Any]:
    assert isinstance(operand, tuple)  # noqa: S101 - parse made it so
    return operand


def _in(value: object, operand: Operand) -> bool:
    return any(_equal(value, choice) for choice in _several(operand))


def _contains(value: object, operand: Operand) -> bool:
    if isinstance(value, str):
        return isinstance(operand, str) and operand in value
    return isinstance(value, list) and any(_equal(item, operand) for item in value)


_TESTS: Final[dict[str, Callable[[object, Operand], bool]]] = {
    "eq": _equal,
    "ne": lambda value, operand: not _equal(value, operand),
    "lt": _ordered(operator.lt),
    "le": _at_most,
    "gt": _ordered(operator.gt),
    "ge": _at_least,
    "in": _in,
    "not_in": lambda value, operand: not _in(value, operand),
    "exists": lambda value, operand: (value is not MISSING) is operand,
    "contains": _contains,
    "starts_with": lambda value, operand: isinstance(value, str) and value.startswith(str(operand)),
    "between": _between,
    "regex": lambda value, operand: isinstance(value, str) and regex_search(str(operand), value),
}


def parse_order(order: object) -> tuple[OrderBy, ...]:
    """Check `[(path, "asc" | "desc"), ...]`; StorageDataError names `order_by`."""
    if isinstance(order, str) or not isinstance(order, Sequence):
        refuse((), 'a list of (path, "asc" or "desc")', field="order_by")
    return tuple(_order_by(item) for item in order)


def _order_by(item: object) -> OrderBy:
    match item:
        case (path, "asc" | "desc" as direction):
            return parse_path(path, "order_by"), direction
        case _:
            return refuse((), 'pairs of a path and "asc" or "desc"', field="order_by")


@dataclass(frozen=True, slots=True)
class _Descending:
    value: Any

    def __lt__(self, other: "_Descending") -> bool:
        return bool(other.value < self.value)


def sort_key(document: object, order: Sequence[OrderBy], key: str) -> tuple[Any, ...]:
    """Sort by this; `order` comes from `parse_order`, `key` is the id and always last."""
    return (*(_sort_part(find(document, path), direction) for path, direction in order), key)


def _sort_part(value: object, direction: Direction) -> tuple[int, Any]:
    if value is MISSING or value is None:
        return (2 if value is MISSING else 1), ()
    typed = _typed(value)
    return 0, (_Descending(typed) if direction == "desc" else typed)


def _typed(value: Any) -> tuple[int, Any]:
    if isinstance(value, bool):
        return 2, value
    if isinstance(value, int | float):
        return 0, number(value)
    return (1, value) if isinstance(value, str) else (3, ())
