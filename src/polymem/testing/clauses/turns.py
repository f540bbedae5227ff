"""Conversation turns: what each operation does (TRN-1)."""

import asyncio
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any

from polymem.contracts.turns import DEFAULT_TTL, MAX_TURN_ID, TurnInput
from polymem.core.clock import to_datetime
from polymem.errors import Outcome, StorageConflictError, StorageConnectionError
from polymem.testing.clause import clause
from polymem.testing.clauses.names import VALUES
from polymem.testing.expect import listed, refused, same
from polymem.testing.faults import Fault, Faults
from polymem.testing.kit import TASKS, Kit


@clause("turns")
async def append_and_get(kit: Kit) -> None:
    """A turn comes back with everything it was given and the instants of its writing."""
    turns = kit.store.turns
    at = datetime(2020, 2, 29, 12, 0, 0, 123456, tzinfo=UTC)
    made = await turns.append("s", "user", "hello", metadata={"k": [1]}, at=at, ttl=60, id="mine")
    assert (made.id, made.session_id, made.turn_id, made.role, made.content) == ("mine", "s", 1, "user", "hello")
    assert (made.metadata, made.created_at) == ({"k": [1]}, at)
    assert made.expires_at == to_datetime(kit.clock.now()) + timedelta(seconds=60)
    assert await turns.get("s", 1) == made
    assert await turns.recent("s") == await listed(turns.scan("s")) == [made]


@clause("turns")
async def defaults(kit: Kit) -> None:
    """Said now, living a day, with an id of its own and no metadata, unless told otherwise."""
    one, two = [await kit.store.turns.append("s", "user", "x") for _ in range(2)]
    assert one.id != two.id
    assert one.metadata == {}
    assert one.created_at == to_datetime(kit.clock.now())
    assert one.expires_at == one.created_at + timedelta(seconds=DEFAULT_TTL)
    assert (await kit.store.turns.append("s", "user", "x", ttl=None)).expires_at is None


@clause("turns")
async def absent(kit: Kit) -> None:
    """What is absent is None, empty, False or 0."""
    turns = kit.store.turns
    assert await turns.get("s", 1) is None
    assert not await turns.exists("s", 1)
    assert await turns.recent("s") == await listed(turns.scan("s")) == []
    assert await listed(turns.sessions()) == []
    assert not await turns.delete("s", 1)
    assert await turns.delete_many("s", [1, 2]) == await turns.clear("s") == 0
    assert await turns.count() == await turns.count("s") == 0
    assert await turns.append_many("s", []) == []


@clause("turns")
async def contents_are_lossless(kit: Kit) -> None:
    """Empty text, any unicode, parts and metadata of any JSON come back as they are."""
    turns = kit.store.turns
    contents: list[Any] = [
        "",
        " ",
        "\U0001f600\u0301",
        "a\nb",
        "null",
        [],
        [{}],
        [{"type": "tool", "input": {"n": [None]}}],
    ]
    contents += [[{"value": value}] for value in VALUES] + ["\u00e9" * 500_000]
    for content in contents:
        made = await turns.append("s", "user", content, metadata={"copy": content})
        found = await turns.get("s", made.turn_id)
        assert found is not None
        assert same(found.content, content)
        assert same(found.metadata, {"copy": content})


@clause("turns")
async def ids_are_dense(kit: Kit) -> None:
    """Turn ids count from 1 in each session on its own, and on from a given one."""
    turns = kit.store.turns
    assert [(await turns.append("a", "user", "x")).turn_id for _ in range(3)] == [1, 2, 3]
    assert (await turns.append("b", "user", "x")).turn_id == 1
    assert (await turns.append("a", "user", "x", turn_id=10)).turn_id == 10
    assert (await turns.append("a", "user", "x")).turn_id == 11
    assert (await turns.append("a", "user", "x", turn_id=5)).turn_id == 5
    assert (await turns.append("a", "user", "x", turn_id=0)).turn_id == 0
    assert [turn.turn_id async for turn in turns.scan("a")] == [0, 1, 2, 3, 5, 10, 11]
    made = await turns.append_many("a", [{"role": "user", "content": f"{n}"} for n in range(3)])
    assert [turn.turn_id for turn in made] == [12, 13, 14]


