"""QRY-2: the filter language, its oracle and its refusals (G-2). Order: QRY-3."""

import copy
import enum
import math
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest

from polymem.contracts.filter import (
    And,
    Compare,
    F,
    Filter,
    Not,
    Or,
    fingerprint,
    matches,
    parse,
    parse_order,
    sort_key,
)
from polymem.errors import StorageDataError

ADA = {
    "name": "Ada",
    "age": 36,
    "score": 1.0,
    "big": 2**53 + 1,
    "active": True,
    "nothing": None,
    "empty": "",
    "tags": ["a", "b", 1, None, True, {"x": 1}],
    "profile": {"address": {"city": "Lisbon", "zip": "1100"}, "a.b": 1, "7": "seven"},
    "or": 5,
}

# (filter, whether it is true of ADA)
SEMANTICS: list[tuple[Filter, bool]] = [
    (F("name") == "Ada", True),
    (F("name") == "ada", False),
    (F("name") != "ada", True),
    (F("age") == "36", False),
    (F("age") != "36", True),
    (F("age") == 36.0, True),
    (F("score") == 1, True),
    (F("score") == True, False),  # noqa: E712
    (F("active") == 1, False),
    (F("active") == True, True),  # noqa: E712
    (F("active") != 1, True),
    (F("active") >= 0, False),
    (F("big") == 2.0**53, False),
    (F("big") > 2.0**53, True),
    (F("big") == 2**53 + 1, True),
    (F("age").between(36, 40), True),
    (F("age").between(30, 36), True),
    (F("age").between(40, 30), False),
    (F("age") < 36.5, True),
    (F("age") < "x", False),
    (F("name") < "Adb", True),
    (F("name") < "\U0001f600", True),
    # Null and missing
    (F("nothing").exists(), True),
    (F("absent").exists(), False),
    (F("absent").exists(False), True),
    (F("nothing") == None, True),  # noqa: E711
    (F("absent") == None, False),  # noqa: E711
    (F("absent") != None, True),  # noqa: E711
    (F("nothing") != None, False),  # noqa: E711
    (F("nothing") == 0, False),
    (F("nothing") < 1, False),
    (F("absent") < 1, False),
    (F("absent") >= 1, False),
    (~(F("absent") < 1), True),
    (F("absent") != 1, True),
    (F("nothing") != 1, True),
    (F("nothing").in_([None, 1]), True),
    (F("absent").in_([None, 1]), False),
    (F("absent").not_in([None, 1]), True),
    (F("nothing").not_in([1]), True),
    (F("name").in_([]), False),
    (F("name").not_in([]), True),
    (F("age").in_([True, "36", 36]), True),
    (F("active").in_([1, 0]), False),
    # Text
    (F("name").contains("da"), True),
    (F("name").contains("DA"), False),
    (F("name").contains(""), True),
    (F("empty").contains(""), True),
    (F("empty").starts_with(""), True),
    (F("age").starts_with(""), False),
    (F("name").starts_with("A"), True),
    (F("name").starts_with("a"), False),
    (F("name").regex("^A.a$"), True),
    (F("name").regex("d"), True),
    (F("name").regex("a{2}"), False),
    (F("age").regex("3"), False),
    # Arrays and objects
    (F("tags").contains("a"), True),
    (F("tags").contains("A"), False),
    (F("tags").contains(1.0), True),
    (F("tags").contains(True), True),
    (F("tags").contains(0), False),
    (F("tags").contains(None), True),
    (F("tags").contains({"x": 1.0}), True),
    (F("tags").contains({"x": True}), False),
    (F("profile").contains("address"), False),
    (F("age").contains(36), False),
    (F("tags") == "a", False),
    (F("tags") == ["a", "b", 1, None, True, {"x": 1.0}], True),
    (F("tags") == ["b", "a", 1, None, True, {"x": 1}], False),
    (F("tags") < "z", False),
    (F("tags").starts_with("["), False),
    (F("tags").contains("["), False),
    (F("profile.address") == {"zip": "1100", "city": "Lisbon"}, True),
    (F("profile.address") == {}, False),
    (F("profile.address").in_([{}, {"zip": "1100", "city": "Lisbon"}]), True),
    (F("profile") == '{"address":1}', False),
    # Paths
    (F("profile.address.city") == "Lisbon", True),
    (F("profile", "address", "city") == "Lisbon", True),
    (F("profile.a.b").exists(), False),
    (F(r"profile.a\.b") == 1, True),
    (F("profile", "a.b") == 1, True),
    (F("tags.0") == "a", True),
    (F("tags", 1) == "b", True),
    (F("tags.00").exists(), False),
    (F("tags.6").exists(), False),
    (F("tags.4294967296").exists(), False),
    (F("tags.5.x") == 1, True),
    (F("profile.7") == "seven", True),
    (F("name.0").exists(), False),
    (F("or") == 5, True),
    # Boolean
    ((F("age") == 36) & (F("name") == "x"), False),
    ((F("age") == 36) | (F("name") == "x"), True),
    (~((F("age") == 36) & (F("name") == "x")), True),
]


