"""The filter tree and its builder `F`. Rules: `polymem.contracts.filter`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from polymem.contracts._filter_regex import check_pattern
from polymem.contracts._filter_values import (
    Json,
    Operand,
    Path,
    canonical,
    freeze,
    freeze_scalar,
    parse_path,
    refuse,
)
from polymem.errors import StorageDataError

Op = Literal[
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "in",
    "not_in",
    "exists",
    "contains",
    "starts_with",
    "between",
    "regex",
]
OPS: Final[tuple[Op, ...]] = get_args(Op)


class Filter:
    """A condition on a JSON document; combine with `&`, `|` and `~`."""

    __slots__ = ()

    def __and__(self, other: "Filter") -> "Filter":
        return And((self, other))

    def __or__(self, other: "Filter") -> "Filter":
        return Or((self, other))

    def __invert__(self) -> "Filter":
        return Not(self)

    def __bool__(self) -> bool:
        # `a and b` would silently drop a.
        raise StorageDataError("where: expected & | ~ between filters, not and/or/not", field="where")


@dataclass(frozen=True, slots=True)
class Compare(Filter):
    """One test on one path. Checked and frozen when made: StorageDataError if it makes no sense."""

    path: Path
    op: Op
    value: Operand = field(compare=False)
    # Equality goes by canonical text, as True == 1 in Python but not in a filter.
    key: str = field(init=False, repr=False)

    def __init__(self, path: object, op: str, value: object) -> None:
        segments = parse_path(path)
        if op not in OPS:
            refuse(segments, f"one of the operators {', '.join(OPS)}")
        operand = _OPERANDS[op](segments, value)
        for name, part in (("path", segments), ("op", op), ("value", operand), ("key", operand_key(operand))):
            object.__setattr__(self, name, part)


@dataclass(frozen=True, slots=True)
class And(Filter):
    """True if all items are; at least one item, nested Ands are flattened."""

    items: tuple[Filter, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", _flat(And, self.items))


@dataclass(frozen=True, slots=True)
class Or(Filter):
    """True if any item is; at least one item, nested Ors are flattened."""

    items: tuple[Filter, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", _flat(Or, self.items))


@dataclass(frozen=True, slots=True)
class Not(Filter):
    """Plain Boolean opposite: true also where the path is missing."""

    item: Filter

    def __post_init__(self) -> None:
        _flat(Not, (self.item,))

    def __invert__(self) -> Filter:
        return self.item


def paths_in(where: Filter | None) -> Iterator[Path]:
    """The path of each comparison."""
    match where:
        case Compare():
            yield where.path
        case And(items) | Or(items):
            for item in items:
                yield from paths_in(item)
        case Not(item):
            yield from paths_in(item)


def _flat(kind: type[Filter], items: object) -> tuple[Filter, ...]:
    if not isinstance(items, tuple | list) or not items or not all(isinstance(item, Filter) for item in items):
        refuse((), "at least one filter, and only filters, under and, or, not")
    flat: list[Filter] = []
    for item in items:
        flat.extend(item.items if isinstance(item, And | Or) and type(item) is kind else (item,))
    return tuple(flat)


def operand_key(operand: Operand) -> str:
    """Write an operand so that equal operands have equal text."""
    if isinstance(operand, tuple):
        return f"[{','.join(map(operand_key, operand))}]"
    return operand.text if isinstance(operand, Json) else canonical(operand)


def _ordered(path: Path, value: object) -> Operand:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        refuse(path, "a number or a string")
    return freeze_scalar(path, value)


def _range(path: Path, value: object) -> Operand:
    if not isinstance(value, list | tuple) or len(value) != 2:  # noqa: PLR2004 - low and high
        refuse(path, "a pair of two numbers or two strings")
    low, high = (_ordered(path, bound) for bound in value)
    if isinstance(low, str) is not isinstance(high, str) or isinstance(low, tuple) or isinstance(high, tuple):
        refuse(path, "a pair of two numbers or two strings")
    return low, high


def _choices(path: Path, value: object) -> Operand:
    if not isinstance(value, list | tuple | set | frozenset):
        refuse(path, "a list of values")
    # One per value and in a fixed order, so that equal sets make equal filters and cursors.
    unique = {operand_key(item): item for item in (freeze(path, member) for member in value)}
    return tuple(unique[key] for key in sorted(unique))


def _bool(path: Path, value: object) -> Operand:
    return value if isinstance(value, bool) else refuse(path, "true or false")


def _text(path: Path, value: object) -> Operand:
    return freeze_scalar(path, value) if isinstance(value, str) else refuse(path, "a string")


def _regex(path: Path, value: object) -> Operand:
    text = _text(path, value)
    wrong = check_pattern(str(text))
    return refuse(path, wrong) if wrong else text


_OPERANDS: Final[dict[str, Callable[[Path, object], Operand]]] = {
    **dict.fromkeys(("eq", "ne", "contains"), freeze),
    **dict.fromkeys(("lt", "le", "gt", "ge"), _ordered),
    **dict.fromkeys(("in", "not_in"), _choices),
    "exists": _bool,
    "starts_with": _text,
    "between": _range,
    "regex": _regex,
}


class F:
    """A path to compare: `F("a.b") >= 1`, `F("a", "b.c")` and `F(["b.c"])` for keys taken as they are."""

    __slots__ = ("_path",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, path: object, *more: str | int) -> None:
        self._path = parse_path((path, *more) if more else path)

    def __repr__(self) -> str:
        return f"F({list(self._path)!r})"

    def __eq__(self, value: object) -> Filter:  # type: ignore[override]
        return Compare(self._path, "eq", value)

    def __ne__(self, value: object) -> Filter:  # type: ignore[override]
        return Compare(self._path, "ne", value)

    def __lt__(self, value: object) -> Filter:
        return Compare(self._path, "lt", value)

    def __le__(self, value: object) -> Filter:
        return Compare(self._path, "le", value)

    def __gt__(self, value: object) -> Filter:
        return Compare(self._path, "gt", value)

    def __ge__(self, value: object) -> Filter:
        return Compare(self._path, "ge", value)

    def in_(self, values: object) -> Filter:
        """Equal to one of the values."""
        return Compare(self._path, "in", values)

    def not_in(self, values: object) -> Filter:
        """Not `in_`: true also where the path is missing."""
        return Compare(self._path, "not_in", values)

    def exists(self, present: bool = True) -> Filter:
        """Present, null included."""
        return Compare(self._path, "exists", present)

    def contains(self, value: object) -> Filter:
        """Substring of a string, or member of an array."""
        return Compare(self._path, "contains", value)

    def starts_with(self, prefix: str) -> Filter:
        """Text that begins with the prefix."""
        return Compare(self._path, "starts_with", prefix)

    def between(self, low: object, high: object) -> Filter:
        """From low to high, both included."""
        return Compare(self._path, "between", (low, high))

    def regex(self, pattern: str) -> Filter:
        """Text in which the pattern is found anywhere."""
        return Compare(self._path, "regex", pattern)
