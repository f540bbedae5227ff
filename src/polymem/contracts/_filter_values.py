"""Paths and operands of filters: what is legal, and the one form each is kept in."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NoReturn

from polymem.errors import StorageDataError

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
MAX_SEGMENTS = 32
MAX_INDEX_SEGMENTS = 3
MAX_INDEX_DIGITS = 9
MAX_DEPTH = 32

Path = tuple[str, ...]
JSON_VALUE = "null, a bool, a 64-bit integer, a finite float, a string, or a list or mapping of these"


@dataclass(frozen=True, slots=True)
class Json:
    """An array or object to compare with, as canonical JSON."""

    text: str


Scalar = str | int | float | bool | None
Operand = Scalar | Json | tuple[Scalar | Json, ...]


def refuse(path: Path, expected: str, *, field: str = "where") -> NoReturn:
    """Raise StorageDataError naming the argument and the path; the value itself stays out of the message."""
    field = ".".join((field, *(segment.replace("\\", "\\\\").replace(".", "\\.") for segment in path)))
    raise StorageDataError(f"{field}: expected {expected}", field=field)


def is_index(segment: str) -> bool:
    """Whether a path segment can also index an array: canonical digits, small enough for every engine."""
    canonical = segment == "0" or not segment.startswith("0")
    return segment.isascii() and segment.isdigit() and canonical and len(segment) <= MAX_INDEX_DIGITS


def parse_path(path: object, field: str = "where") -> Path:
    """Read `"a.b"` (backslash takes the next character literally) or `["a", "b", 0]` (taken as it is)."""
    if isinstance(path, str):
        return _dotted(path, field)
    if not isinstance(path, Sequence) or isinstance(path, bytes | bytearray):
        refuse((), "a path: a dotted string, or a list of keys and array indexes", field=field)
    return _checked(tuple(_segment(item, field) for item in path), field)


@lru_cache(maxsize=1024)
def _dotted(path: str, field: str) -> Path:
    segments, characters = [""], iter(path)
    for character in characters:
        if character == ".":
            segments.append("")
            continue
        literal = next(characters, "") if character == "\\" else character
        if not literal:
            refuse((), "a character after the backslash that ends the path", field=field)
        segments[-1] += literal
    if "" in segments:
        refuse((), "a path without empty segments (give an empty key as a list path)", field=field)
    return _checked(tuple(segments), field)


def _segment(item: object, field: str) -> str:
    if isinstance(item, str):
        return str.__str__(item)
    if isinstance(item, int) and not isinstance(item, bool) and item >= 0:
        return str(int(item))
    refuse((), "path segments that are strings or array indexes >= 0", field=field)


def _checked(path: Path, field: str) -> Path:
    if not 1 <= len(path) <= MAX_SEGMENTS:
        refuse((), f"a path of 1 to {MAX_SEGMENTS} segments", field=field)
    if not all(is_text(segment) for segment in path):
        refuse((), "path segments without U+0000 and unpaired surrogates", field=field)
    if sum(map(is_index, path)) > MAX_INDEX_SEGMENTS:
        refuse((), f"at most {MAX_INDEX_SEGMENTS} segments of digits in a path", field=field)
    return path


def is_text(value: str) -> bool:
    """Whether every engine can hold the string: no U+0000, no unpaired surrogate."""
    return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)


def freeze(path: Path, value: object) -> Scalar | Json:
    """Check any JSON value and make it immutable."""
    if isinstance(value, Mapping | list | tuple):
        return Json(canonical(_plain(path, value, 0)))
    return freeze_scalar(path, value)


def freeze_scalar(path: Path, value: object) -> Scalar:
    """Check a JSON scalar; subclasses (enums, numpy floats) become the plain type."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if INT64_MIN <= value <= INT64_MAX else refuse(path, "an integer of 64 bits, or a float")
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else refuse(path, "a finite number")
    if isinstance(value, str):
        return str.__str__(value) if is_text(value) else refuse(path, "text without U+0000 and unpaired surrogates")
    refuse(path, JSON_VALUE)


def _plain(path: Path, value: object, depth: int) -> object:
    if depth > MAX_DEPTH:
        refuse(path, f"a value nested at most {MAX_DEPTH} deep")
    if isinstance(value, list | tuple):
        return [_plain(path, item, depth + 1) for item in value]
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) and is_text(key) for key in value):
            refuse(path, "mapping keys that are strings without U+0000 and unpaired surrogates")
        return {key: _plain(path, item, depth + 1) for key, item in value.items()}
    return freeze_scalar(path, value)


def number(value: float) -> float:
    """Give a document's number as all engines see it: an integer beyond 64 bits is its nearest float."""
    if isinstance(value, float) or INT64_MIN <= value <= INT64_MAX:
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def canonical(value: object) -> str:
    """Write a JSON value so that two texts are the same exactly if the values are equal (1 and 1.0 are)."""
    return json.dumps(_normal(value), sort_keys=True, separators=(",", ":"))


def _normal(value: object) -> object:
    if isinstance(value, list):
        return [_normal(item) for item in value]
    if isinstance(value, dict):
        return {key: _normal(item) for key, item in value.items()}
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    plain = number(value)
    return int(plain) if math.isfinite(plain) and plain == int(plain) else plain
