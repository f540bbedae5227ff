"""IDX-1: what is stored when, what two instances see of each other, and that nothing is lost between them."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

import polymem
from polymem.attribute_index import AttributeIndex
from polymem.errors import Outcome, StorageConnectionError, StorageError
from polymem.store import Store

pytestmark = pytest.mark.anyio


async def everything(index: AttributeIndex) -> dict[str, Any]:
    """All that an index says, values in order."""
    ids = await index.find_by_attributes([("no such attribute", 0)], "NOT")
    found = {}
    for entity_id in ids:
        attributes = await index.attributes_of(entity_id)
        assert attributes is not None
        found[entity_id] = {name: sorted(values, key=repr) for name, values in attributes.items()}
        for name, values in attributes.items():
            for value in values:
                assert entity_id in await index.find_by_attribute(name, value)
    statistics = await index.statistics()
    assert statistics.entities == len(found)
    assert statistics.postings == sum(len(values) for one in found.values() for values in one.values())
    assert statistics.by_attribute.keys() == {name for one in found.values() for name in one}
    return found


def another(store: Store, **options: Any) -> AttributeIndex:
    return AttributeIndex(store, "documents", **options)


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


async def test_two_stores_on_one_file(url: str, store: Store) -> None:
    """Two openings, as two processes have; a `memory:` store is its opener's alone."""
    if url == "memory:":
        return
    async with polymem.open(url, sweep_every=None) as second:
        indexes = [another(store), another(second)]
        await asyncio.gather(*(one.add_attribute("a", f"by {i % 5}", i) for i in range(40) for one in indexes))
        await asyncio.gather(*(one.add_attribute("b", "n", [i, -i]) for i, one in enumerate(indexes * 10)))
        for one in indexes:
            await one.refresh()
        assert await everything(indexes[0]) == await everything(indexes[1])
        assert (await indexes[0].statistics()).by_attribute["n"].values == 39
        assert await indexes[1].values_for("by 0") == list(range(0, 40, 5))


async def test_concurrent_changes_to_one_entity_lose_nothing(store: Store) -> None:
    indexes = [another(store), another(store), another(store, autosave=False)]
    await asyncio.gather(*(indexes[i % 3].add_attribute("a", "n", i) for i in range(60)))
    await indexes[2].save()
    assert await another(store).values_for("n") == list(range(60))
    await asyncio.gather(*(indexes[i % 2].remove_attribute("a", "n", i) for i in range(0, 60, 2)))
    assert await another(store).values_for("n") == list(range(1, 60, 2))


class Slow:
    """Lets other tasks in before and after each call of an index's records, as a server far away does."""

    def __init__(self, index: AttributeIndex, seed: int) -> None:
        self.chance = random.Random(seed)
        kv: Any = index._mirror._records.entities
        for name in ("entry", "put_many", "delete_many", "compare_and_set", "clear"):
            setattr(kv, name, self.slowed(getattr(kv, name)))

    def slowed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        async def late(*args: Any, **kwargs: Any) -> Any:
            await self.pause()
            try:
                return await call(*args, **kwargs)
            finally:
                await self.pause()

        return late

    async def pause(self) -> None:
        for _ in range(self.chance.randrange(6)):
            await asyncio.sleep(0)


async def some_work(index: AttributeIndex, chance: random.Random) -> None:
    ids = [f"e{number}" for number in range(4)]
    for _ in range(12):
        entity_id, value = chance.choice(ids), chance.randrange(4)
        calls: list[Callable[[], Any]] = [
            lambda: index.add_attribute(entity_id, "x", value),  # noqa: B023 - called at once
            lambda: index.add_attribute(entity_id, "y", [value, True]),  # noqa: B023
            lambda: index.remove_attribute(entity_id, "x", value),  # noqa: B023
            lambda: index.remove_attribute(entity_id, "y"),  # noqa: B023
            lambda: index.remove_entity(entity_id),  # noqa: B023
            lambda: index.index_entities({one: {"x": value} for one in chance.sample(ids, 2)}),  # noqa: B023
            index.refresh,
            index.save,
            index.clear,
        ]
        await chance.choices(calls, [6, 3, 3, 1, 2, 2, 2, 1, 0.3])[0]()


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("autosave", [True, False])
async def test_memory_and_store_agree_after_any_race(store: Store, seed: int, *, autosave: bool) -> None:
    """Tasks of one instance, cancelled at times, in a race with each other: no refresh is needed to agree."""
    index, chance = another(store, autosave=autosave), random.Random(seed)
    Slow(index, seed)
    tasks = [asyncio.create_task(some_work(index, random.Random(seed * 100 + n))) for n in range(6)]
    for task in tasks[:2]:
        for _ in range(chance.randrange(40)):
            await asyncio.sleep(0)
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [one for one in outcomes if one is not None and not isinstance(one, asyncio.CancelledError)] == []
    await index.save()
    assert await everything(index) == await everything(another(store))


