"""TRN-1 in the file: numbering without races, expiry, pages, and statements that use the index."""

import asyncio
from pathlib import Path

import pytest
from conftest import NewStore

from polymem.core.clock import ManualClock
from polymem.engines.sqlite import turns as cell
from polymem.errors import StorageConflictError
from polymem.store import Store

pytestmark = pytest.mark.anyio
X = {"role": "user", "content": "x"}


async def numbers(store: Store, session: str = "s", **options: bool) -> list[int]:
    return [turn.turn_id async for turn in store.turns.scan(session, **options)]


async def test_concurrent_appends_never_share_a_number(store: Store, new_store: NewStore) -> None:
    async with new_store() as other:
        await asyncio.gather(*(s.turns.append("s", "user", str(n)) for n in range(100) for s in (store, other)))
    assert await numbers(store) == list(range(1, 201))


async def test_content_and_metadata_come_back_as_they_were(store: Store) -> None:
    parts = [{"type": "text", "text": "ü 🙂 'quoted' \n"}, {"type": "image", "blob": "b/1", "n": 2**70, "f": 1e300}]
    given = await store.turns.append("s:*/%", "tool", parts, metadata={"a": [None, True, ""]}, id="id 'x'")
    assert await store.turns.get("s:*/%", 1) == given
    assert (given.content, given.metadata, given.id) == (parts, {"a": [None, True, ""]}, "id 'x'")
    assert (await store.turns.append("s", "user", "")).content == ""


async def test_batches_mix_given_and_made_numbers(store: Store) -> None:
    made = await store.turns.append_many("s", [X, {**X, "turn_id": 7}, X, {**X, "turn_id": 3}, X])
    assert [turn.turn_id for turn in made] == [1, 7, 8, 3, 9]
    assert await numbers(store) == [1, 3, 7, 8, 9]


async def test_a_conflict_leaves_nothing_of_the_batch(store: Store) -> None:
    await store.turns.append("s", "user", "old", turn_id=5)
    for batch in ([X, {**X, "turn_id": 5}], [{**X, "turn_id": 2}, {**X, "turn_id": 2}]):
        with pytest.raises(StorageConflictError) as caught:
            await store.turns.append_many("s", batch)
        assert caught.value.field == "turn_id"
    with pytest.raises(StorageConflictError):
        await store.turns.append("s", "user", "new", turn_id=5)
    assert [turn.content for turn in await store.turns.recent("s")] == ["old"]


async def test_replace(store: Store) -> None:
    await store.turns.append("s", "user", "old", turn_id=5, ttl=None)
    new = await store.turns.append("s", "assistant", "new", turn_id=5, replace=True, metadata={"a": 1})
    assert await store.turns.get("s", 5) == new
    assert await store.turns.count() == 1


async def test_expired_turns_are_absent_and_may_be_overwritten(store: Store, clock: ManualClock) -> None:
    """G-6, and numbering goes on above what is still stored."""
    await store.turns.append("s", "user", "short", ttl=1)
    await store.turns.append("s", "user", "long", ttl=100)
    clock.advance(1)
    turns = store.turns
    assert await turns.get("s", 1) is None
    assert [t.content for t in await turns.recent("s")] == ["long"]
    assert await numbers(store) == [2]
    assert (await turns.count("s"), await turns.count()) == (1, 1)
    assert await numbers(store, include_expired=True) == [1, 2]
    assert await turns.count("s", include_expired=True) == await turns.count(include_expired=True) == 2
    assert (await turns.get("s", 1, include_expired=True)) is not None
    await turns.append("s", "user", "again", turn_id=1)
    assert await numbers(store) == [1, 2]
    assert (await turns.append("s", "user", "next", ttl=-1)).turn_id == 3
    assert (await turns.append("s", "user", "next")).turn_id == 4


async def test_delete_and_clear_count_the_living(store: Store, clock: ManualClock) -> None:
    """G-7"""
    await store.turns.append_many("s", [{**X, "ttl": 1}, X, {**X, "ttl": None}, {**X, "ttl": 1}])
    await store.turns.append("t", "user", "x")
    clock.advance(1)
    assert await store.turns.delete_many("s", [1, 2, 99]) == 1
    assert await store.turns.delete("s", 2) is False
    assert await store.turns.clear("s") == 1
    assert await store.turns.count(include_expired=True) == 1


async def test_recent_pages_backwards(store: Store) -> None:
    await store.turns.append_many("s", [X] * 20)
    recent = store.turns.recent
    assert [t.turn_id for t in await recent("s", limit=3)] == [20, 19, 18]
    assert [t.turn_id for t in await recent("s", limit=3, offset=18)] == [2, 1]
    assert [t.turn_id for t in await recent("s", limit=2, newest_first=False)] == [19, 20]
    assert await recent("s", limit=2, offset=20) == []


async def test_scanning_takes_several_pages(store: Store) -> None:
    await store.turns.append_many("s", [X] * 1201)
    assert await numbers(store) == list(range(1, 1202))


async def test_sessions_are_those_with_a_living_turn(store: Store, clock: ManualClock) -> None:
    for name in ("b", "a", "ü", "a b", "A"):
        await store.turns.append_many(name, [X] * 3)
    await store.turns.append("gone", "user", "x", ttl=1)
    await store.namespace("n").turns.append("elsewhere", "user", "x")
    clock.advance(1)
    assert [name async for name in store.turns.sessions()] == ["A", "a", "a b", "b", "ü"]
    driver = store.engine.drivers("").turns
    first = await driver.sessions(None, 2)
    assert (first.items, first.after) == (["A", "a"], "a")
    assert (await driver.sessions("a", 2)).items == ["a b", "b"]
    assert (await driver.sessions("ü", 2)).items == []


async def test_namespaces_are_apart(store: Store) -> None:
    for name in ("a", "a%", "A"):
        await store.namespace(name).turns.append("s", "user", name)
    assert [t.content for t in await store.namespace("a").turns.recent("s")] == ["a"]
    assert await store.namespace("a").turns.clear("s") == 1
    assert await store.namespace("a%").turns.count() == 1


async def test_turns_survive_reopening(new_store: NewStore, path: Path) -> None:
    async with new_store() as store:
        turn = await store.turns.append("s", "user", "kept")
    async with new_store() as store:
        assert await store.turns.get("s", 1) == turn


@pytest.mark.parametrize("name", ["_GET", "_RECENT", "_PAGE", "_COUNT", "_HIGHEST", "_SESSIONS", "_COUNT_ALL"])
async def test_statements_search_the_primary_key(store: Store, name: str) -> None:
    statement = getattr(cell, name)
    wanted = ["n", "s", 5, 1, 1, 1][
        : statement.count("?6") and 6 or max(int(d) for d in "123456" if f"?{d}" in statement)
    ]
    plan = await store.sql.query(f"explain query plan {statement}", wanted)
    steps = [step for *_, step in plan]
    assert any("SEARCH pm_turns USING PRIMARY KEY (namespace=?" in step for step in steps), steps
    assert not any("SCAN pm_turns" in step or "TEMP B-TREE" in step for step in steps), steps
