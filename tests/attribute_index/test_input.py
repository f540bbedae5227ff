"""G-2: bad input names its field, says what was expected, and changes nothing."""

from collections.abc import Callable
from enum import IntEnum
from types import MappingProxyType
from typing import Any

import pytest

from polymem.attribute_index import AttributeIndex
from polymem.errors import StorageDataError
from polymem.store import Store

pytestmark = pytest.mark.anyio
Call = Callable[[AttributeIndex], Any]

CASES: list[tuple[str, Call]] = [
    ("entity_id", lambda i: i.add_attribute("", "x", 1)),
    ("entity_id", lambda i: i.add_attribute(5, "x", 1)),
    ("entity_id", lambda i: i.add_attribute("a" * 513, "x", 1)),
    ("entity_id", lambda i: i.remove_attribute("a\0", "x")),
    ("entity_id", lambda i: i.remove_entity("\ud800")),
    ("entity_id", lambda i: i.attributes_of(None)),
    ("name", lambda i: i.add_attribute("a", "", 1)),
    ("name", lambda i: i.remove_attribute("a", 1)),
    ("name", lambda i: i.find_by_attribute(None, 1)),
    ("name", lambda i: i.values_for("")),
    ("value", lambda i: i.add_attribute("a", "x", {})),
    ("value", lambda i: i.add_attribute("a", "x", b"1")),
    ("value", lambda i: i.add_attribute("a", "x", float("nan"))),
    ("value", lambda i: i.add_attribute("a", "x", 2**63)),
    ("value", lambda i: i.add_attribute("a", "x", "\0")),
    ("value[1]", lambda i: i.add_attribute("a", "x", [1, [2]])),
    ("value", lambda i: i.remove_attribute("a", "x", {1})),
    ("value", lambda i: i.find_by_attribute("x")),
    ("value", lambda i: i.find_by_attribute("x", [1])),
    ("value", lambda i: i.find_by_attribute("x", float("inf"))),
    ("value", lambda i: i.find_by_attribute("x", 1, operator="starts_with")),
    ("value", lambda i: i.find_by_attribute("x", operator="contains")),
    ("value", lambda i: i.find_by_attribute("x", 1, operator="range", low=1)),
    ("operator", lambda i: i.find_by_attribute("x", 1, operator="like")),
    ("operator", lambda i: i.find_by_attribute("x", 1, operator=["equals"])),
    ("low", lambda i: i.find_by_attribute("x", operator="range")),
    ("low", lambda i: i.find_by_attribute("x", operator="range", low=True)),
    ("low", lambda i: i.find_by_attribute("x", operator="range", low=[])),
    ("low", lambda i: i.find_by_attribute("x", 1, low=1)),
    ("high", lambda i: i.find_by_attribute("x", operator="range", high=False)),
    ("high", lambda i: i.find_by_attribute("x", operator="range", low=1, high="2")),
    ("high", lambda i: i.find_by_attribute("x", "1", operator="contains", high="2")),
    ("operator", lambda i: i.find_by_attributes([("x", 1)], "XOR")),
    ("operator", lambda i: i.find_by_attributes([("x", 1)], "and")),
    ("operator", lambda i: i.find_by_attributes([("x", 1)], None)),
    ("conditions", lambda i: i.find_by_attributes([])),
    ("conditions", lambda i: i.find_by_attributes("x")),
    ("conditions", lambda i: i.find_by_attributes({"name": "x", "value": 1})),
    ("conditions[0]", lambda i: i.find_by_attributes(["x"])),
    ("conditions[0].name", lambda i: i.find_by_attributes([{"value": 1}])),
    ("conditions[0].value", lambda i: i.find_by_attributes([("x",)])),
    ("conditions[1].vaule", lambda i: i.find_by_attributes([("x", 1), {"name": "x", "vaule": 1}])),
    ("conditions[1].operator", lambda i: i.find_by_attributes([("x", 1), ("x", 1, "is")])),
    ("conditions[0].high", lambda i: i.find_by_attributes([{"name": "x", "operator": "range", "low": 1, "high": ""}])),
    ("entities", lambda i: i.index_entities("abc")),
    ("entities", lambda i: i.index_entities(None)),
    ("entities", lambda i: i.index_entities([("b", {"x": 1}), ("c",)])),
    ("entities id", lambda i: i.index_entities({"b": {"x": 1}, "": {"x": 1}})),
    ("attributes", lambda i: i.index_entities({"b": {"x": 1}, "c": [1]})),
    ("attributes name", lambda i: i.index_entities({"b": {"x": 1}, "c": {1: 1}})),
    ("attributes.x", lambda i: i.index_entities({"b": {"x": 1}, "c": {"x": {"y": 1}}})),
    ("attributes.x[1]", lambda i: i.index_entities({"b": {"x": 1}, "c": {"x": [1, None, {}][::2]}})),
]


@pytest.mark.parametrize("autosave", [True, False])
@pytest.mark.parametrize(("field", "call"), CASES)
async def test_bad_input_names_its_field(store: Store, field: str, call: Call, *, autosave: bool) -> None:
    index = AttributeIndex(store, "documents", autosave=autosave)
    await index.index_entities({"a": {"x": [1, "a"]}})
    await index.save()
    before = await index.statistics()
    with pytest.raises(StorageDataError) as caught:
        await call(index)
    assert caught.value.field == field
    assert "expected" in str(caught.value) or field != "operator"
    assert await index.statistics() == before
    assert (await AttributeIndex(store, "documents").statistics()) == before


@pytest.mark.parametrize("name", ["", "a b", "a/b", None, "a" * 64])
async def test_the_index_has_a_plain_name(store: Store, name: Any) -> None:
    with pytest.raises(StorageDataError) as caught:
        AttributeIndex(store, name)
    assert caught.value.field == "name"


async def test_autosave_is_a_bool(store: Store) -> None:
    with pytest.raises(StorageDataError) as caught:
        AttributeIndex(store, "x", autosave="no")  # type: ignore[arg-type]
    assert caught.value.field == "autosave"


async def test_subclasses_of_scalars_are_kept_plain(index: AttributeIndex, store: Store) -> None:
    class Level(IntEnum):
        HIGH = 3

    class Name(str):
        __slots__ = ()

    await index.index_entities(MappingProxyType({"a": MappingProxyType({"level": Level.HIGH, "name": (Name("n"),)})}))
    assert await index.find_by_attribute("level", Level.HIGH) == {"a"}
    found = await AttributeIndex(store, "documents").attributes_of("a")
    assert found == {"level": [3], "name": ["n"]}
    assert await index.find_by_attribute("name", Name("n"), operator="starts_with") == {"a"}