@clause("turns")
async def the_largest_turn_id(kit: Kit) -> None:
    """The largest turn id allowed is kept exactly, and there is one after it."""
    await kit.store.turns.append("s", "user", "x", turn_id=MAX_TURN_ID)
    assert [turn.turn_id for turn in await kit.store.turns.recent("s")] == [MAX_TURN_ID]
    assert (await kit.store.turns.append("s", "user", "x")).turn_id == MAX_TURN_ID + 1
    assert await kit.store.turns.exists("s", MAX_TURN_ID + 1)


@clause("turns")
async def a_taken_turn_id(kit: Kit) -> None:
    """It is a conflict and nothing is written, unless the turn is to be replaced."""
    turns = kit.store.turns
    await turns.append("s", "user", "old", turn_id=2)
    with refused(StorageConflictError, field="turn_id"):
        await turns.append("s", "user", "new", turn_id=2)
    batch = [TurnInput("user", "a"), TurnInput("user", "b", turn_id=2)]
    with refused(StorageConflictError, field="turn_id"):
        await turns.append_many("s", batch)
    assert [turn.content async for turn in turns.scan("s")] == ["old"]
    made = await turns.append("s", "user", "new", turn_id=2, replace=True)
    assert await turns.get("s", 2) == made
    assert await turns.count("s") == 1
    await turns.append("other", "user", "x", turn_id=2)


@clause("turns")
async def batches_keep_their_order(kit: Kit) -> None:
    """append_many stores in the order given, over a listing of several pages."""
    turns = kit.store.turns
    made = await turns.append_many("s", [TurnInput("user", f"{number}") for number in range(1203)])
    assert [turn.turn_id for turn in made] == list(range(1, 1204))
    assert [turn.content async for turn in turns.scan("s")] == [f"{number}" for number in range(1203)]
    assert await listed(turns.scan("s")) == made


@clause("turns")
async def recent_is_newest_first(kit: Kit) -> None:
    """limit, offset and newest_first choose among the newest turns, by turn id, not by when they were said."""
    turns, now = kit.store.turns, to_datetime(kit.clock.now())
    for number in range(1, 8):
        await turns.append("s", "user", f"{number}", at=now - timedelta(days=number))

    async def recent(**options: Any) -> list[int]:
        return [turn.turn_id for turn in await turns.recent("s", **options)]

    assert await recent() == [7, 6, 5, 4, 3, 2, 1]
    assert await recent(limit=3) == [7, 6, 5]
    assert await recent(limit=3, offset=2) == [5, 4, 3]
    assert await recent(limit=3, offset=2, newest_first=False) == [3, 4, 5]
    assert await recent(limit=100, offset=6) == [1]
    assert await recent(offset=7) == await recent(limit=0) == []


@clause("turns")
async def deleting(kit: Kit) -> None:
    """Delete and clear say what was there; other sessions stay."""
    turns = kit.store.turns
    for session in ("a", "b"):
        await turns.append_many(session, [TurnInput("user", "x")] * 4)
    assert await turns.delete("a", 2)
    assert not await turns.delete("a", 2)
    assert await turns.delete_many("a", [1, 1, 2, 3, 99]) == 2
    assert await turns.count("a") == 1
    assert await turns.count("b") == 4
    assert await turns.count() == 5
    assert await turns.clear("a") == 1
    assert await turns.clear("a") == 0
    assert await listed(turns.sessions()) == ["b"]


@clause("turns")
async def sessions_in_order(kit: Kit) -> None:
    """Each session with a live turn appears once, in order, over several pages."""
    turns = kit.store.turns
    names = [f"{number:04}" for number in range(1010)]
    await asyncio.gather(*(turns.append(name, "user", "x", ttl=None) for name in names))
    await asyncio.gather(*(turns.append(name, "user", "x") for name in names[::100]))
    await turns.append("expired", "user", "x", ttl=1)
    kit.clock.advance(1)
    assert await listed(turns.sessions()) == names


