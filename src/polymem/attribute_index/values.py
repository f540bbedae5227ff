"""Which values an attribute may have and when two of them are the same (the types of contracts/filter.py)."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias, cast

from polymem.contracts._filter_values import INT64_MAX, INT64_MIN
from polymem.core.text import check_key, check_text
from polymem.errors import StorageCorruptError, StorageDataError

Scalar: TypeAlias = str | int | float | bool | None
Attributes: TypeAlias = dict[str, list[Scalar]]
"""The distinct values of each attribute of one entity; an attribute without values is left out."""
Kind: TypeAlias = Literal["number", "text", "bool", "null"]

_KINDS: Final[dict[type, Kind]] = {int: "number", float: "number", str: "text", bool: "bool", type(None): "null"}
_EXPECTED: Final = "expected null, a bool, a 64-bit integer, a finite float or a string"


def kind_of(value: Scalar) -> Kind:
    """Values of different kinds never match: `True` is not 1, `"1"` is not 1; 1 and 1.0 are both numbers."""
    return _KINDS[type(value)]


def distinct(values: Iterable[Scalar]) -> list[Scalar]:
    """Each value once, in the order of first appearance."""
    return list({(kind_of(value), value): value for value in values}.values())


def same(one: Attributes | None, other: Attributes | None) -> bool:
    """Equal without mixing types, which plain `==` does."""
    if one is None or other is None:
        return one is other
    return _keys(one) == _keys(other)


def _keys(attributes: Attributes) -> dict[str, set[tuple[Kind, Scalar]]]:
    return {name: {(kind_of(value), value) for value in values} for name, values in attributes.items()}


def check_scalar(value: object, *, field: str) -> Scalar:
    """One value as it is kept; subclasses such as enums become the plain type."""
    if type(value) is str and value.isprintable():  # so neither U+0000 nor a surrogate is in it
        return value
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(check_text(value, field=field))
    if isinstance(value, int) and INT64_MIN <= value <= INT64_MAX:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    raise StorageDataError(_EXPECTED, field=field)


def check_values(value: object, *, field: str) -> list[Scalar]:
    """The members of a list, or the one value given."""
    if not isinstance(value, list | tuple):
        return [check_scalar(value, field=field)]
    return distinct([check_scalar(item, field=f"{field}[{position}]") for position, item in enumerate(value)])


def check_attributes(attributes: object, *, field: str) -> Attributes:
    """The attributes of one entity, from a mapping of names to a value or a list of values."""
    if not isinstance(attributes, Mapping):
        raise StorageDataError("expected a mapping of attribute names to values", field=field)
    names = f"{field} name"
    found = {
        check_key(name, field=names): check_values(value, field=f"{field}.{name}") for name, value in attributes.items()
    }
    return {name: values for name, values in found.items() if values}


def check_stored(record: Any) -> Attributes:
    """A record read back; anything else than what this package writes is a `StorageCorruptError`."""
    if not isinstance(record, dict) or not all(_holds_scalars(values) for values in record.values()):
        raise StorageCorruptError("a stored entity is not a mapping of attribute names to lists of values")
    return cast("Attributes", record)


def _holds_scalars(values: object) -> bool:
    return isinstance(values, list) and all(type(value) in _KINDS for value in values)
