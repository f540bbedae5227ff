"""Checks of records, for adapters of one's own too (ADP-1, G-2)."""

from collections import UserDict
from typing import Any

import pytest

from polymem import validate_field_types, validate_required_fields
from polymem.errors import StorageDataError


def test_all_that_is_missing_is_listed() -> None:
    with pytest.raises(StorageDataError) as caught:
        validate_required_fields({"b": None}, ["a", "b", "c"])
    assert str(caught.value) == "missing: a, c"
    assert caught.value.field == "a"
    validate_required_fields({"b": None}, ["b"])
    validate_required_fields(UserDict(a=1), ["a"])


@pytest.mark.parametrize(
    ("value", "kind", "fits"),
    [
        (1, int, True), (True, int, False), (True, bool, True), (True, (int, bool), True), (True, int | bool, True),
        (True, object, True), (1, float, False), (1, int | float, True), ("a", str, True), (b"a", str, False),
        (None, str, False), (None, str | None, True), ([], list, True), (False, int | None, False),
    ],
)  # fmt: skip
def test_types(value: Any, kind: Any, fits: bool) -> None:
    if fits:
        validate_field_types({"x": value}, {"x": kind})
        return
    with pytest.raises(StorageDataError) as caught:
        validate_field_types({"x": value}, {"x": kind})
    assert caught.value.field == "x"


def test_every_wrong_type_is_listed_and_no_value() -> None:
    with pytest.raises(StorageDataError) as caught:
        validate_field_types({"a": "hunter2", "b": True}, {"a": int | None, "b": int, "absent": str})
    assert str(caught.value) == "a: expected int or None, got str; b: expected int, got bool"


@pytest.mark.parametrize("data", [None, "text", [("a", 1)]])
def test_only_mappings_have_fields(data: Any) -> None:
    with pytest.raises(StorageDataError):
        validate_required_fields(data, ["a"])
    with pytest.raises(StorageDataError):
        validate_field_types(data, {"a": int})