@clause("turns")
async def each_turn_expires_by_itself(kit: Kit) -> None:
    """At its own instant a turn is invisible to everything; include_expired shows it where it still exists."""
    turns = kit.store.turns
    for seconds in (3, 1, 2):
        await turns.append("s", "user", f"{seconds}", ttl=seconds)
    await turns.append("s", "user", "gone already", ttl=-1)
    steps: list[tuple[float, list[str]]] = [(0.999999, ["3", "1", "2"]), (0.000001, ["3", "2"]), (1, ["3"]), (1, [])]
    for step, left in steps:
        kit.clock.advance(step)
        assert [turn.content async for turn in turns.scan("s")] == left
        assert [turn.content for turn in await turns.recent("s", newest_first=False)] == left
        assert await turns.count("s") == await turns.count() == len(left)
        assert await turns.exists("s", 1) is ("3" in left)
        assert await turns.exists("s", 2) is ("1" in left)
    assert await listed(turns.sessions()) == []
    shown = [turn.content async for turn in turns.scan("s", include_expired=True)]
    assert set(shown) <= {"3", "1", "2", "gone already"}
    assert len(shown) == await turns.count("s", include_expired=True)
    assert not await turns.delete("s", 1)
    assert await turns.clear("s") == 0


@clause("turns")
async def sweeping(kit: Kit) -> None:
    """delete_expired removes just the expired; an expired turn id may be written again."""
    turns = kit.store.turns
    await turns.append("s", "user", "old", ttl=1)
    await turns.append("s", "user", "stays", ttl=None)
    kit.clock.advance(1)
    await turns.append("s", "user", "again", turn_id=1)
    assert [turn.content async for turn in turns.scan("s")] == ["again", "stays"]
    await turns.append("t", "user", "old", ttl=1)
    kit.clock.advance(1)
    assert await kit.store.delete_expired() >= 1
    assert await turns.count("t", include_expired=True) == 0
    assert await turns.count("s") == 2


@clause("turns")
async def touching(kit: Kit) -> None:
    """Every live turn of a session, and of no other, lives so long from now on; nothing else of them changes."""
    turns = kit.store.turns
    await turns.append("s", "user", "gone", ttl=1)
    await turns.append_many("s", [TurnInput("user", "a", metadata={"n": 1}, ttl=5), TurnInput("user", "b", ttl=None)])
    await turns.append("t", "user", "other", ttl=5)
    kit.clock.advance(2)
    before = await listed(turns.scan("s"))
    assert await turns.touch("s", ttl=100) == 2
    until = to_datetime(kit.clock.now()) + timedelta(seconds=100)
    assert await listed(turns.scan("s")) == [turn._replace(expires_at=until) for turn in before]
    kit.clock.advance(99)
    assert await turns.count() == await turns.count("s") == 2
    assert await turns.touch("s", ttl=None) == 2
    kit.clock.advance(10_000)
    assert [turn.expires_at async for turn in turns.scan("s")] == [None, None]
    assert await turns.touch("s") == 2
    kit.clock.advance(DEFAULT_TTL)
    assert await turns.touch("s") == await turns.touch("nobody") == 0
    assert await listed(turns.sessions()) == []


@clause("turns")
async def touching_it_away(kit: Kit) -> None:
    """With an instant that has passed the turns have expired, and are swept like others."""
    turns = kit.store.turns
    await turns.append_many("s", [TurnInput("user", f"{n}", ttl=None) for n in range(3)])
    assert await turns.touch("s", ttl=0) == 3
    assert await turns.count("s") == await turns.touch("s") == 0
    assert await kit.store.delete_expired() >= 3
    assert await turns.count("s", include_expired=True) == 0


@clause("turns")
async def touching_while_others_append(kit: Kit) -> None:
    """No turn is lost."""
    turns = kit.store.turns

    async def work(number: int) -> None:
        if number % 2:
            await turns.append("s", "user", f"{number}")
        else:
            await turns.touch("s", ttl=1000)

    await kit.together(work)
    assert await turns.count("s") == TASKS // 2


