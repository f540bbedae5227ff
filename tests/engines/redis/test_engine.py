"""What only Redis does: expiry by the server, prefixes, windows of turns, leases (RDS)."""

import asyncio
from typing import Any

import pytest
import servers
from engines.redis.marks import NewStore, integration
from redis.asyncio import Redis
from servers.redis import RedisServer

from polymem.core.clock import ManualClock
from polymem.core.registry import create_engine
from polymem.engines.redis._keys import names
from polymem.errors import StorageConflictError, StorageConnectionError, StorageCorruptError
from polymem.store import Store, TransactionStore


@integration
async def test_the_server_expires_what_nobody_sweeps(new_store: NewStore, own_server: RedisServer, prefix: str) -> None:
    """Somewhat later than the record becomes invisible."""
    async with new_store(own_server.url) as store:
        await store.kv.put("a", 1, ttl=60)
        await store.kv.put("b", 1)
        await store.turns.append("s", "user", "x", ttl=60)
        await store.turns.append("s", "user", "x", ttl=30)
        await store.turns.append("t", "user", "x", ttl=None)
        held = names(prefix, "")
        client = Redis.from_url(own_server.url)
        lives = [await client.pttl(key) for key in (held.records + b"a", held.turns + b"s")]
        assert all(60_000 < life <= 61_000 for life in lives), lives
        for key in (held.records + b"b", held.turns + b"t"):
            assert await client.pttl(key) == -1
        await store.kv.touch("a", ttl=600)
        assert 600_000 < await client.pttl(held.records + b"a") <= 601_000
        await store.kv.put("a", 2)
        assert await client.pttl(held.records + b"a") == -1
        await store.kv.put("c", 1, ttl=0.01)
        await client.pexpire(held.records + b"c", 1)
        await asyncio.sleep(0.05)
        assert await store.kv.get("c") is None
        assert await store.kv.count() == 2
        assert await store.delete_expired() == 1
        await client.aclose()


@integration
async def test_nothing_is_left_behind(new_store: NewStore, own_server: RedisServer) -> None:
    async with new_store(own_server.url) as store:
        for room in (store, store.namespace("a"), store.namespace("a", "{b}")):
            await room.kv.put_many({f"{n}": n for n in range(2500)}, ttl=100)
            await room.turns.append("s", "user", "x")
        assert await store.engine.drop_namespace("") == 3 * 2501
        client = Redis.from_url(own_server.url)
        left = [key async for key in client.scan_iter()]
        await client.aclose()
        assert [key.rpartition(b":")[2] for key in left] == [b"namespaces"]


@integration
async def test_two_prefixes_are_two_stores(store: Store, new_store: NewStore, prefix: str) -> None:
    async with Store(_session(servers.url("redis"), prefix + "x")) as other:
        await store.kv.put("a", 1)
        await store.namespace("n").kv.put("a", 1)
        assert await other.kv.get("a") is None
        assert [name async for name in other.namespaces()] == []
        assert await other.engine.drop_namespace("") == 0
    assert await store.kv.get("a") == 1


def _session(url: str, prefix: str) -> Any:
    from polymem.opened import Session

    return Session(create_engine(url, prefix=prefix), sweep_every=None)


@integration
async def test_a_client_of_ones_own_is_not_closed(new_store: NewStore) -> None:
    client = Redis.from_url(servers.url("redis"), decode_responses=True)
    async with new_store("redis://", client=client) as store:
        await store.kv.put("a", {"text": "\u00e9"})
        assert await store.kv.get("a") == {"text": "\u00e9"}
    assert await client.ping()
    await client.aclose()


@integration
async def test_what_is_not_ours_is_left_alone(store: Store, prefix: str) -> None:
    client = Redis.from_url(servers.url("redis"))
    held = names(prefix, "")
    try:
        await client.lpush(held.records + b"list", b"x")
        await client.set(held.records + b"text", b"x" * 50)
        for key in ("list", "text"):
            with pytest.raises(StorageCorruptError):
                await store.kv.get(key)
        with pytest.raises(StorageCorruptError):
            await store.kv.put("list", 1)
        assert await client.lrange(held.records + b"list", 0, -1) == [b"x"]
    finally:
        await client.delete(held.records + b"list", held.records + b"text")
        await client.aclose()


@integration
async def test_a_window_of_turns(new_store: NewStore) -> None:
    """The newest stay, in the same round trip; 0 stores nothing (RD-1)."""
    async with new_store(turn_window=3) as store:
        for number in range(5):
            await store.turns.append("s", "user", f"{number}")
        assert [turn.content for turn in await store.turns.recent("s")] == ["4", "3", "2"]
        assert store.turns.features.window == 3
        await store.turns.append_many("s", [{"role": "user", "content": f"m{n}"} for n in range(7)])
        assert [turn.turn_id for turn in await store.turns.recent("s")] == [12, 11, 10]
        async with store.transaction() as tx:
            await tx.turns.append("s", "user", "tx")
            assert [turn.turn_id for turn in await tx.turns.recent("s")] == [13, 12, 11]
        assert [turn.turn_id for turn in await store.turns.recent("s")] == [13, 12, 11]
    async with new_store(turn_window="0") as store:
        await store.turns.append("s", "user", "x")
        assert await store.turns.count() == 0
        assert [session async for session in store.turns.sessions()] == []


