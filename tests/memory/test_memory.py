"""`Memory` end to end on both engines (TIER-3, G-6, G-8)."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import polymem
from polymem import F
from polymem.core.clock import ManualClock, to_datetime
from polymem.errors import (
    StorageConflictError,
    StorageConnectionError,
    StorageDataError,
    StorageNotFoundError,
    StorageUnsupportedError,
)
from polymem.memory.memory import Memory
from polymem.store import Store

pytestmark = pytest.mark.anyio
DAY = datetime(2023, 5, 8, 12, tzinfo=UTC)


def test_an_engine_that_cannot_search_is_refused_with_those_that_can() -> None:
    with pytest.raises(StorageUnsupportedError, match="needs sqlite, postgresql or memory"):
        Memory.open("file:notes.json")


async def test_a_turn_comes_back_as_it_went_in(memory: Memory) -> None:
    session = memory.session("s1", subject="Ada")
    given = {"turn": "D1:3"}
    id = await session.add("user", "I moved to Lisbon", speaker="Ada", at=DAY, metadata=given, source="chat")
    found = await memory.get(id)
    assert found is not None
    assert id == "s1#1"
    assert (found.text, found.kind, found.subject, found.session, found.turn) == (
        "I moved to Lisbon",
        "turn",
        "Ada",
        "s1",
        1,
    )
    assert (found.role, found.speaker, found.at, found.source) == ("user", "Ada", DAY, "chat")
    assert (found.metadata, found.confidence, found.importance) == ({"turn": "D1:3"}, 1.0, 0.5)
    assert given == {"turn": "D1:3"}
    (turn,) = await session.turns()
    assert (turn.content, turn.metadata, turn.created_at, turn.expires_at) == ("I moved to Lisbon", given, DAY, None)
    assert (await session.count(), await memory.sessions(), await memory.subjects()) == (1, ["s1"], ["Ada"])


async def test_parts_are_kept_losslessly_and_searched(memory: Memory) -> None:
    parts = [
        {"type": "tool_call", "name": "weather", "arguments": {"city": "Oslo", "days": [1, 2.5, None]}},
        {"type": "tool_result", "content": [{"type": "text", "text": "Thunderstorms expected"}]},
        {"type": "image", "blob": "photo-1", "caption": "a lighthouse at dusk"},
    ]
    session = memory.session("s1")
    await session.add("assistant", "Good morning")
    id = await session.add("tool", parts)
    assert (await session.turns())[1].content == parts
    for question in ("thunderstorms", "the lighthouse picture"):
        assert (await memory.recall(question))[0].id == id


async def test_remembered_facts(memory: Memory, clock: ManualClock) -> None:
    id = await memory.remember(
        "Ada prefers dark mode", kind="preference", subject="ada", session="s1", confidence=0.9, importance=0.7,
        source="s1#3", metadata={"a": [1]}, valid_from=DAY, valid_to=DAY + timedelta(days=9000), at=DAY, ttl=60,
    )  # fmt: skip
    found = await memory.get(id)
    assert found is not None
    assert (found.kind, found.subject, found.session, found.source) == ("preference", "ada", "s1", "s1#3")
    assert (found.confidence, found.importance, found.metadata) == (0.9, 0.7, {"a": [1]})
    assert (found.valid_from, found.at, found.expires_at) == (DAY, DAY, to_datetime(clock.now() + 60_000_000))
    (hit,) = await memory.recall("dark mode")
    assert hit.id == id
    assert (hit.source, hit.confidence, hit.valid_from) == ("s1#3", 0.9, DAY)
    assert await memory.sessions() == []


async def test_an_idempotency_key_stores_once(memory: Memory, clock: ManualClock) -> None:
    first = await memory.remember("tea", subject="Ada", idempotency_key="k" * 600)
    assert await memory.remember("tea", subject="Ada", idempotency_key="k" * 600) == first
    for other in ({"text": "coffee", "subject": "Ada"}, {"text": "tea", "subject": "Bob"}, {"text": "tea", "at": DAY}):
        with pytest.raises(StorageConflictError) as caught:
            await memory.remember(**{"subject": "Ada", **other}, idempotency_key="k" * 600)  # type: ignore[arg-type]
        assert caught.value.field == "idempotency_key"
    session = memory.session("s1")
    id = await session.add("user", "hello", idempotency_key="k" * 600)  # per operation
    assert await session.add("user", "hello", idempotency_key="k" * 600) == id
    with pytest.raises(StorageConflictError):
        await session.add("user", "hello", speaker="Ada", idempotency_key="k" * 600)
    with pytest.raises(StorageConflictError):
        await memory.session("s2").add("user", "hello", idempotency_key="k" * 600)
    assert len(await memory.list()) == 2
    clock.advance(8 * 86_400)
    assert await memory.remember("tea", subject="Ada", idempotency_key="k" * 600) != first


async def test_two_calls_at_once_with_one_key_store_once(memory: Memory) -> None:
    ids = await asyncio.gather(*(memory.remember("tea", idempotency_key="k") for _ in range(5)))
    turns = await asyncio.gather(*(memory.session("s").add("user", "hi", idempotency_key="k") for _ in range(5)))
    assert len({*ids}) == len({*turns}) == 1
    assert len(await memory.list()) == 2


async def test_add_many_can_be_repeated(memory: Memory) -> None:
    session = memory.session("s1")
    turns = [{"role": "user", "content": f"number {n}", "turn_id": n} for n in range(1, 1101)]
    assert len(await session.add_many(turns[:700], skip_existing=True)) == 700
    assert await session.add_many(turns, skip_existing=True) == [f"s1#{n}" for n in range(701, 1101)]
    assert await session.add_many(turns, skip_existing=True) == []
    assert await session.count() == 1100
    with pytest.raises(StorageConflictError):
        await session.add_many([{"role": "user", "content": "again", "turn_id": 7}])
    assert await session.add_many([]) == []


async def test_update_keeps_the_former_states(memory: Memory) -> None:
    id = await memory.remember("Ada lives in Lisbon", subject="Ada")
    changed = await memory.update(id, text="Ada lives in Porto", confidence=0.5, metadata={"n": 1})
    assert (changed.text, changed.confidence, changed.metadata) == ("Ada lives in Porto", 0.5, {"n": 1})
    await memory.update(id, subject="Bob")
    history = await memory.history(id)
    assert [(state.text, state.subject) for state in history] == [
        ("Ada lives in Lisbon", "Ada"), ("Ada lives in Porto", "Ada"), ("Ada lives in Porto", "Bob"),
    ]  # fmt: skip
    assert await memory.recall("Lisbon", limit=1, where=F("subject") == "Ada") == []
    assert [hit.id for hit in await memory.recall("Porto")] == [id]
    assert await memory.subjects() == ["Bob"]
    with pytest.raises(StorageNotFoundError):
        await memory.update("nobody", text="x")
    assert await memory.history("nobody") == []


async def test_updates_at_once_lose_nothing(memory: Memory) -> None:
    id = await memory.remember("a fact")
    changes = [{"text": "another fact"}, {"confidence": 0.3}, {"importance": 0.1}, {"source": "me"}, {"subject": "Ada"}]
    await asyncio.gather(*(memory.update(id, **change) for change in changes))
    found = await memory.get(id)
    assert found is not None
    assert (found.text, found.confidence, found.importance, found.source, found.subject) == (
        "another fact", 0.3, 0.1, "me", "Ada",
    )  # fmt: skip
    assert len(await memory.history(id)) == 6


async def test_updating_a_turn_updates_the_session(memory: Memory, clock: ManualClock) -> None:
    session = memory.session("s1")
    id = await session.add("user", "I live in Lisbn", metadata={"a": 1})
    parts = await session.add("user", [{"type": "text", "text": "hello"}])
    await memory.update(id, text="I live in Lisbon", metadata={"b": 2})
    assert [(t.content, t.metadata) for t in await session.turns()][0] == ("I live in Lisbon", {"b": 2})
    with pytest.raises(StorageDataError) as caught:
        await memory.update(parts, text="bye")
    assert caught.value.field == "text"
    with pytest.raises(StorageDataError) as caught:
        await memory.update(id, kind="fact")
    assert caught.value.field == "kind"
    await memory.update(parts, ttl=5)
    clock.advance(5)
    assert [t.turn_id for t in await session.turns()] == [1]


async def test_delete_says_whether_it_was_there(memory: Memory) -> None:
    session = memory.session("s1")
    turn, fact = await session.add("user", "hello there", subject="Ada"), await memory.remember("a fact", subject="Bob")
    await memory.update(fact, text="a better fact")
    assert (await memory.delete(turn), await memory.delete(turn), await memory.delete(fact)) == (True, False, True)
    assert await memory.list() == await memory.recall("hello there fact") == await memory.history(fact) == []
    assert (await session.count(), await memory.sessions(), await memory.subjects()) == (0, [], [])


async def test_expiry_is_seen_everywhere_at_once(memory: Memory, clock: ManualClock) -> None:
    """G-6"""
    session = memory.session("s1")
    turn = await session.add("user", "a passing remark", subject="Ada", ttl=10)
    fact = await memory.remember("a passing fact", subject="Bob", ttl=timedelta(seconds=10))
    kept = await memory.remember("a lasting fact", subject="Cid")
    clock.advance(10)
    assert [await memory.get(id) for id in (turn, fact)] == [None, None]
    assert [record.id for record in await memory.list()] == [kept]
    assert [hit.id for hit in await memory.recall("passing remark fact")] == [kept]
    assert (await session.turns(), await session.count(), await memory.sessions()) == ([], 0, [])
    assert await memory.subjects() == ["Cid"]
    assert await memory.history(fact) == []
    assert (await memory.stats())["memories"] == 1
    assert await memory.delete(fact) is False
    with pytest.raises(StorageNotFoundError):
        await memory.update(fact, text="x")
    assert (await session.context(100, query="passing")).turns == ()
    assert (await memory.sweep(), await memory.sweep()) == (2, 0)
    assert [d.id async for d in memory.shelf().text.scan()] == [kept]


async def test_a_turn_may_take_the_place_of_an_expired_one(memory: Memory, clock: ManualClock) -> None:
    session = memory.session("s1")
    turn = {"role": "user", "content": "hello", "turn_id": 1, "ttl": 10, "subject": "Ada"}
    await session.add_many([turn])
    clock.advance(10)
    assert await session.add_many([turn], skip_existing=True) == ["s1#1"]
    assert await memory.delete("s1#1")
    assert await memory.subjects() == []


async def test_nothing_of_an_expired_turn_passes_to_its_successor(memory: Memory, clock: ManualClock) -> None:
    session = memory.session("s1")
    await memory.store.blobs().put("old", b"x")
    await memory.store.blobs().put("both", b"x")
    id = await session.add("user", [{"blob": "old"}, {"blob": "both"}], ttl=10, subject="Ada")
    await memory.update(id, importance=1.0)
    clock.advance(10)
    await memory.store.delete_expired()  # the turn alone; its number is free again
    assert await session.add("user", [{"blob": "both"}], subject="Bob") == id
    assert [state.subject for state in await memory.history(id)] == ["Bob"]
    assert await memory.subjects() == ["Bob"]
    assert (await memory.store.blobs().exists("old"), await memory.store.blobs().exists("both")) == (False, True)


async def test_list_and_scan_narrow_down(memory: Memory) -> None:
    await memory.session("s1").add_many([{"role": "user", "content": f"n {n}", "speaker": "Ada"} for n in range(3)])
    fact = await memory.remember("a fact", kind="note", subject="ada", metadata={"n": 1})
    assert [r.id for r in await memory.list(kinds=["note"])] == [fact]
    assert len(await memory.list(subject="ADA")) == 4
    assert len(await memory.list(session="s1")) == 3
    assert [r.id for r in await memory.list(where=F("metadata.n") == 1)] == [fact]
    assert len(await memory.list(limit=2)) == 2
    assert await memory.list(limit=0) == []
    assert [r.turn async for r in memory.scan(kinds=["turn"])] == [1, 2, 3]


HOSTILE = ["a#1", "#", "s/1", "a", "😀", "%_'\"", "A", "x" * 495, "é" * 247, "a#1#1", " ", "DROP TABLE;--"]


async def test_sessions_of_any_name(memory: Memory) -> None:
    """G-4"""
    for name in HOSTILE:
        await memory.session(name).add_many(
            [{"role": "user", "content": f"apple {HOSTILE.index(name)}"}, {"role": "user", "content": "pear"}]
        )
    assert await memory.sessions() == sorted(HOSTILE)
    for place, name in enumerate(HOSTILE):
        (hit,) = await memory.recall(f"apple {place}", session=name, limit=1)
        assert (hit.session, hit.turn, hit.text) == (name, 1, f"apple {place}")
        assert [near.text for near in hit.neighbours] == ["pear"]
        assert await memory.update(hit.id, importance=0.1)
        assert len(await memory.history(hit.id)) == 2
        assert await memory.delete(hit.id)
    for bad in ("x" * 496, "é" * 248, "", "\0", 5):
        with pytest.raises(StorageDataError) as caught:
            memory.session(bad)  # type: ignore[arg-type]
        assert caught.value.field == "session"


async def test_long_names_of_subjects(memory: Memory) -> None:
    name = "x" * 512
    id = await memory.remember("a fact", subject=name)
    await memory.update(id, text="other")
    assert await memory.subjects() == [name]
    assert (await memory.forget(name)).memories == 1


async def test_tenants_never_meet(store: Store) -> None:
    """G-10: nothing of one tenant shows in another, not even in its scores."""
    alone, other = Memory(store, tenant="alone"), Memory(store, tenant="Alone")
    async with alone, other:
        questions = ("where does Ada live?", "Lisbon Porto", "dark mode")
        await alone.session("s1").add_many(
            [{"role": "user", "content": c, "subject": "Ada"} for c in ("I moved to Lisbon", "Rain again", "Bye")]
        )
        await alone.remember("Ada prefers dark mode", subject="Ada")
        before = [[(h.id, h.score, h.scores) for h in await alone.recall(q)] for q in questions]
        await other.session("s1").add_many(
            [{"role": "user", "content": f"Lisbon Porto dark mode Ada {n}", "subject": "Ada"} for n in range(50)]
        )
        await other.session("s9").add("user", "hello", subject="Eve")
        assert [[(h.id, h.score, h.scores) for h in await alone.recall(q)] for q in questions] == before
        assert (await alone.sessions(), await alone.subjects(), len(await alone.list())) == (["s1"], ["Ada"], 4)
        assert (await other.forget("Ada")).memories == 50
        assert [[(h.id, h.score, h.scores) for h in await alone.recall(q)] for q in questions] == before
        assert (await other.sessions(), await other.subjects(), len(await other.list())) == (["s9"], ["Eve"], 1)
        assert await other.get("s1#1") is None


async def test_64_tasks_add_to_one_session(memory: Memory) -> None:
    session = memory.session("s1")
    ids = await asyncio.gather(*(session.add("user", f"parcel number {n}x{n}") for n in range(64)))
    assert sorted(ids) == sorted(f"s1#{n}" for n in range(1, 65))
    found = await asyncio.gather(*(memory.recall(f"{n}x{n}", limit=1) for n in range(64)))
    assert [hits[0].text for hits in found] == [f"parcel number {n}x{n}" for n in range(64)]


async def test_a_cancelled_add_leaves_all_or_nothing(memory: Memory) -> None:
    """G-8"""
    session, turns = memory.session("s1"), [{"role": "user", "content": f"n {n}", "subject": "Ada"} for n in range(20)]
    for steps in range(0, 120, 3):
        task = asyncio.create_task(session.add_many(turns))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await memory.session("s2").add("user", "the end")  # the writer is free
    documents = len(await memory.list(limit=10_000, session="s1"))
    assert documents % 20 == 0
    assert await session.count() == documents
    space = await memory.shelf().vectors()
    assert space is not None
    assert await space.count() == documents + 1
    assert await memory.subjects() == (["Ada"] if documents else [])


async def test_open_and_close(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    memory = polymem.Memory.open(url, tenant="t")
    calls = (
        lambda: memory.remember("x"), lambda: memory.recall("x"), lambda: memory.get("x"), memory.list,
        lambda: memory.session("s").add("user", "x"), lambda: memory.session("s").turns(), memory.sessions,
        lambda: memory.forget("x"), memory.subjects, memory.sweep, memory.reembed, memory.stats,
        lambda: memory.session("s").context(10), lambda: memory.delete("x"), lambda: memory.update("x", text="y"),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(StorageConnectionError):
            await call()
    opened = await memory
    assert await opened is memory
    await memory.remember("a fact")
    await memory.close()
    await memory.close()
    for call in calls:
        with pytest.raises(StorageConnectionError):
            await call()
    async with polymem.Memory.open(url, tenant="t") as again:
        assert [hit.text for hit in await again.recall("fact")] == ["a fact"]
    assert [file.name for file in tmp_path.iterdir()] == ["a.db"]


async def test_a_store_handed_in_stays_open(store: Store) -> None:
    async with Memory(store, tenant="a") as one, Memory(store, tenant="b"):
        await one.close()
    await store.kv.put("k", 1)
    with pytest.raises(StorageConnectionError):
        await one.remember("x")


async def test_an_embedder_that_fails_at_open_leaves_nothing_open(tmp_path: Path) -> None:
    def broken(_: list[str]) -> list[list[float]]:
        raise RuntimeError("no model")

    with pytest.raises(RuntimeError):
        await polymem.Memory.open(f"sqlite:///{tmp_path / 'a.db'}", embed=broken)
    assert [file.name for file in tmp_path.iterdir()] == ["a.db"]


async def test_questions_as_long_as_a_book(store: Store) -> None:
    """They are answered by the rarest words of their beginning."""
    async with Memory(store, embed=None) as memory:
        ids = [await memory.remember(text) for text in ("common " * 50, "a xylophone", "a zither", "commonly known")]
        question = " ".join(f"other{n}" for n in range(1000)) + " common xylophone" + " nothing" * 1000 + " zither"
        hits = await memory.recall(question)
        assert {hit.id for hit in hits} == set(ids[:2])
        assert hits.notes[-1] == "of the question only the first 10000 characters were used"
        assert len((await memory.recall("zither?")).notes) == 1
