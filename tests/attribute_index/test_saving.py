"""IDX-1: what is stored when, and what two instances see of each other."""

from collections.abc import Callable
from typing import Any

import pytest
from attribute_index.instances import another, everything

from polymem.attribute_index import AttributeIndex
from polymem.store import Store

pytestmark = pytest.mark.anyio


async def test_each_change_is_stored_when_its_call_returns(index: AttributeIndex, store: Store) -> None:
    steps: list[tuple[Callable[[], Any], Any, dict[str, Any]]] = [
        (lambda: index.add_attribute("a", "tag", "x"), True, {"a": {"tag": ["x"]}}),
        (lambda: index.add_attribute("a", "tag", "x"), False, {"a": {"tag": ["x"]}}),
        (lambda: index.add_attribute("a", "tag", ["x", "y", 1, 1.0, True]), True, {"a": {"tag": ["x", "y", 1, True]}}),
        (lambda: index.remove_attribute("a", "tag", [1.0, "none"]), True, {"a": {"tag": ["x", "y", True]}}),
        (lambda: index.remove_attribute("a", "tag", 1), False, {"a": {"tag": ["x", "y", True]}}),
        (lambda: index.remove_attribute("a", "other"), False, {"a": {"tag": ["x", "y", True]}}),
        (lambda: index.remove_attribute("b", "tag"), False, {"a": {"tag": ["x", "y", True]}}),
        (lambda: index.add_attribute("b", "none", []), True, {"a": {"tag": ["x", "y", True]}, "b": {}}),
        (lambda: index.remove_attribute("a", "tag"), True, {"a": {}, "b": {}}),
        (lambda: index.remove_entity("a"), True, {"b": {}}),
        (lambda: index.remove_entity("a"), False, {"b": {}}),
        (lambda: index.index_entities({"b": {"x": 1}, "c": {"y": None}}), 2, {"b": {"x": [1]}, "c": {"y": [None]}}),
        (lambda: index.index_entities([("b", {"z": [True]})]), 1, {"b": {"z": [True]}, "c": {"y": [None]}}),
        (lambda: index.clear(), 2, {}),
        (lambda: index.clear(), 0, {}),
    ]
    for call, answer, stored in steps:
        assert await call() is answer or (type(answer) is int and answer == 0)
        wanted = {one: {n: sorted(v, key=repr) for n, v in given.items()} for one, given in stored.items()}
        assert await everything(index) == wanted
        assert await everything(another(store)) == wanted


async def test_one_change_writes_only_its_entity(index: AttributeIndex, store: Store) -> None:
    await index.index_entities({f"e{number}": {"n": number} for number in range(20)})
    kv = store.namespace("attribute_index", "documents", "entities").kv
    before = {entry.key: entry.version async for entry in kv.entries()}
    await index.add_attribute("e7", "n", 70)
    after = {entry.key: entry.version async for entry in kv.entries()}
    assert {key for key in after if after[key] != before[key]} == {"e7"}


