"""The portable pattern language, read by recursive descent."""

import re
from dataclasses import dataclass
from typing import Final, NoReturn, TypeAlias

MAX_PATTERN = 200
MAX_COUNT = 255
MAX_PLACES = 1000
MAX_CODE = 0x10FFFF


class PatternError(ValueError):
    """Says what was expected."""


@dataclass(frozen=True, slots=True)
class Chars:
    """One character inside (or, negated, outside) any of the ranges of code points."""

    ranges: tuple[tuple[int, int], ...]
    negated: bool = False

    def has(self, code: int) -> bool:
        return any(low <= code <= high for low, high in self.ranges) is not self.negated


@dataclass(frozen=True, slots=True)
class Anchor:
    end: bool


@dataclass(frozen=True, slots=True)
class Seq:
    items: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Alt:
    items: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    item: "Node"
    least: int
    most: int | None


Node: TypeAlias = Chars | Anchor | Seq | Alt | Repeat

_DIGIT = ((48, 57),)
_WORD = ((48, 57), (65, 90), (95, 95), (97, 122))
_SPACE = ((9, 13), (32, 32))
_CLASSES: Final = {"d": _DIGIT, "w": _WORD, "s": _SPACE}
_CONTROLS: Final = {"n": 10, "t": 9, "r": 13, "f": 12, "v": 11}
_COUNT: Final = re.compile(r"([*+?])|\{([0-9]{1,3})(?:(,)([0-9]{1,3})?)?\}")


def parse_pattern(pattern: str) -> Node:
    """Read a pattern; PatternError outside the subset."""
    if not pattern or len(pattern) > MAX_PATTERN:
        raise PatternError(f"a pattern of 1 to {MAX_PATTERN} characters")
    node = _Reader(pattern).read()
    if _places(node) > MAX_PLACES:
        raise PatternError("a smaller pattern: its repetition counts multiply to too much")
    return node


def _places(node: Node) -> int:
    match node:
        case Seq(items) | Alt(items):
            return 1 + sum(map(_places, items))
        case Repeat(item, least, most):
            return (least + 1 if most is None else most) * (_places(item) + 1)
        case _:
            return 1


def _fail(expected: str) -> NoReturn:
    raise PatternError(f"a portable pattern: {expected}")


class _Reader:
    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0

    def read(self) -> Node:
        node = self._alternatives()
        if self._at < len(self._text):
            _fail("every ) closes a (")
        return node

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        self._at += 1
        return self._text[self._at - 1 : self._at]

    def _accept(self, text: str) -> bool:
        found = self._text.startswith(text, self._at)
        self._at += len(text) if found else 0
        return found

    def _alternatives(self) -> Node:
        items = [self._sequence()]
        while self._accept("|"):
            items.append(self._sequence())
        return Alt(tuple(items)) if len(items) > 1 else items[0]

    def _sequence(self) -> Node:
        items: list[Node] = []
        while self._peek() not in {"", "|", ")"}:
            items.append(self._repeated(self._atom()))
        return Seq(tuple(items))

    def _repeated(self, item: Node) -> Node:
        count = _COUNT.match(self._text, self._at)
        if count is None:
            return item
        if isinstance(item, Anchor):
            _fail("no repetition of ^ or $")
        self._at = count.end()
        self._accept("?")  # lazy or greedy: the same yes or no
        if _COUNT.match(self._text, self._at):
            _fail("one repetition after an item")
        return Repeat(item, *_bounds(count))

    def _atom(self) -> Node:
        character = self._next()
        match character:
            case "(":
                return self._group()
            case "[":
                return self._class()
            case ".":
                return Chars(((0, MAX_CODE),))
            case "^" | "$":
                return Anchor(end=character == "$")
            case "\\":
                return self._escape()
            case "*" | "+" | "?" | "{" | "}" | "]":
                _fail("a backslash before a literal * + ? { } ]")
            case _:
                return _single(ord(character))

    def _group(self) -> Node:
        if self._peek() == "?" and not self._accept("?:"):
            _fail("groups ( ) and (?: ) only: no lookaround, names or flags")
        item = self._alternatives()
        if not self._accept(")"):
            _fail("every ( is closed")
        return item

    def _escape(self) -> Chars:
        character = self._next()
        if character.lower() in _CLASSES:
            return Chars(_CLASSES[character.lower()], negated=character.isupper())
        if character in _CONTROLS:
            return _single(_CONTROLS[character])
        if not character or character.isalnum():
            _fail(r"only the escapes \d \w \s \D \W \S \n \t \r \f \v and backslash with punctuation")
        return _single(ord(character))

    def _class(self) -> Chars:
        negated = self._accept("^")
        ranges: list[tuple[int, int]] = []
        while not self._accept("]"):
            ranges.extend(self._member())
        if not ranges:
            _fail("at least one character in [ ]")
        return Chars(tuple(ranges), negated)

    def _member(self) -> tuple[tuple[int, int], ...]:
        low = self._class_character()
        ranged = self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in {"", "]"}
        if not ranged:
            return low.ranges
        self._next()
        high = self._class_character()
        if not (_is_single(low) and _is_single(high)) or low.ranges[0][0] > high.ranges[0][0]:
            _fail("ranges in [ ] from a lower to a higher character")
        return ((low.ranges[0][0], high.ranges[0][0]),)

    def _class_character(self) -> Chars:
        character = self._next()
        if character in {"", "["}:
            _fail(r"[ ] closed, and a literal [ in it written \[")
        found = self._escape() if character == "\\" else _single(ord(character))
        return Chars(_outside(found.ranges)) if found.negated else found


def _single(code: int) -> Chars:
    return Chars(((code, code),))


def _is_single(chars: Chars) -> bool:
    return len(chars.ranges) == 1 and chars.ranges[0][0] == chars.ranges[0][1]


def _outside(ranges: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    starts = (0, *(high + 1 for _, high in ranges))
    ends = (*(low - 1 for low, _ in ranges), MAX_CODE)
    return tuple(zip(starts, ends, strict=True))


def _bounds(count: re.Match[str]) -> tuple[int, int | None]:
    symbol, least, comma, most = count.groups()
    if symbol:
        return (1 if symbol == "+" else 0), (1 if symbol == "?" else None)
    low, high = int(least), int(most) if most else None if comma else int(least)
    if max(low, high or 0) > MAX_COUNT or (high is not None and low > high):
        _fail(f"repetition counts from a lower to a higher number, at most {MAX_COUNT}")
    return low, high
