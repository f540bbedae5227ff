"""The near cache: what overtakes what, and writes nobody knows the end of (CCH-1, CCH-2, G-6)."""

import asyncio

import pytest
from layers.cache_gate import Gate, Open

from polymem.core.clock import ManualClock
from polymem.engines.memory.engine import MemoryEngine
from polymem.errors import Outcome, StorageConflictError, StorageConnectionError, StorageDataError
from polymem.layers import _cache_near
from polymem.layers.cache import CachedEngine, CachePolicy
from polymem.opened import Session
from polymem.store import Store
from polymem.testing.faults import Fault, Faults, faulty_engine

pytestmark = pytest.mark.anyio


async def test_a_late_load_does_not_install_what_a_put_replaced(cached: Open, gate: Gate) -> None:
    """The load has read 1 and is held; 2 is put and acknowledged; then the load ends."""
    async with cached(mode="write_around") as (store, _):
        await store.kv.put("a", 1)
        held = gate.hold("entry", after=True)
        late = asyncio.create_task(store.kv.get("a"))
        await held.reached.wait()
        await store.kv.put("a", 2)
        held.go.set()
        assert await late == 1  # it began before the put
        assert await store.kv.get("a") == 2


async def test_nobody_joins_a_load_that_began_before_a_write_ended(cached: Open, gate: Gate) -> None:
    async with cached(mode="write_around") as (store, cache):
        await store.kv.put("a", 1)
        put = gate.hold("put")
        writing = asyncio.create_task(store.kv.put("a", 2))
        await put.reached.wait()
        load = gate.hold("entry", after=True)
        beside = asyncio.create_task(store.kv.get("a"))
        await load.reached.wait()
        put.go.set()
        await writing
        assert await store.kv.get("a") == 2  # not the answer that is still on its way
        assert cache.statistics().shared_loads == 0
        load.go.set()
        assert await beside == 1
        assert await store.kv.get("a") == 2


async def test_a_load_beside_a_write_leaves_nothing(cached: Open, gate: Gate) -> None:
    """It begins and ends while the put is under way: its value is old as soon as the put ends."""
    async with cached(mode="write_around") as (store, cache):
        await store.kv.put("a", 1)
        put = gate.hold("put")
        writing = asyncio.create_task(store.kv.put("a", 2))
        await put.reached.wait()
        assert await store.kv.get("a") == 1
        assert cache.statistics().entries == 0
        put.go.set()
        await writing
        assert await store.kv.get("a") == 2


async def test_two_puts_at_once_leave_the_last_one_of_the_engine(cached: Open, gate: Gate) -> None:
    """The engine took 1, then 2; the answer to 1 comes last: only the engine knows the order."""
    async with cached() as (store, cache):
        first = gate.hold("put", after=True)
        one = asyncio.create_task(store.kv.put("a", 1))
        await first.reached.wait()
        await store.kv.put("a", 2)
        first.go.set()
        await one
        assert cache.statistics().entries == 0
        assert await store.kv.get("a") == 2


@pytest.mark.parametrize("how", ["clear", "drop"])
async def test_a_put_beside_clear_leaves_nothing(cached: Open, gate: Gate, how: str) -> None:
    async with cached() as (store, _):
        room = store.namespace("n")
        put = gate.hold("put", after=True)
        writing = asyncio.create_task(room.kv.put("a", 1))
        await put.reached.wait()
        await (room.kv.clear() if how == "clear" else store.drop_namespace("n"))
        put.go.set()
        await writing
        assert await room.kv.get("a") is None


async def test_a_load_beside_an_invalidation_leaves_nothing(cached: Open, gate: Gate) -> None:
    async with cached(mode="write_around") as (store, cache):
        await store.kv.put("a", 1)
        for forget in ({"key": "a"}, {"prefix": "a"}, {"tag": "t"}):
            cache.tag("a", "t")
            held = gate.hold("entry", after=True)
            load = asyncio.create_task(store.kv.get("a"))
            await held.reached.wait()
            cache.invalidate(**forget)
            held.go.set()
            assert await load == 1
            assert cache.statistics().entries == 0


async def test_a_failed_compare_and_set_forgets(cached: Open, gate: Gate) -> None:
    """Whoever lost should read anew; whoever won is read from the cache."""
    async with cached() as (store, _):
        version = await store.kv.put("a", 1)
        new = await store.kv.compare_and_set("a", version, 2, ttl=5)
        assert await store.kv.get("a") == 2
        assert gate.calls["entry"] == 0
        with pytest.raises(StorageConflictError):
            await store.kv.compare_and_set("a", version, 3)
        assert (await store.kv.entry("a")).version == new
        assert gate.calls["entry"] == 1


