"""IDX-1, REL-1: an index stored by one version loads in the next; what a newer one stored is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from polymem.attribute_index import AttributeIndex
from polymem.errors import StorageCorruptError
from polymem.store import Store

pytestmark = pytest.mark.anyio

FORMAT_1 = Path(__file__).parent / "format_1.json"
"""What format 1 stores, written once by the version that introduced it. Never write it again: add a file."""
LIBRARY: dict[str, dict[str, Any]] = {
    "book:1": {"author": "Ada Lovelace", "year": 1843, "tags": ["engine", "notes"], "public": True, "isbn": None},
    "book:2": {"author": "Émilie du Châtelet", "year": 1740.5, "tags": ["physics", 1, False], "public": False},
    "book/3 %": {},
}


async def restore(store: Store, snapshot: dict[str, Any]) -> None:
    """Put a snapshot where an index named `library` is stored."""
    place = store.namespace("attribute_index", "library")
    await place.kv.put("header", snapshot["header"])
    await place.namespace("entities").kv.put_many(snapshot["entities"])


async def snapshot_of(store: Store) -> dict[str, Any]:
    place = store.namespace("attribute_index", "library")
    entities = {entry.key: entry.value async for entry in place.namespace("entities").kv.entries()}
    return {"header": await place.kv.get("header"), "entities": entities}


async def test_format_1_loads(store: Store) -> None:
    await restore(store, json.loads(FORMAT_1.read_text()))
    index = AttributeIndex(store, "library")
    assert await index.find_by_attribute("author", "Émilie du Châtelet") == {"book:2"}
    assert await index.find_by_attribute("year", operator="range", low=1740.5, high=1843) == {"book:1", "book:2"}
    assert await index.find_by_attributes([("tags", "notes"), ("public", True), ("isbn", None)]) == {"book:1"}
    assert await index.attributes_of("book/3 %") == {}
    assert await index.values_for("tags") == [1, "engine", "notes", "physics", False]
    assert await index.add_attribute("book/3 %", "year", 1666)


async def test_this_version_writes_format_1(store: Store) -> None:
    """Another layout needs another format number, another file here, and this test for it."""
    await AttributeIndex(store, "library").index_entities(LIBRARY)
    written = await snapshot_of(store)
    assert json.dumps(written, sort_keys=True) == json.dumps(json.loads(FORMAT_1.read_text()), sort_keys=True)


@pytest.mark.parametrize("header", [{"format": 2}, {"format": "1"}, {"format": True}, {}, "1"])
async def test_an_unknown_format_is_refused_and_left_untouched(store: Store, header: Any) -> None:
    snapshot = {"header": header, "entities": {"a": {"another": "layout"}}}
    await restore(store, snapshot)
    index = AttributeIndex(store, "library")
    calls = [index.load, index.refresh, index.save, index.all_attributes, index.clear]
    for call in [*calls, lambda: index.add_attribute("a", "x", 1), lambda: index.remove_entity("a")]:
        with pytest.raises(StorageCorruptError) as caught:
            await call()
        assert caught.value.field == "format"
        if header == {"format": 2}:
            assert "format 2, written by a newer version; this one reads up to 1" in str(caught.value)
    assert await snapshot_of(store) == snapshot


async def test_a_newer_version_that_came_meanwhile_is_refused(store: Store) -> None:
    index = AttributeIndex(store, "library")
    assert await index.all_attributes() == []
    await restore(store, {"header": {"format": 2}, "entities": {}})
    with pytest.raises(StorageCorruptError, match="newer version"):
        await index.add_attribute("a", "x", 1)
    assert (await snapshot_of(store))["entities"] == {}


@pytest.mark.parametrize("record", [1, None, [], {"x": 1}, {"x": [[1]]}, {"x": [{}]}, {"x": None}])
async def test_a_damaged_record_is_an_error(store: Store, record: Any) -> None:
    await restore(store, {"header": {"format": 1}, "entities": {"a": {"x": [1]}, "b": record}})
    index = AttributeIndex(store, "library")
    for _ in range(2):
        with pytest.raises(StorageCorruptError):
            await index.find_by_attribute("x", 1)
    assert await index.clear() == 2
    assert await index.find_by_attribute("x", 1) == set()


async def test_equal_values_in_a_foreign_record_count_once(store: Store) -> None:
    await restore(store, {"header": {"format": 1}, "entities": {"a": {"x": [1, 1.0, True, 10**30]}}})
    index = AttributeIndex(store, "library")
    assert (await index.statistics()).postings == 3
    assert await index.remove_attribute("a", "x", 1)
    assert await index.find_by_attribute("x", 1) == set()
    assert await index.find_by_attribute("x", operator="range", low=1e29) == {"a"}
