"""IDX-1: after a write that failed the index says what is stored, and the write can be repeated (G-1)."""

from typing import Any

import pytest
from attribute_index.instances import another, everything

from polymem.attribute_index import AttributeIndex, mirror
from polymem.errors import Outcome, StorageConnectionError, StorageError
from polymem.store import Store

pytestmark = pytest.mark.anyio


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


@pytest.mark.parametrize("batch", [1, 3])
async def test_of_many_entities_those_of_other_batches_are_stored(
    store: Store, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """Several batches are written side by side: when the call raises, each is stored or not, and none is under way."""
    monkeypatch.setattr(mirror, "_BATCH", batch)
    index = another(store, autosave=False)
    await index.index_entities({f"e{number}": {"x": number} for number in range(6)})
    put_many = index._mirror._records.entities.put_many

    async def refuse_one(entities: dict[str, Any]) -> dict[str, int]:
        if "e1" in entities:
            raise StorageConnectionError("cut off", outcome=Outcome.NOT_APPLIED)
        return await put_many(entities)

    monkeypatch.setattr(index._mirror._records.entities, "put_many", refuse_one)
    with pytest.raises(StorageError, match="cut off"):
        await index.save()
    stored = await everything(another(store))
    assert set(stored) == ({"e0", "e2", "e3"} if batch == 1 else {"e3", "e4", "e5"})  # and with one each four at a time
    assert (await index.statistics()).unsaved == 3
    monkeypatch.undo()
    assert await index.save() == 3
    assert len(await everything(another(store))) == 6


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
