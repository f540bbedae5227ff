"""Checks of records that adapters of your own may use too (ADP-1, G-2)."""

from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Any

from polymem.errors import StorageDataError

Kind = type | UnionType | tuple[type, ...]
"""What `isinstance` takes: a type, `int | None`, or a tuple of types."""


def validate_required_fields(data: Mapping[str, Any], names: Iterable[str]) -> None:
    """`StorageDataError` that lists every name missing in `data`; None counts as given. Its `field` is the first."""
    _check_mapping(data)
    missing = [name for name in names if name not in data]
    if missing:
        raise StorageDataError(f"missing: {', '.join(missing)}", field=missing[0])


def validate_field_types(data: Mapping[str, Any], specs: Mapping[str, Kind]) -> None:
    """`StorageDataError` that lists every field whose value is not of its type, and what was expected.

    Fields that are not there are not looked at. A bool is not an int.
    """
    _check_mapping(data)
    wrong = [name for name, kind in specs.items() if name in data and not _fits(data[name], kind)]
    if wrong:
        said = (f"{name}: expected {_words(specs[name])}, got {type(data[name]).__name__}" for name in wrong)
        raise StorageDataError("; ".join(said), field=wrong[0])


def validate_known_fields(data: Mapping[str, Any], names: Iterable[str], *, field: str = "") -> None:
    """`StorageDataError` that names the first key of `data` which means nothing here."""
    _check_mapping(data)
    known = list(names)
    for name in data:
        if name not in known:
            inside = f"{field}.{name}" if field else str(name)
            raise StorageDataError(f"unknown field {name}; expected {', '.join(known)}", field=inside)


def _check_mapping(data: object) -> None:
    if not isinstance(data, Mapping):
        raise StorageDataError(f"expected a mapping, got {type(data).__name__}", field="data")


def _fits(value: object, kind: Kind) -> bool:
    if isinstance(value, bool):
        return bool in _types(kind) or object in _types(kind)
    return isinstance(value, kind)


def _types(kind: Kind) -> tuple[Any, ...]:
    if isinstance(kind, UnionType):
        return kind.__args__
    return kind if isinstance(kind, tuple) else (kind,)


def _words(kind: Kind) -> str:
    return " or ".join("None" if one is type(None) else one.__name__ for one in _types(kind))