@pytest.mark.parametrize(("where", "expected"), SEMANTICS)
def test_semantics(where: Filter, expected: bool) -> None:
    """QRY-2: null, missing, types, text, arrays, paths."""
    assert matches(where, ADA) is expected
    assert matches(~where, ADA) is not expected


def test_no_filter_and_documents_that_are_not_objects() -> None:
    assert matches(None, ADA)
    assert matches(F("0") == "x", ["x"])
    assert not matches(F("a").exists(), "a")
    assert not matches(F("a").exists(), None)


def test_integers_beyond_64_bits_compare_as_their_nearest_float() -> None:
    assert matches(F("n") == 2.0**64, {"n": 2**64 + 1})
    assert matches(F("n") == [2.0**64], {"n": [2**64 + 1]})
    assert matches(F("n") > 1e308, {"n": 10**400})
    assert matches(F("n") < -1e308, {"n": -(10**400)})


FORMS: list[tuple[Filter, dict[Any, Any]]] = [
    (F("name") == "Ada", {"name": "Ada"}),
    (F("n") == None, {"n": None}),  # noqa: E711
    (F("t") == ["a"], {"t": ["a"]}),
    (F("o") == {}, {"o": {"eq": {}}}),
    (F("a.b") != 1, {"a.b": {"ne": 1}}),
    (F("a") < 1, {"a": {"lt": 1}}),
    (F("a") <= 1, {"a": {"le": 1}}),
    (F("a") > "x", {"a": {"gt": "x"}}),
    (F("a") >= 1.5, {"a": {"ge": 1.5}}),
    (F("a").in_([1, "x"]), {"a": {"in": ["x", 1]}}),
    (F("a").not_in({1}), {"a": {"not_in": (1,)}}),
    (F("a").exists(), {"a": {"exists": True}}),
    (F("a").exists(False), {"a": {"exists": False}}),
    (F("a").contains(1), {"a": {"contains": 1}}),
    (F("a").starts_with("x"), {"a": {"starts_with": "x"}}),
    (F("a").between(1, 2), {"a": {"between": [1, 2]}}),
    (F("a").regex("x+"), {"a": {"regex": "x+"}}),
    (F("a", "b.c") == 1, {r"a.b\.c": 1}),
    (F(["a", "b.c"]) == 1, {("a", "b.c"): 1}),
    (F(["or"]) == 1, {r"\or": 1}),
    (F("a\\\\b") == 1, {("a\\b",): 1}),
    ((F("age") >= 18) & (F("age") < 65), {"age": {"ge": 18, "lt": 65}}),
    ((F("a") == 1) & (F("b") == 2) & (F("c") == 3), {"a": 1, "b": 2, "c": 3}),
    ((F("a") == 1) & (F("b") == 2), {"and": [{"a": 1}, {"b": 2}]}),
    ((F("a") == 1) | (F("b") == 2), {"or": [{"a": 1}, F("b") == 2]}),
    (F("a") == 1, {"or": [{"a": 1}]}),
    (~(F("a") == 1), {"not": {"a": 1}}),
    ((F("a") == 1) & ~(F("b") == 2), {"a": 1, "not": {"b": 2}}),
]


@pytest.mark.parametrize(("built", "mapping"), FORMS)
def test_builder_equals_mapping(built: Filter, mapping: dict[Any, Any]) -> None:
    """QRY-2: both forms give the same filter, hash and fingerprint; G-3: the mapping comes back untouched."""
    before = copy.deepcopy(mapping)
    parsed = parse(MappingProxyType(mapping))
    assert parsed == built == parse(built)
    assert hash(parsed) == hash(built)
    assert fingerprint(parsed) == fingerprint(built)
    assert mapping == before


