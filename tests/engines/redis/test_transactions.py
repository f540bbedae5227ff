"""Redis transactions: an overlay that must answer as a database would (TXN-2, TXN-3)."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from servers.redis import RedisServer

from polymem.core.clock import ManualClock
from polymem.core.registry import create_engine
from polymem.errors import Outcome, StorageConflictError, StorageConnectionError, StorageError, StorageFullError
from polymem.opened import Session
from polymem.store import Store, TransactionStore

pytestmark = [pytest.mark.anyio, pytest.mark.integration, pytest.mark.server("redis")]
NewStore = Callable[..., Store]
KEYS = ("a", "ab", "b", "é")


class Undo(Exception):
    pass


async def step(tx: Store, chance: random.Random) -> Any:
    """One operation at random, the same for the same numbers; what it answered."""
    kv, key, other = tx.kv, chance.choice(KEYS), chance.choice(KEYS)
    turns, number, ttl = tx.turns, chance.randrange(4), chance.choice([None, None, 5, -1])
    calls: list[Callable[[], Any]] = [
        lambda: kv.get(key),
        lambda: kv.get_many([key, other]),
        lambda: kv.exists(key),
        lambda: kv.ttl(key),
        lambda: kv.put_many({key: number, other: number}, ttl=ttl),
        lambda: kv.create(key, number, ttl=ttl),
        lambda: kv.update(key, number),
        lambda: replace(tx, key, number),
        lambda: kv.increment(key, number),
        lambda: kv.touch(key, ttl=ttl),
        lambda: kv.delete(key),
        lambda: kv.delete_many([key, other]),
        lambda: kv.count(key),
        lambda: listed(kv.scan()),
        lambda: kv.page(limit=2),
        lambda: kv.clear() if number == 0 else kv.put(key, number),
        lambda: turns.append(key, "user", other, ttl=ttl),
        lambda: turns.append(key, "user", other, turn_id=number),
        lambda: turns.append_many(key, [{"role": "user", "content": other, "turn_id": number}] * 2, replace=True),
        lambda: turns.get(key, number),
        lambda: turns.recent(key, limit=2, offset=number),
        lambda: listed(turns.scan(key)),
        lambda: turns.delete_many(key, [number, number + 1]),
        lambda: turns.clear(key) if number == 0 else turns.count(key),
        lambda: turns.count(),
        lambda: listed(turns.sessions()),
    ]
    try:
        return seen(await chance.choice(calls)())
    except StorageError as error:
        return type(error).__name__


async def replace(tx: Store, key: str, value: int) -> None:
    entry = await tx.kv.entry(key)
    await tx.kv.compare_and_set(key, None if entry is None else entry.version, value)


async def listed(items: Any) -> list[Any]:
    return [item async for item in items]


def seen(answer: Any) -> Any:
    """Without what is made up: ids, versions, cursors."""
    match answer:
        case dict():
            return (
                sorted(answer) if any(isinstance(value, int) and value > 10**9 for value in answer.values()) else answer
            )
        case (list() as entries, _):
            return [(entry.key, entry.value, entry.created_at, entry.expires_at) for entry in entries]
        case list():
            return [seen(one) for one in answer]
        case int() if answer > 10**9:
            return "version"
        case _ if hasattr(answer, "turn_id"):
            return answer.turn_id, answer.content, answer.expires_at
        case _:
            return answer


async def play(store: Store, clock: ManualClock, seed: int) -> list[Any]:
    chance = random.Random(seed)
    answers = [await step(store, chance) for _ in range(10)]
    clock.advance(chance.choice([0, 1, 6]))
    try:
        async with store.transaction(timeout=60) as tx:
            answers += [await step(tx, chance) for _ in range(15)]
            try:
                async with tx.savepoint():
                    answers += [await step(tx, chance) for _ in range(5)]
                    if chance.random() < 0.5:
                        raise Undo
            except Undo:
                answers += [await step(tx, chance) for _ in range(5)]
            if chance.random() < 0.3:
                raise Undo
    except Undo:
        pass
    answers.append(
        [seen(await listed(store.kv.entries())) and [(e.key, e.value) for e in await listed(store.kv.entries())]]
    )
    sessions = await listed(store.turns.sessions())
    answers += [[seen(await listed(store.turns.scan(session))) for session in sessions], await store.kv.count()]
    return answers


@pytest.mark.parametrize("start", range(0, 60, 20))
async def test_a_transaction_answers_as_memory_does(new_store: NewStore, start: int) -> None:
    clocks = ManualClock(), ManualClock()
    memory = Store(Session(create_engine("memory:", clock=clocks[0]), sweep_every=None))
    async with memory, new_store(clock=clocks[1]) as tested:
        for seed in range(start, start + 20):
            expected = await play(memory.namespace(f"{seed}"), clocks[0], seed)
            found = await play(tested.namespace(f"{seed}"), clocks[1], seed)
            assert found == expected, seed


async def test_other_namespaces_are_written_together(new_store: NewStore) -> None:
    async with new_store() as store, new_store() as other:
        async with store.transaction() as tx:
            for room in (tx, tx.namespace("a"), tx.namespace("a", "b")):
                await room.kv.put("k", 1)
                await room.turns.append("s", "user", "x")
            assert await other.namespace("a").kv.count() == 0
        for room in (other, other.namespace("a"), other.namespace("a", "b")):
            assert (await room.kv.get("k"), await room.turns.count()) == (1, 1)
        assert [name async for name in other.namespaces()] == [("a",), ("a", "b")]


async def test_reading_alone_can_be_a_conflict(new_store: NewStore) -> None:
    """What a block has read and reported must have been true together."""
    async with new_store() as store, new_store() as other:
        await store.kv.put("a", 1)
        with pytest.raises(StorageConflictError):
            async with store.transaction() as tx:
                await tx.kv.get("a")
                await other.kv.put("a", 2)
        async with store.transaction() as tx:
            await tx.kv.get("a")
            await other.kv.put("b", 2)


async def test_a_refused_commit_writes_nothing(new_store: NewStore, own_server: RedisServer) -> None:
    async with new_store(own_server.url) as store:
        with pytest.raises(StorageFullError) as caught:
            async with store.transaction() as tx:
                await tx.kv.put("a", 1)
                await tx.turns.append("s", "user", "x")
                own_server.say("CONFIG", "SET", "maxmemory", "1")
        assert caught.value.outcome is Outcome.NOT_APPLIED
        own_server.say("CONFIG", "SET", "maxmemory", "0")
        assert await store.kv.count() == await store.turns.count() == 0


async def test_a_lost_connection_at_the_commit(new_store: NewStore, own_server: RedisServer) -> None:
    """Before it was sent nothing was applied."""
    async with new_store(own_server.url) as store:
        with pytest.raises(StorageConnectionError) as caught:
            async with store.transaction() as tx:
                await tx.kv.put("a", 1)
                own_server.say("CLIENT", "KILL", "TYPE", "normal")
                await asyncio.sleep(0.05)
        assert caught.value.retryable
        assert caught.value.outcome is Outcome.NOT_APPLIED

        runs = []

        async def work(tx: TransactionStore) -> None:
            await tx.kv.put("a", 2)
            runs.append(1)
            if len(runs) == 1:
                own_server.say("CLIENT", "KILL", "TYPE", "normal")
                await asyncio.sleep(0.05)

        await store.run_in_transaction(work)
        assert len(runs) == 2
        assert await store.kv.get("a") == 2