async def test_concurrent_misses_share_one_read(cached: Open, gate: Gate) -> None:
    async with cached(mode="write_around") as (store, cache):
        await store.kv.put("a", 1)
        held = gate.hold("entry")
        readers = [asyncio.create_task(store.kv.get("a")) for _ in range(20)]
        await held.reached.wait()
        await asyncio.sleep(0)
        held.go.set()
        assert await asyncio.gather(*readers) == [1] * 20
        assert gate.calls["entry"] == 1
        assert cache.statistics().shared_loads == 19


async def test_a_cancelled_leader_does_not_fail_its_followers(cached: Open, gate: Gate) -> None:
    async with cached(mode="write_around") as (store, _):
        await store.kv.put("a", 1)
        held, second = gate.hold("entry"), gate.hold("entry")
        leader, *followers = [asyncio.create_task(store.kv.get("a")) for _ in range(4)]
        await held.reached.wait()
        await asyncio.sleep(0)
        leader.cancel()
        await second.reached.wait()  # one of them reads instead
        followers[1].cancel()  # and a follower may leave
        second.go.set()
        results = await asyncio.gather(leader, *followers, return_exceptions=True)
        assert [type(result) for result in results].count(asyncio.CancelledError) == 2
        assert results.count(1) == 2
        assert gate.calls["entry"] == 2


async def test_a_failed_read_fails_all_who_wait_and_is_forgotten(cached: Open, gate: Gate) -> None:
    async with cached() as (store, _):
        gate.failures["entry"] = StorageDataError("broken on purpose")
        held = gate.hold("entry")
        readers = [asyncio.create_task(store.kv.get("a")) for _ in range(3)]
        await held.reached.wait()
        await asyncio.sleep(0)
        held.go.set()
        results = await asyncio.gather(*readers, return_exceptions=True)
        assert [type(result) for result in results] == [StorageDataError] * 3
        gate.failures.clear()
        assert await store.kv.get("a") is None


async def test_a_cancelled_put_keeps_its_key_out(cached: Open, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine may still carry it out, so nothing read now may stay; after a minute it is over."""
    async with cached() as (store, cache):
        await store.kv.put("a", 1)
        held = gate.hold("put")
        put = asyncio.create_task(store.kv.put("a", 2))
        await held.reached.wait()
        put.cancel()
        await asyncio.gather(put, return_exceptions=True)
        assert await store.kv.get("a") == 1
        assert cache.statistics().entries == 0
        monkeypatch.setattr(store.engine._near, "_monotonic", lambda: 1e12)  # type: ignore[attr-defined]
        assert await store.kv.get("a") == 1
        assert cache.statistics().entries == 1


async def test_a_lost_reply_keeps_its_key_out(clock: ManualClock) -> None:
    faults = Faults()
    engine = CachedEngine(faulty_engine(MemoryEngine(clock), faults), CachePolicy())
    await engine._engine._engine.open()  # type: ignore[attr-defined]  # a faulty engine leaves that to its owner
    async with Store(Session(engine, sweep_every=None)) as store:
        await store.kv.put("n", 1)
        assert await store.kv.get("n") == 1
        faults.plan("kv.increment", Fault.REPLY_LOST)
        with pytest.raises(StorageConnectionError) as caught:
            await store.kv.increment("n")
        assert caught.value.outcome is Outcome.UNKNOWN
        assert await store.kv.get("n") == 2
        assert store.cache.statistics().entries == 0
        faults.plan("kv.put", Fault.REFUSED)  # this one surely did not happen: no doubt
        await store.kv.put("m", 1)
        assert store.cache.statistics().entries == 1


async def test_too_many_doubts_switch_the_cache_off(cached: Open, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cache_near, "_MAX_DOUBTS", 2)
    async with cached() as (store, cache):
        gate.failures["put"] = StorageConnectionError("lost", outcome=Outcome.UNKNOWN)
        for number in range(4):
            with pytest.raises(StorageConnectionError):
                await store.kv.put(f"{number}", 1)
        gate.failures.clear()
        await store.kv.put("other", 1)
        assert cache.statistics().entries == 0


async def test_a_tag_or_key_invalidated_beside_a_put(cached: Open, gate: Gate) -> None:
    """The put that is under way leaves nothing behind either."""
    async with cached() as (store, cache):
        held = gate.hold("put", after=True)
        put = asyncio.create_task(store.kv.put("a", 1))
        await held.reached.wait()
        cache.invalidate(key="a")
        held.go.set()
        await put
        assert cache.statistics().entries == 0


async def test_a_clear_of_unknown_outcome_switches_the_cache_off(
    cached: Open, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may still come, and nobody knows which keys it will meet."""
    async with cached() as (store, cache):
        await store.kv.put("a", 1)
        gate.failures["clear"] = StorageConnectionError("lost", outcome=Outcome.UNKNOWN)
        with pytest.raises(StorageConnectionError):
            await store.kv.clear()
        assert await store.kv.get("a") == 1
        assert cache.statistics().entries == 0
        monkeypatch.setattr(store.engine._near, "_monotonic", lambda: 1e12)  # type: ignore[attr-defined]
        await store.kv.get("a")
        assert cache.statistics().entries == 1