@integration
async def test_reading_refreshes_turns_where_wanted(new_store: NewStore) -> None:
    clock = ManualClock()
    async with new_store(clock=clock, refresh_ttl_on_read=True, turn_ttl=100) as store:
        for number in range(3):
            await store.turns.append("s", "user", f"{number}", ttl=100)
        clock.advance(60)
        assert len(await store.turns.recent("s", limit=2)) == 2
        clock.advance(60)
        assert [turn.turn_id for turn in await store.turns.recent("s")] == [3, 2]
        clock.advance(99)
        assert (await store.turns.get("s", 2)) is not None
        clock.advance(99)
        assert [turn.turn_id async for turn in store.turns.scan("s")] == [2]
        assert await store.turns.recent("unknown") == []


@integration
async def test_ten_writers_and_twenty_readers_agree(store: Store) -> None:
    """RD-2, with contents of a megabyte among them."""
    big = "\U0001f600\tx" * 200_000

    async def write(number: int) -> None:
        for step in range(5):
            await store.turns.append("s", "user", big if (number, step) == (0, 0) else f"{number}:{step}")

    async def read(_: int) -> None:
        for _ in range(5):
            ids = [turn.turn_id for turn in await store.turns.recent("s", limit=100)]
            assert ids == sorted(ids, reverse=True)
            assert len(set(ids)) == len(ids)

    await asyncio.gather(*map(write, range(10)), *map(read, range(20)))
    found = [turn async for turn in store.turns.scan("s")]
    assert [turn.turn_id for turn in found] == list(range(1, 51))
    assert sum(turn.content == big for turn in found) == 1


@integration
async def test_a_lost_race_is_a_conflict_and_is_run_again(store: Store, new_store: NewStore) -> None:
    """Also for what was listed only: a key that appeared meanwhile (TXN-1, TXN-3)."""
    async with new_store() as other:
        with pytest.raises(StorageConflictError) as caught:
            async with store.transaction() as tx:
                assert await tx.kv.count() == 0
                await other.kv.put("phantom", 1)
                await tx.kv.put("total", 0)
        assert caught.value.retryable
        assert await store.kv.get("total") is None
        runs = []

        async def work(tx: TransactionStore) -> None:
            runs.append(await tx.kv.count())
            if len(runs) == 1:
                await other.kv.put("another", 1)
            await tx.kv.put("total", runs[-1])

        await store.run_in_transaction(work)
        assert runs == [1, 2]
        assert await store.kv.get("total") == 2


@integration
async def test_a_transaction_that_lost_its_connection_is_over(new_store: NewStore, own_server: RedisServer) -> None:
    async with new_store(own_server.url) as store:
        await store.kv.put("a", 1)
        with pytest.raises(StorageConnectionError):
            async with store.transaction() as tx:
                await tx.kv.put("a", await tx.kv.get("a") + 1)
                own_server.say("CLIENT", "KILL", "TYPE", "normal")
                await asyncio.sleep(0.05)
                await tx.kv.put("b", 1)
        assert await store.kv.get("a") == 1
        assert store.engine.pool_status()["used"] == 0  # type: ignore[attr-defined]


@integration
async def test_closing_ends_open_transactions(new_store: NewStore) -> None:
    store = await new_store()
    with pytest.raises(StorageConnectionError):
        async with store.transaction() as tx:
            await tx.kv.put("a", 1)
            await store.close()
            await tx.kv.put("b", 1)
    async with store:
        assert await store.kv.count() == 0


@integration
async def test_one_store_at_a_time_holds_a_lease(new_store: NewStore) -> None:
    """By the engine's clock, given back at once, taken over when it has run out (G-6)."""
    clock = ManualClock()
    async with new_store(clock=clock) as store, new_store(clock=clock) as other:
        one, two = store.engine.lease, other.engine.lease  # type: ignore[attr-defined]
        assert await one("sweeper", "one", 10)
        assert not await two("sweeper", "two", 10)
        assert await two("other", "two", 10)
        clock.advance(9)
        assert await one("sweeper", "one", 10)
        clock.advance(9)
        assert not await two("sweeper", "two", 10)
        assert await one("sweeper", "one", 0)
        assert await two("sweeper", "two", 10)
        clock.advance(10)
        assert await one("sweeper", "one", 10)
        assert await one("sweeper", "one", 0)
        assert await two("other", "two", 0)
        assert (await store.engine.probe()).startswith("7.")  # type: ignore[attr-defined]
