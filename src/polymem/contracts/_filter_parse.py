"""From mappings to filters, limits, and the fingerprint that ties a cursor to its filter."""

import hashlib
import json
from collections.abc import Mapping
from typing import Final, NoReturn

from polymem.contracts._filter_ast import OPS, And, Compare, Filter, Not, Or
from polymem.contracts._filter_values import MAX_DEPTH, Path, parse_path, refuse

MAX_COMPARISONS: Final = 256


def parse(where: Filter | Mapping[str, object] | None) -> Filter | None:
    """Check a filter in either form; None and {} mean no filter.

    Raises StorageDataError whose `field` is `where` and the path to blame.
    """
    if where is None:
        return None
    found = where if isinstance(where, Filter) else _mapping(where, 0)
    if found is not None:
        _check_size(found)
    return found


def _mapping(where: object, depth: int) -> Filter | None:
    if not isinstance(where, Mapping):
        refuse((), "a filter: F(...) comparisons or a mapping")
    if depth > MAX_DEPTH:
        _too_big()
    found = [_entry(key, value, depth) for key, value in where.items()]
    return _join(And, found) if found else None


def _entry(key: object, value: object, depth: int) -> Filter:
    match key:
        case "and":
            return _join(And, _list("and", value, depth))
        case "or":
            return _join(Or, _list("or", value, depth))
        case "not":
            return ~_nested(value, depth)
        case _:
            return _field(parse_path(key), value)


def _list(key: str, value: object, depth: int) -> list[Filter]:
    if not isinstance(value, list | tuple) or not value:
        refuse((key,), "a list of at least one filter")
    return [_nested(item, depth) for item in value]


def _nested(value: object, depth: int) -> Filter:
    found = value if isinstance(value, Filter) else _mapping(value, depth + 1)
    return found if found is not None else refuse((), "no empty filter under and, or, not")


def _field(path: Path, value: object) -> Filter:
    if not isinstance(value, Mapping):
        return Compare(path, "eq", value)
    if not value:
        refuse(path, f"an operator: {', '.join(OPS)}")
    return _join(And, [Compare(path, _op(path, op), operand) for op, operand in value.items()])


def _op(path: Path, op: object) -> str:
    return op if isinstance(op, str) else refuse(path, f"one of the operators {', '.join(OPS)}")


def _join(kind: type[And] | type[Or], found: list[Filter]) -> Filter:
    return kind(tuple(found)) if len(found) > 1 else found[0]


def _check_size(where: Filter) -> None:
    comparisons, waiting = 0, [(where, 0)]
    while waiting:
        item, depth = waiting.pop()
        comparisons += isinstance(item, Compare)
        if depth > MAX_DEPTH or comparisons > MAX_COMPARISONS:
            _too_big()
        waiting.extend((child, depth + 1) for child in _children(item))


def _too_big() -> NoReturn:
    refuse((), f"at most {MAX_COMPARISONS} comparisons, nested at most {MAX_DEPTH} deep")


def _children(item: Filter) -> tuple[Filter, ...]:
    match item:
        case And(items) | Or(items):
            return items
        case Not(child):
            return (child,)
        case _:
            return ()


def fingerprint(where: Filter | None) -> str:
    """32 hexadecimal digits, the same in every process and version exactly for equal filters."""
    text = json.dumps(_tree(where), separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _tree(where: Filter | None) -> object:
    if isinstance(where, Compare):
        return [where.op, where.path, where.key]
    if where is None:
        return None
    return [type(where).__name__, *map(_tree, _children(where))]
