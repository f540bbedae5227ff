"""The oracle of queries in plain Python: positions, partial documents, comparable values, exact sums.

A *comparable* is a value as one scalar whose natural order (numbers, then text, then bytes) and equality are those of
`contracts.query`: SQL engines compute the same scalars, so that both sides group, order and count alike.
"""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any, Final, Self

from polymem.contracts._filter_match import MISSING, find
from polymem.contracts._filter_values import INT64_MAX, INT64_MIN, number
from polymem.contracts.filter import OrderBy, Path, canonical, sort_key
from polymem.contracts.query import Aggregate, Position

Comparable = str | int | float | bytes | None
FALSE: Final = b"\x00"
TRUE: Final = b"\x01"
NESTED: Final = b"\x02"
"""Begins an array or object; its canonical JSON follows."""
NULL: Final = b"\xff"
_BEYOND_FLOATS: Final = 10**309
_FRACTION_BITS: Final = 1074
"""Every float is a whole multiple of 2**-1074."""


def comparable(value: object) -> Comparable:
    """The scalar that stands for a value; None for a missing one."""
    if value is MISSING:
        return None
    if value is None:
        return NULL
    if isinstance(value, bool):
        return TRUE if value else FALSE
    if isinstance(value, list | dict):
        return NESTED + canonical(value).encode()
    return number(value) if isinstance(value, int | float) else str(value)


def revealed(scalar: Comparable) -> Any:
    """The value that a comparable other than None stands for."""
    if isinstance(scalar, bytes):
        return json.loads(scalar[1:]) if scalar.startswith(NESTED) else {TRUE: True, FALSE: False, NULL: None}[scalar]
    return scalar if isinstance(scalar, str | None) else _plain(scalar)


def _plain(value: float) -> float:
    """A whole number within 64 bits as an integer, so that 1 and 1.0 look alike."""
    whole = math.isfinite(value) and value == int(value) and INT64_MIN <= value <= INT64_MAX
    return int(value) if whole else value


def comparable_key(scalar: Comparable) -> tuple[int, Any]:
    """Sort comparables by this: numbers, text, bytes, missing."""
    if scalar is None:
        return 3, 0
    return (1 if isinstance(scalar, str) else 2 if isinstance(scalar, bytes) else 0), scalar


class ExactSum:
    """Adds integers of any size and floats without rounding."""

    __slots__ = ("_total", "count", "real")

    def __init__(self) -> None:
        self._total = 0
        """In units of 2**-1074."""
        self.count = 0
        self.real = False
        """Whether a float was added."""

    def add(self, value: float) -> None:
        whole, parts = value.as_integer_ratio()
        self._total += whole << (_FRACTION_BITS + 1 - parts.bit_length())
        self.count += 1
        self.real = self.real or isinstance(value, float)

    def add_integers(self, total: int, count: int) -> None:
        """As if `count` integers with this sum were added."""
        self._total += total << _FRACTION_BITS
        self.count += count

    def packed(self) -> str:
        """The state as text, for `unpacked`."""
        return f"{self._total:x} {self.count} {int(self.real)}"

    @classmethod
    def unpacked(cls, text: str) -> Self:
        total, count, real = text.split()
        exact = cls()
        exact._total, exact.count, exact.real = int(total, 16), int(count), real == "1"
        return exact

    def total(self) -> float:
        return self._rounded(1) if self.real else self._total >> _FRACTION_BITS

    def mean(self) -> float | None:
        return self._rounded(self.count) if self.count else None

    def _rounded(self, parts: int) -> float:
        try:
            return self._total / (parts << _FRACTION_BITS)
        except OverflowError:
            return math.inf if self._total > 0 else -math.inf


def figure(wanted: Aggregate, documents: Sequence[object]) -> Any:
    """One result over the documents of a group."""
    if wanted.path is None:
        return len(documents)
    values = [find(document, wanted.path) for document in documents]
    return _FIGURES[wanted.op]([value for value in values if value is not MISSING and value is not None])


def _sum_of(values: Sequence[Any]) -> ExactSum:
    exact = ExactSum()
    for value in values:
        if isinstance(value, int | float) and not isinstance(value, bool):
            exact.add(value)
    return exact


def _extreme(choose: Callable[..., Comparable], values: Sequence[Any]) -> Any:
    return revealed(choose(map(comparable, values), key=comparable_key, default=None))


_FIGURES: Final[dict[str, Callable[[Sequence[Any]], Any]]] = {
    "count": len,
    "sum": lambda values: _sum_of(values).total(),
    "avg": lambda values: _sum_of(values).mean(),
    "min": lambda values: _extreme(min, values),
    "max": lambda values: _extreme(max, values),
    "distinct": lambda values: len(set(map(comparable, values))),
}


def position_of(document: object, order: Sequence[OrderBy], key: str) -> Position:
    """Where a document stands in an order."""
    found = {str(at): find(document, path) for at, (path, _) in enumerate(order)}
    return Position({at: _position_value(value) for at, value in found.items() if value is not MISSING}, key)


def _position_value(value: Any) -> Any:
    if isinstance(value, list | dict):
        return []
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return finite(number(value))


def finite(value: float) -> float:
    """A number that JSON can hold, an integer too large for floats standing for infinity."""
    return value if math.isfinite(value) else int(math.copysign(1, value)) * _BEYOND_FLOATS


def position_key(position: Position, order: Sequence[OrderBy]) -> tuple[Any, ...]:
    """What `sort_key` gives for a document at this position."""
    stand_in: list[OrderBy] = [((str(at),), direction) for at, (_, direction) in enumerate(order)]
    return sort_key(position.values, stand_in, position.key)


def path_text(path: Path) -> str:
    """A path as it is written with dots."""
    return ".".join(segment.replace("\\", "\\\\").replace(".", "\\.") for segment in path)


def partial(paths: Sequence[Path], values: Sequence[object]) -> dict[str, Any]:
    """The partial document that has each value at its path; MISSING ones are left out."""
    made: dict[str, Any] = {}
    # shorter paths last: what lies at them includes what lies further down
    for path, value in sorted(zip(paths, values, strict=True), key=lambda item: -len(item[0])):
        if value is not MISSING:
            _put(made, path, value)
    return made


def _put(made: dict[str, Any], path: Path, value: object) -> None:
    for segment in path[:-1]:
        made = made.setdefault(segment, {})
    made[path[-1]] = value