async def test_without_autosave_changes_wait_for_save(store: Store) -> None:
    await another(store).index_entities({"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 3}})
    index = another(store, autosave=False)
    assert await index.add_attribute("a", "x", 10)
    assert await index.remove_entity("b")
    assert not await index.remove_entity("z")
    assert await index.index_entities({"c": {"y": 1}, "d": {"x": 4}}) == 2
    assert await index.add_attribute("d", "x", 5)
    assert (await index.statistics()).unsaved == 5
    assert await index.find_by_attribute("x", 10) == {"a"}
    assert await everything(another(store)) == {"a": {"x": [1]}, "b": {"x": [2]}, "c": {"x": [3]}}
    assert await index.save() == 5
    wanted = {"a": {"x": [1, 10]}, "c": {"y": [1]}, "d": {"x": [4, 5]}}
    assert await everything(another(store)) == await everything(index) == wanted
    assert (await index.statistics()).unsaved == 0
    assert await index.save() == 0


async def test_load_drops_unsaved_changes_and_refresh_keeps_them(store: Store) -> None:
    await another(store).index_entities({"a": {"x": 1}})
    index, other = another(store, autosave=False), another(store)
    await index.add_attribute("a", "x", 2)
    await index.add_attribute("new", "x", 2)
    await other.add_attribute("a", "x", 3)
    assert await index.refresh() == 1
    assert await everything(index) == {"a": {"x": [1, 2, 3]}, "new": {"x": [2]}}
    await index.load()
    assert await everything(index) == {"a": {"x": [1, 3]}}
    assert await index.save() == 0
    assert await everything(another(store)) == {"a": {"x": [1, 3]}}


async def test_save_merges_with_what_others_stored(store: Store) -> None:
    await another(store).index_entities({"a": {"x": [1, 2]}, "b": {"x": 1}, "gone": {"x": 1}})
    index, other = another(store, autosave=False), another(store)
    await index.add_attribute("a", "x", 3)
    await index.remove_attribute("a", "x", 1)
    await index.add_attribute("b", "x", 1)
    await index.add_attribute("gone", "y", 1)
    await other.add_attribute("a", "x", 4)
    await other.remove_attribute("b", "x")
    await other.remove_entity("gone")
    await index.save()
    assert await everything(index) == await everything(another(store))
    assert await everything(index) == {"a": {"x": [2, 3, 4]}, "b": {"x": [1]}, "gone": {"y": [1]}}


async def test_refresh_sees_what_others_stored(store: Store) -> None:
    """Promise: `refresh()` brings everything acknowledged before it was called; until then answers may be older."""
    index, other = another(store), another(store)
    await index.index_entities({"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1}})
    assert await everything(other) == await everything(index)
    await other.add_attribute("a", "x", 2)
    await other.remove_entity("b")
    await other.add_attribute("d", "x", 2)
    assert await index.find_by_attribute("x", 2) == set()
    assert await index.refresh() == 3
    assert await index.find_by_attribute("x", 2) == {"a", "d"}
    assert await everything(index) == await everything(other)
    assert await index.refresh() == 0


async def test_a_change_is_made_on_what_is_stored_not_on_what_was_seen(store: Store) -> None:
    index, other = another(store), another(store)
    await index.index_entities({"a": {"x": [1, 2]}})
    assert await other.remove_attribute("a", "x", 1)
    assert await index.add_attribute("a", "x", 1)
    assert await other.remove_attribute("a", "x", 2)
    assert not await index.remove_attribute("a", "x", 2)
    assert await index.find_by_attribute("x", 2) == set()
    assert await other.remove_entity("a")
    assert not await index.remove_entity("a")
    assert await other.add_attribute("a", "x", 5)
    assert await index.remove_entity("a")
    assert await everything(another(store)) == {}


async def test_names_are_apart_and_anything_may_be_an_id(store: Store) -> None:
    """Indexes of other names and namespaces, and hostile ids and names (G-4)."""
    hostile = ["header", "a/b", "%", "*", "{}", "'; --", " ", "\U0001f600", "é" * 256, "_"]
    one, two = AttributeIndex(store, "one"), AttributeIndex(store, "two")
    within = AttributeIndex(store.namespace("acme"), "one")
    await one.index_entities({name: {name: name} for name in hostile})
    await two.add_attribute("a", "x", 1)
    await within.add_attribute("b", "x", 1)
    await one.load()
    for name in hostile:
        assert await one.find_by_attribute(name, name) == {name}
    assert await one.all_attributes() == sorted(hostile)
    assert await AttributeIndex(store, "two").find_by_attribute("x", 1) == {"a"}
    assert await AttributeIndex(store.namespace("acme"), "one").find_by_attribute("x", 1) == {"b"}
    await two.clear()
    assert (await AttributeIndex(store, "one").statistics()).entities == len(hostile)


async def test_in_a_transaction(store: Store) -> None:
    with pytest.raises(ZeroDivisionError):
        async with store.transaction() as tx:
            await another(tx).add_attribute("a", "x", 1)
            raise ZeroDivisionError
    assert await everything(another(store)) == {}
    async with store.transaction() as tx:
        await another(tx).add_attribute("a", "x", 1)
    assert await everything(another(store)) == {"a": {"x": [1]}}


async def test_more_than_a_page(store: Store) -> None:
    index = another(store, autosave=False)
    rows = {f"e{number:04}": {"n": number, "odd": bool(number % 2)} for number in range(1234)}
    await index.index_entities(rows)
    assert await index.save() == 1234
    await index.index_entities({})
    other = another(store)
    assert await other.find_by_attribute("n", operator="range", low=1000) == {f"e{n:04}" for n in range(1000, 1234)}
    assert len(await other.find_by_attribute("odd", True)) == 617
    for entity_id in rows:
        await index.add_attribute(entity_id, "more", 1)
    assert await index.save() == 1234
    assert await other.refresh() == 1234
    assert len(await other.find_by_attribute("more", 1)) == 1234
