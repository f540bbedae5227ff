"""Filters and documents drawn at random, for whatever answers filters (QRY-5)."""

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from polymem.contracts.filter import (
    And,
    Compare,
    Filter,
    Not,
    Or,
    Path,
)

HOSTILE_KEYS = [
    "a.b", 'q"', "'", "''", "\\", '\\"', 'a\\"b', "[0]", "a[0]", "$", "$.a", "#", "[#-1]", "*", "", " ",
    "é", "e\u0301", "😀", "\u2028",
    "\n", "\t/", "\x01", "\x7f", "\ufeff", "0", "-1", "00", "1e0", "4294967296", "{column}", "?", "?1",
    ":x", "%s", "--", ";", "true",
    "null", "\\u0041", "and", "x" * 500,
]  # fmt: skip


KEYS = st.sampled_from(["a", "b", "0", "1", *HOSTILE_KEYS[:12]])
EDGE_TEXTS = [
    "", "a", "A", "ab", "abc", "1", "[1]", "{}",
    "null", "true", "é", "\uffff", "\U0010ffff", "a\U0010ffffb", "😀", "\ud7ff",
]  # fmt: skip
TEXTS = st.one_of(
    st.sampled_from(EDGE_TEXTS),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=4),
)
FLOATS = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 1.5, -1.0, 2.0**53, 2.0**63, -(2.0**63), 2.0**64, 1e23, 1e308, 5e-324, 0.1]),
    st.floats(allow_nan=False, allow_infinity=False),
)
INTS = st.one_of(
    st.sampled_from([0, 1, -1, 2, 2**53, 2**53 + 1, 2**63 - 1, -(2**63)]), st.integers(-(2**63), 2**63 - 1)
)
BIG_INTS = st.one_of(st.sampled_from([2**63, 2**64, 2**64 + 1, -(2**63) - 1, -(2**80)]), st.integers(-(2**200), 2**200))
SCALARS = st.one_of(st.none(), st.booleans(), INTS, FLOATS, TEXTS)


PATTERNS = st.sampled_from(["a", "^a?$", "[^a]", ".", "^$", r"\d", "b|é", "(a.)+"])
FRESH_PATHS = st.lists(KEYS, min_size=1, max_size=3).map(tuple)


def nested(leaves: st.SearchStrategy[Any], max_leaves: int) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
        max_leaves=max_leaves,
    )


OPERANDS = nested(SCALARS, 4)
DOCUMENTS = st.dictionaries(KEYS, nested(SCALARS | BIG_INTS, 6), max_size=4) | nested(SCALARS, 4)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Filter, list[Any]]:
    """A filter and documents, with most paths and operands taken from the documents so that many match."""
    documents = draw(st.lists(DOCUMENTS, min_size=1, max_size=4))
    places = [place for document in documents for place in walk(document, ())]
    return draw_filter(draw, places, draw(st.integers(0, 3))), documents


def draw_filter(draw: st.DrawFn, places: list[tuple[Path, Any]], size: int) -> Filter:
    if size == 0:
        pool = Pool(draw, places)
        op = draw(st.sampled_from(sorted(OPERANDS_OF)))
        return Compare(pool.path(), op, OPERANDS_OF[op](pool))
    kind = draw(st.sampled_from(["and", "or", "not"]))
    if kind == "not":
        return Not(draw_filter(draw, places, size - 1))
    items = tuple(draw_filter(draw, places, part) for part in range(size))
    return And(items) if kind == "and" else Or(items)


class Pool:
    """Draws operands, mostly values that stand in the documents."""

    def __init__(self, draw: st.DrawFn, places: list[tuple[Path, Any]]) -> None:
        self.draw = draw
        self.paths = [path for path, _ in places if is_path(path)]
        self.near = [value for _, value in places if is_operand(value)]

    def path(self) -> Path:
        near = bool(self.paths) and self.draw(st.integers(0, 3)) > 0
        return self.draw(st.sampled_from(self.paths) if near else FRESH_PATHS)

    def pick(self, kinds: tuple[type, ...], fresh: st.SearchStrategy[Any]) -> Any:
        near = [value for value in self.near if type(value) in kinds]
        return self.draw(st.sampled_from(near) if near and self.draw(st.integers(0, 2)) > 0 else fresh)

    def value(self) -> Any:
        return self.pick((str, int, float, bool, type(None), list, dict), OPERANDS)

    def several(self) -> list[Any]:
        return [self.value() for _ in range(self.draw(st.integers(0, 3)))]

    def number(self) -> Any:
        return self.pick((int, float), INTS | FLOATS)

    def text(self) -> Any:
        return self.pick((str,), TEXTS)

    def bound(self) -> Any:
        return self.text() if self.flag() else self.number()

    def pair(self) -> Any:
        return (self.text(), self.text()) if self.flag() else (self.number(), self.number())

    def part(self) -> Any:
        start = self.draw(st.integers(0, 1))
        return self.text()[start : start + self.draw(st.integers(0, 3))]

    def value_or_part(self) -> Any:
        return self.part() if self.flag() else self.value()

    def flag(self) -> bool:
        return self.draw(st.booleans())

    def pattern(self) -> str:
        return self.draw(PATTERNS)


OPERANDS_OF: dict[str, Callable[[Pool], Any]] = {
    **dict.fromkeys(("eq", "ne"), Pool.value),
    **dict.fromkeys(("lt", "le", "gt", "ge"), Pool.bound),
    **dict.fromkeys(("in", "not_in"), Pool.several),
    "between": Pool.pair,
    "exists": Pool.flag,
    "contains": Pool.value_or_part,
    "starts_with": Pool.part,
    "regex": Pool.pattern,
}


def walk(value: Any, path: Path) -> list[tuple[Path, Any]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [(path, value)] if path else []
    for key, child in children:
        found += walk(child, (*path, str(key)))
    return found


def is_operand(value: Any) -> bool:
    if isinstance(value, dict | list):
        return all(map(is_operand, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, int) or -(2**63) <= value < 2**63


def is_path(path: Path) -> bool:
    return sum(segment.isdigit() for segment in path) <= 3