@pytest.mark.parametrize("seed", range(15))
async def test_two_instances_agree_after_refresh(store: Store, seed: int) -> None:
    indexes = [another(store), another(store, autosave=False)]
    for index in indexes:
        Slow(index, seed)
    await asyncio.gather(*(some_work(index, random.Random(seed * 10 + n)) for n in range(2) for index in indexes))
    await indexes[1].save()
    for index in indexes:
        await index.refresh()
    assert await everything(indexes[0]) == await everything(indexes[1]) == await everything(another(store))


class Held:
    """The reply of one call of an index's records is held back: its work is done, its caller does not know yet."""

    def __init__(self, index: AttributeIndex, name: str) -> None:
        self.done, self.release, self._first = asyncio.Event(), asyncio.Event(), True
        kv: Any = index._mirror._records.entities
        self._call = getattr(kv, name)
        setattr(kv, name, self.scan if name == "entries" else self.held)

    async def held(self, *args: Any) -> Any:
        if not self._first:
            return await self._call(*args)
        self._first = False
        answer = await self._call(*args)
        await self.hold()
        return answer

    async def scan(self) -> Any:
        found = [entry async for entry in self._call()]
        await self.hold()
        for entry in found:
            yield entry

    async def hold(self) -> None:
        self.done.set()
        await self.release.wait()


async def settle(*work: Any) -> None:
    """Start the work and give it time for all it can do now; a bound would not help, it is over at once or blocked."""
    await asyncio.wait([asyncio.ensure_future(one) for one in work], timeout=0.05)


async def test_replies_in_another_order_do_not_matter(index: AttributeIndex, store: Store) -> None:
    held = Held(index, "put_many")
    first = asyncio.create_task(index.index_entities({"a": {"x": 1}}))
    await held.done.wait()
    second = asyncio.create_task(index.add_attribute("a", "x", 2))
    await settle(asyncio.shield(second))
    held.release.set()
    await asyncio.gather(first, second)
    assert await everything(index) == await everything(another(store)) == {"a": {"x": [1, 2]}}


async def test_a_save_in_waiting_takes_what_is_unsaved_when_its_turn_comes(store: Store) -> None:
    index = another(store, autosave=False)
    await index.index_entities({"a": {"x": 1}, "b": {"x": 1}})
    held = Held(index, "put_many")
    saves = [asyncio.create_task(index.save())]
    await held.done.wait()
    saves.append(asyncio.create_task(index.save()))
    load = asyncio.create_task(index.load())
    await settle(asyncio.shield(load))
    await index.add_attribute("b", "x", 2)
    held.release.set()
    await asyncio.gather(*saves, load)
    await index.save()
    assert await everything(index) == await everything(another(store)) == {"a": {"x": [1]}, "b": {"x": [1, 2]}}


async def test_a_cancelled_change_is_finished_first(index: AttributeIndex, store: Store) -> None:
    held = Held(index, "compare_and_set")
    change = asyncio.create_task(index.add_attribute("a", "x", 1))
    await held.done.wait()
    change.cancel()
    await settle(asyncio.shield(change))
    assert not change.done()
    held.release.set()
    with pytest.raises(asyncio.CancelledError):
        await change
    assert await everything(index) == await everything(another(store)) == {"a": {"x": [1]}}


