"""IDX-1: nothing is lost between tasks and instances, in whatever order replies come."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from attribute_index.instances import Held, Slow, another, everything, settle

import polymem
from polymem.attribute_index import AttributeIndex, mirror
from polymem.store import Store

pytestmark = pytest.mark.anyio


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
async def test_memory_and_store_agree_after_any_race(
    store: Store, seed: int, monkeypatch: pytest.MonkeyPatch, *, autosave: bool
) -> None:
    """Tasks of one instance, cancelled at times, in a race with each other: no refresh is needed to agree."""
    monkeypatch.setattr(mirror, "_BATCH", 1 + seed % 2)  # what one call writes are then several batches, or one
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