@clause("turns", uses=["transactions"])
async def touching_in_a_transaction(kit: Kit) -> None:
    """It is seen there at once, and outside when that is committed."""
    turns = kit.store.turns
    before = await turns.append("s", "user", "x", ttl=None)
    async with kit.store.transaction() as tx:
        assert await tx.turns.touch("s", ttl=5) == 1
        inside = await tx.turns.get("s", 1)
    assert inside is not None
    assert inside == await turns.get("s", 1) != before
    kit.clock.advance(5)
    assert await turns.count("s") == 0


@clause("turns")
async def concurrent_appends(kit: Kit) -> None:
    """However many tasks append, every turn has a number of its own and no number is left out."""

    async def work(number: int) -> list[int]:
        return [(await kit.store.turns.append("s", "user", f"{number}")).turn_id for _ in range(8)]

    given = [number for some in await kit.together(work) for number in some]
    assert sorted(given) == list(range(1, TASKS * 8 + 1))
    assert [turn.turn_id async for turn in kit.store.turns.scan("s")] == sorted(given)


@clause("turns", uses=["shared"])
async def appends_by_two_instances(kit: Kit) -> None:
    """The same with two instances, and batches stay together."""
    stores = [kit.store, await kit.second()]

    async def work(number: int) -> list[int]:
        batch = [TurnInput("user", f"{number}")] * 3
        made = [await stores[number % 2].turns.append_many("s", batch) for _ in range(4)]
        assert all([turn.turn_id - some[0].turn_id for turn in some] == [0, 1, 2] for some in made)
        return [turn.turn_id for some in made for turn in some]

    given = [number for some in await kit.together(work, 8) for number in some]
    assert sorted(given) == list(range(1, 97))
    assert await stores[1].turns.count("s") == 96


@clause("turns")
async def appends_are_not_repeated(kit: Kit) -> None:
    """After a lost reply the caller is told that the outcome is unknown; there is one turn, not two."""
    faults = Faults()
    store = await kit.faulty(faults)
    faults.plan("turns.append", Fault.REPLY_LOST)
    with refused(StorageConnectionError) as caught:
        await store.turns.append("s", "user", "x")
    assert caught.error.outcome is Outcome.UNKNOWN
    assert await kit.store.turns.count() == 1
    faults.plan("turns.append", Fault.REFUSED)
    assert (await store.turns.append("s", "user", "x")).turn_id == 2


@clause("turns")
async def cancelled_appends(kit: Kit) -> None:
    """A cancelled batch is there whole or not at all; the session goes on without a gap."""
    turns = kit.store.turns
    for pauses in range(5):
        task = asyncio.create_task(turns.append_many("s", [TurnInput("user", f"{pauses}")] * 10))
        for _ in range(pauses):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await turns.append("s", "user", "last")
    found = await listed(turns.scan("s"))
    assert [turn.turn_id for turn in found] == list(range(1, len(found) + 1))
    assert len(found) % 10 == 1


@clause("turns")
async def input_is_not_mutated(kit: Kit) -> None:
    """Contents, metadata and the list of turns come back untouched, and later changes to them change nothing (G-3)."""
    content: list[dict[str, Any]] = [{"type": "text", "text": "a"}]
    batch: list[dict[str, Any]] = [{"role": "user", "content": content, "metadata": {"m": [1]}}]
    before = deepcopy(batch)
    made = (await kit.store.turns.append_many("s", batch))[0]
    assert batch == before
    content[0]["text"] = batch[0]["metadata"]["m"] = "changed"
    made.metadata["m"] = "changed"
    found = await kit.store.turns.get("s", 1)
    assert found is not None
    assert (found.content, found.metadata) == (before[0]["content"], {"m": [1]})


@clause("turns", needs=lambda f: f.durable)
async def survives_reopening(kit: Kit) -> None:
    """Turns are complete after closing and opening, and numbering goes on."""
    await kit.store.turns.append_many("s", [{"role": "user", "content": [{"n": 1}], "metadata": {"a": None}}] * 3)
    before = await listed(kit.store.turns.scan("s"))
    store = await kit.reopen()
    assert await listed(store.turns.scan("s")) == before
    assert (await store.turns.append("s", "user", "x")).turn_id == 4