def test_no_filter_parses_to_none() -> None:
    assert parse(None) is None
    assert parse({}) is None


def test_filters_are_told_apart_where_python_values_are_not() -> None:
    one, true = F("a") == 1, F("a") == True  # noqa: E712
    assert one != true
    assert fingerprint(one) != fingerprint(true)
    assert (F("a") == 1) == (F("a") == 1.0)
    assert fingerprint(F("a.b") == 1) != fingerprint(F(["a.b"]) == 1)
    assert fingerprint(F("a") == "1") != fingerprint(one)
    assert fingerprint(one & true) != fingerprint(one | true)
    assert fingerprint(F("a") == [1]) != fingerprint(F("a").in_([1]))
    assert len({fingerprint(where) for where, _ in FORMS[:18]} | {fingerprint(None)}) == 19


def test_fingerprint_is_the_same_in_every_process_and_version() -> None:
    assert fingerprint(parse({"age": {"ge": 18}, "name": "Ada"})) == "96abbabc608f766bd78cbcb56b5b5357"


def test_operands_are_copied_and_made_plain() -> None:
    class Colour(enum.StrEnum):
        RED = "red"

    value = {"x": [1]}
    where = F("a") == value
    value["x"].append(2)
    assert matches(where, {"a": {"x": [1]}})
    assert (F("c") == Colour.RED) == (F("c") == "red")


def test_nested_and_or_are_flat() -> None:
    a, b, c = (F(name) == 1 for name in "abc")
    assert (a & b) & c == a & (b & c) == And((a, b, c))
    assert (a | b) | c == a | (b | c) == Or((a, b, c))
    assert (a | b) & c == And((Or((a, b)), c))
    assert ~~a == a
    assert ~a == Not(a)


def test_python_and_is_refused_as_it_would_drop_a_filter() -> None:
    with pytest.raises(StorageDataError, match="expected &"):
        bool(F("a") == 1)
    with pytest.raises(StorageDataError):
        _ = 1 < F("a") < 5


def deep_mapping(levels: int) -> dict[str, Any]:
    where: dict[str, Any] = {"a": 1}
    for _ in range(levels):
        where = {"not": {"or": [where, {"b": 1}]}}
    return where


def deep_filter(levels: int) -> Filter:
    where: Filter = F("a") == 1
    for _ in range(levels):
        where = ~(where | (F("b") == 1))
    return where