async def test_a_refresh_does_not_undo_what_was_stored_meanwhile(index: AttributeIndex, store: Store) -> None:
    await index.index_entities({"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1}})
    await another(store).remove_entity("b")
    held = Held(index, "entries")
    refresh = asyncio.create_task(index.refresh())
    await held.done.wait()
    await index.add_attribute("a", "x", 2)
    await index.add_attribute("b", "x", 2)
    await index.remove_entity("c")
    held.release.set()
    await refresh
    assert await everything(index) == await everything(another(store)) == {"a": {"x": [1, 2]}, "b": {"x": [2]}}


async def test_a_late_reply_does_not_undo_a_refresh(index: AttributeIndex, store: Store) -> None:
    await index.load()
    held = Held(index, "compare_and_set")
    change = asyncio.create_task(index.add_attribute("a", "x", 1))
    await held.done.wait()
    assert await another(store).remove_entity("a")
    refresh = asyncio.create_task(index.refresh())
    await settle(asyncio.shield(refresh))
    held.release.set()
    await asyncio.gather(change, refresh)
    assert await everything(index) == await everything(another(store)) == {}


def failing(index: AttributeIndex, name: str, monkeypatch: pytest.MonkeyPatch, *, after: bool) -> None:
    """One method of the index's records fails, before or after its work."""
    kv = index._mirror._records.entities
    work = getattr(kv, name)

    async def fail(*args: Any) -> None:
        if after:
            await work(*args)
        raise StorageConnectionError("cut off", outcome=Outcome.UNKNOWN if after else Outcome.NOT_APPLIED)

    monkeypatch.setattr(kv, name, fail)


@pytest.mark.parametrize("after", [True, False])
async def test_a_failed_write_leaves_memory_as_the_store_is(
    index: AttributeIndex, store: Store, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    await index.index_entities({"a": {"x": 1}, "b": {"x": 1}})
    for name in ("put_many", "delete_many", "compare_and_set"):
        failing(index, name, monkeypatch, after=after)
    for call in (
        lambda: index.index_entities({"a": {"x": 2}, "n": {"x": 2}}),
        lambda: index.remove_entity("b"),
        lambda: index.add_attribute("c", "x", 3),
    ):
        with pytest.raises(StorageError, match="cut off"):
            await call()
    monkeypatch.undo()
    assert await everything(index) == await everything(another(store))
    assert await index.find_by_attribute("x", 2) == ({"a", "n"} if after else set())


@pytest.mark.parametrize("after", [True, False])
async def test_a_failed_save_can_be_repeated(store: Store, monkeypatch: pytest.MonkeyPatch, *, after: bool) -> None:
    await another(store).index_entities({"a": {"x": 1}, "b": {"x": 1}})
    index = another(store, autosave=False)
    await index.add_attribute("a", "x", 2)
    await index.index_entities({"b": {"x": 5}})
    wanted = {"a": {"x": [1, 2]}, "b": {"x": [5]}}
    for name in ("put_many", "compare_and_set"):
        failing(index, name, monkeypatch, after=after)
        with pytest.raises(StorageError, match="cut off"):
            await index.save()
        assert await everything(index) == wanted
        monkeypatch.undo()
        if name == "put_many":
            await index.save()
            await index.add_attribute("a", "x", 3)
            wanted["a"] = {"x": [1, 2, 3]}
    assert (await index.statistics()).unsaved == 1
    await index.save()
    assert await everything(another(store)) == wanted


async def test_changes_made_during_a_save_stay_unsaved(store: Store) -> None:
    index = another(store, autosave=False)
    await index.index_entities({"a": {"x": 1}, "b": {"x": 1}})
    kv: Any = index._mirror._records.entities
    put_many = kv.put_many

    async def meanwhile(items: Any) -> Any:
        await index.add_attribute("a", "x", 2)
        await index.index_entities({"b": {"x": 9}})
        return await put_many(items)

    kv.put_many = meanwhile
    assert await index.save() == 2
    kv.put_many = put_many
    assert await everything(another(store)) == {"a": {"x": [1]}, "b": {"x": [1]}}
    assert await everything(index) == {"a": {"x": [1, 2]}, "b": {"x": [9]}}
    assert (await index.statistics()).unsaved == 2
    await index.save()
    assert await everything(another(store)) == await everything(index)


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