def deep_value(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


REFUSED: list[tuple[str, Callable[[], object]]] = [
    ("where", lambda: parse("a")),  # type: ignore[arg-type]
    ("where", lambda: parse([])),  # type: ignore[arg-type]
    ("where.a", lambda: parse({"a": {"gte": 1}})),
    ("where.a", lambda: parse({"a": {1: 1}})),
    ("where.a", lambda: parse({"a": {}})),
    ("where.a.b", lambda: parse({"a.b": {"lt": None}})),
    ("where.a", lambda: parse({"a": {"lt": True}})),
    ("where.a", lambda: parse({"a": {"lt": [1]}})),
    ("where.a", lambda: parse({"a": {"in": "abc"}})),
    ("where.a", lambda: parse({"a": {"in": {"x": 1}}})),
    ("where.a", lambda: parse({"a": {"in": 1}})),
    ("where.a", lambda: parse({"a": {"in": [b"x"]}})),
    ("where.a", lambda: parse({"a": {"exists": 1}})),
    ("where.a", lambda: parse({"a": {"starts_with": 1}})),
    ("where.a", lambda: parse({"a": {"between": [1]}})),
    ("where.a", lambda: parse({"a": {"between": [1, "x"]}})),
    ("where.a", lambda: parse({"a": {"between": [None, 1]}})),
    ("where.a", lambda: parse({"a": {"between": 1}})),
    ("where.a", lambda: parse({"a": math.nan})),
    ("where.a", lambda: parse({"a": {"ge": math.inf}})),
    ("where.a", lambda: parse({"a": [1, [-math.inf]]})),
    ("where.a", lambda: parse({"a": 2**63})),
    ("where.a", lambda: parse({"a": -(2**63) - 1})),
    ("where.a", lambda: parse({"a": b"x"})),
    ("where.a", lambda: parse({"a": object()})),
    ("where.a", lambda: parse({"a": {"eq": {1: 1}}})),
    ("where.a", lambda: parse({"a": {"eq": {"\0": 1}}})),
    ("where.a", lambda: parse({"a": "x\0"})),
    ("where.a", lambda: parse({"a": "\ud800"})),
    ("where.a", lambda: parse({"a": deep_value(40)})),
    ("where.a", lambda: parse({"a": deep_value(5000)})),
    ("where.a\\.b", lambda: F(["a.b"]) < None),
    ("where", lambda: parse({"": 1})),
    ("where", lambda: parse({"a..b": 1})),
    ("where", lambda: parse({"a.": 1})),
    ("where", lambda: parse({"a\\": 1})),
    ("where", lambda: parse({"a\0": 1})),
    ("where", lambda: parse({"a\udfff": 1})),
    ("where", lambda: parse({1: 1})),  # type: ignore[dict-item]
    ("where", lambda: F([])),
    ("where", lambda: F("a", -1)),
    ("where", lambda: F("a", True)),
    ("where", lambda: F(["a", 1.5])),
    ("where", lambda: F(b"a")),
    ("where", lambda: F(["a"] * 33)),
    ("where", lambda: F("0.1.2.3")),
    ("where.and", lambda: parse({"and": []})),
    ("where.or", lambda: parse({"or": {"a": 1}})),
    ("where", lambda: parse({"or": [{}]})),
    ("where", lambda: parse({"or": [1]})),
    ("where", lambda: parse({"not": {}})),
    ("where", lambda: parse({"not": [{"a": 1}]})),
    ("where", lambda: parse(deep_mapping(40))),
    ("where", lambda: parse(deep_mapping(5000))),
    ("where", lambda: parse(deep_filter(40))),
    ("where", lambda: parse({"or": [{"a": index} for index in range(257)]})),
    ("where", lambda: And(())),
    ("where", lambda: Or((1,))),  # type: ignore[arg-type]
    ("where", lambda: Not({"a": 1})),  # type: ignore[arg-type]
    ("where.a", lambda: Compare(("a",), "is", 1)),
    ("order_by", lambda: parse_order("a")),
    ("order_by", lambda: parse_order(["a"])),
    ("order_by", lambda: parse_order([("a", "up")])),
    ("order_by", lambda: parse_order([("a..b", "asc")])),
    ("order_by", lambda: parse_order(None)),
]


@pytest.mark.parametrize(("field", "make"), REFUSED)
def test_bad_input_names_the_field(field: str, make: Callable[[], object]) -> None:
    """G-2: the error names the argument and the path, and says what was expected."""
    with pytest.raises(StorageDataError, match="expected") as caught:
        make()
    assert caught.value.field == field


def test_messages_hold_no_values() -> None:
    """G-1: what a caller searches for may be a secret."""
    with pytest.raises(StorageDataError) as caught:
        parse({"key": {"between": ["hunter2", 1]}})
    assert "hunter2" not in str(caught.value)


def test_order() -> None:
    """Number < string < bool < array/object, then null, then missing, last both ways; id last."""
    rows: list[tuple[str, Any]] = [
    ("m", {}), ("n", {"v": None}), ("l", {"v": [1]}), ("k", {"v": {"a": 1}}), ("t", {"v": True}), ("f",
    {"v": False}),
    ("s2", {"v": "\U0001f600"}), ("s1", {"v": "\uffff"}), ("s0", {"v": ""}), ("n3", {"v": 2**64}), ("n2",
    {"v": 1.5}),
        ("n1b", {"v": 1.0}), ("n1a", {"v": 1}), ("n0", {"v": -3}),
    ]  # fmt: skip

    def ids(*order: tuple[str, str]) -> list[str]:
        parsed = parse_order(list(order))
        return [key for key, _ in sorted(rows, key=lambda row: sort_key(row[1], parsed, row[0]))]

    up = ["n0", "n1a", "n1b", "n2", "n3", "s0", "s1", "s2", "f", "t", "k", "l", "n", "m"]
    assert ids(("v", "asc")) == up
    down = ["k", "l", "t", "f", "s2", "s1", "s0", "n3", "n2", "n1a", "n1b", "n0", "n", "m"]
    assert ids(("v", "desc")) == down
    assert ids(("absent", "desc"), ("v", "asc")) == up
    assert ids() == sorted(up)


def test_what_is_no_filter_matches_nothing():
    with pytest.raises(StorageDataError):
        matches("age > 3", {"age": 4})
