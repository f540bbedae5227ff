"""The near cache: what is a hit, what overtakes what, who is believed (CCH-1, CCH-2, G-6)."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the module that these tests share
from cache_gate import Gate

import polymem
from polymem.contracts.drivers import Drivers
from polymem.core.clock import ManualClock
from polymem.engines.memory.engine import MemoryEngine
from polymem.engines.sqlite.engine import SqliteEngine
from polymem.errors import (
    Outcome,
    StorageConflictError,
    StorageConnectionError,
    StorageDataError,
    StorageFullError,
    StorageUnsupportedError,
)
from polymem.layers import _cache_handle, _cache_near
from polymem.layers.cache import Cache, CachedEngine, CachePolicy
from polymem.opened import Session
from polymem.store import Store
from polymem.testing.faults import Fault, Faults, faulty_engine

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def gate() -> Gate:
    return Gate()


Opened = tuple[Store, Cache]
Open = Callable[..., Any]


@pytest.fixture
def opened(clock: ManualClock, gate: Gate) -> Open:
    @asynccontextmanager
    async def make(engine: Any = None, **policy: Any) -> AsyncIterator[Opened]:
        cached = CachedEngine(engine or MemoryEngine(clock), CachePolicy(**policy), [gate])
        async with Store(Session(cached, sweep_every=None)) as store:
            yield store, store.cache

    return make


# hits


@pytest.mark.parametrize("value", [{}, 0, "", None, False, [], 0.0])
async def test_an_empty_value_is_a_hit(opened: Open, gate: Gate, value: Any) -> None:
    async with opened(mode="write_around", negative=False) as (store, cache):
        await store.kv.put("a", value)
        for _ in range(3):
            assert await store.kv.get("a", "default") == value
        assert gate.calls["entry"] == 1
        assert (cache.statistics().hits, cache.statistics().misses) == (2, 1)
        assert cache.statistics().hit_rate == pytest.approx(2 / 3)


async def test_a_put_is_a_hit_and_its_entry_is_read_once(opened: Open, gate: Gate) -> None:
    async with opened() as (store, _):
        version = await store.kv.put("a", 1)
        assert await store.kv.get("a") == 1
        assert gate.calls["entry"] == 0
        for _ in range(3):
            assert (await store.kv.entry("a")).version == version
        assert await store.kv.exists("a")
        assert gate.calls["entry"] == 1


async def test_absence_is_remembered(opened: Open, gate: Gate, clock: ManualClock) -> None:
    async with opened(negative=5.0) as (store, cache):
        for _ in range(3):
            assert await store.kv.get("a") is None
        assert not await store.kv.exists("a")
        assert gate.calls["entry"] == 1
        assert cache.statistics().negative_hits == 3
        clock.advance(5)
        assert await store.kv.get("a") is None
        assert gate.calls["entry"] == 2
        await store.kv.create("a", 1)
        assert await store.kv.get("a") == 1


async def test_absence_is_not_remembered_when_told_so(opened: Open, gate: Gate) -> None:
    async with opened(negative=False) as (store, _):
        await store.kv.get("a")
        await store.kv.get("a")
        assert gate.calls["entry"] == 2


async def test_get_many_is_answered_whole_or_not_at_all(opened: Open, gate: Gate) -> None:
    """A mixture of cached and loaded values could show half of a put_many."""
    async with opened() as (store, _):
        await store.kv.put_many({"a": 1, "b": 2})
        await store.kv.get("c")
        assert await store.kv.get_many(["a", "b", "c"]) == {"a": 1, "b": 2}
        assert gate.calls["get_many"] == 0
        assert await store.kv.get_many(["a", "d"]) == {"a": 1}
        assert gate.calls["get_many"] == 1


# expiry


async def test_a_cached_record_dies_with_its_own_expiry(opened: Open, clock: ManualClock) -> None:
    """However it came into the cache: by a put, by a load, by a touch in between (G-6)."""
    async with opened() as (store, _):
        await store.kv.put("put", 1, ttl=10)
        await store.kv.put("loaded", 1, ttl=10)
        await store.kv.put("touched", 1, ttl=100)
        assert await store.kv.entry("loaded") is not None
        assert await store.kv.get("touched") == 1
        await store.kv.touch("touched", ttl=10)
        clock.advance(9.999999)
        assert await store.kv.get_many(["put", "loaded", "touched"]) == dict.fromkeys(["put", "loaded", "touched"], 1)
        clock.advance(0.000001)
        for key in ("put", "loaded", "touched"):
            assert await store.kv.get(key) is None
            assert await store.kv.entry(key) is None


async def test_kind_ttl(opened: Open, gate: Gate, clock: ManualClock) -> None:
    async with opened(kind="ttl", ttl=3) as (store, _):
        await store.kv.put("a", 1)
        clock.advance(2.9)
        assert await store.kv.get("a") == 1
        assert gate.calls["entry"] == 0
        clock.advance(0.2)
        assert await store.kv.get("a") == 1
        assert gate.calls["entry"] == 1


# room


@pytest.mark.parametrize(("kind", "stays"), [("lru", ["a", "c"]), ("lfu", ["a", "c"]), ("ttl", ["a", "c"])])
async def test_what_goes_when_there_is_no_room(opened: Open, kind: str, stays: list[str]) -> None:
    async with opened(kind=kind, ttl=9 if kind == "ttl" else None, max_entries=2) as (store, cache):
        await store.kv.put("a", 1)
        await store.kv.put("b", 1)
        await store.kv.get("a")
        await store.kv.put("c", 1)
        assert cache.statistics().entries == 2
        assert cache.statistics().evictions == 1
        assert [key for key in "abc" if cache.invalidate(key=key)] == stays


async def test_the_least_frequent_goes_though_it_was_last_used(opened: Open) -> None:
    async with opened(kind="lfu", max_entries=2) as (store, cache):
        await store.kv.put("a", 1)
        for _ in range(5):
            await store.kv.get("a")
        await store.kv.put("b", 1)
        await store.kv.get("b")
        await store.kv.put("c", 1)
        assert [key for key in "ab" if cache.invalidate(key=key)] == ["a"]


async def test_room_in_bytes(opened: Open) -> None:
    async with opened(max_bytes=3000, max_entries=None) as (store, cache):
        for number in range(10):
            await store.kv.put(f"{number}", "x" * 500)
        statistics = cache.statistics()
        assert statistics.size_bytes is not None
        assert 2000 < statistics.size_bytes <= 3000
        assert statistics.entries == 3
        await store.kv.put("big", "x" * 5000)
        assert await store.kv.get("big") == "x" * 5000
        assert cache.statistics().entries == 3


async def test_both_limits(opened: Open) -> None:
    async with opened(max_bytes=100_000, max_entries=2) as (store, cache):
        await store.kv.put_many(dict.fromkeys("abcdef", 1))
        assert cache.statistics().entries == 2


# races


async def test_a_late_load_does_not_install_what_a_put_replaced(opened: Open, gate: Gate) -> None:
    """The load has read 1 and is held; 2 is put and acknowledged; then the load ends."""
    async with opened(mode="write_around") as (store, _):
        await store.kv.put("a", 1)
        held = gate.hold("entry", after=True)
        late = asyncio.create_task(store.kv.get("a"))
        await held.reached.wait()
        await store.kv.put("a", 2)
        held.go.set()
        assert await late == 1  # it began before the put
        assert await store.kv.get("a") == 2


async def test_nobody_joins_a_load_that_began_before_a_write_ended(opened: Open, gate: Gate) -> None:
    async with opened(mode="write_around") as (store, cache):
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


async def test_a_load_beside_a_write_leaves_nothing(opened: Open, gate: Gate) -> None:
    """It begins and ends while the put is under way: its value is old as soon as the put ends."""
    async with opened(mode="write_around") as (store, cache):
        await store.kv.put("a", 1)
        put = gate.hold("put")
        writing = asyncio.create_task(store.kv.put("a", 2))
        await put.reached.wait()
        assert await store.kv.get("a") == 1
        assert cache.statistics().entries == 0
        put.go.set()
        await writing
        assert await store.kv.get("a") == 2


async def test_two_puts_at_once_leave_the_last_one_of_the_engine(opened: Open, gate: Gate) -> None:
    """The engine took 1, then 2; the answer to 1 comes last: only the engine knows the order."""
    async with opened() as (store, cache):
        first = gate.hold("put", after=True)
        one = asyncio.create_task(store.kv.put("a", 1))
        await first.reached.wait()
        await store.kv.put("a", 2)
        first.go.set()
        await one
        assert cache.statistics().entries == 0
        assert await store.kv.get("a") == 2


@pytest.mark.parametrize("how", ["clear", "drop"])
async def test_a_put_beside_clear_leaves_nothing(opened: Open, gate: Gate, how: str) -> None:
    async with opened() as (store, _):
        room = store.namespace("n")
        put = gate.hold("put", after=True)
        writing = asyncio.create_task(room.kv.put("a", 1))
        await put.reached.wait()
        await (room.kv.clear() if how == "clear" else store.drop_namespace("n"))
        put.go.set()
        await writing
        assert await room.kv.get("a") is None


async def test_a_load_beside_an_invalidation_leaves_nothing(opened: Open, gate: Gate) -> None:
    async with opened(mode="write_around") as (store, cache):
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


async def test_a_failed_compare_and_set_forgets(opened: Open, gate: Gate) -> None:
    """Whoever lost should read anew; whoever won is read from the cache."""
    async with opened() as (store, _):
        version = await store.kv.put("a", 1)
        new = await store.kv.compare_and_set("a", version, 2, ttl=5)
        assert await store.kv.get("a") == 2
        assert gate.calls["entry"] == 0
        with pytest.raises(StorageConflictError):
            await store.kv.compare_and_set("a", version, 3)
        assert (await store.kv.entry("a")).version == new
        assert gate.calls["entry"] == 1


# single flight


async def test_concurrent_misses_share_one_read(opened: Open, gate: Gate) -> None:
    async with opened(mode="write_around") as (store, cache):
        await store.kv.put("a", 1)
        held = gate.hold("entry")
        readers = [asyncio.create_task(store.kv.get("a")) for _ in range(20)]
        await held.reached.wait()
        await asyncio.sleep(0)
        held.go.set()
        assert await asyncio.gather(*readers) == [1] * 20
        assert gate.calls["entry"] == 1
        assert cache.statistics().shared_loads == 19


async def test_a_cancelled_leader_does_not_fail_its_followers(opened: Open, gate: Gate) -> None:
    async with opened(mode="write_around") as (store, _):
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


async def test_a_failed_read_fails_all_who_wait_and_is_forgotten(opened: Open, gate: Gate) -> None:
    async with opened() as (store, _):
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


# writes nobody knows the end of


async def test_a_cancelled_put_keeps_its_key_out(opened: Open, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine may still carry it out, so nothing read now may stay; after a minute it is over."""
    async with opened() as (store, cache):
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
    cached = CachedEngine(faulty_engine(MemoryEngine(clock), faults), CachePolicy())
    await cached._engine._engine.open()  # type: ignore[attr-defined]  # a faulty engine leaves that to its owner
    async with Store(Session(cached, sweep_every=None)) as store:
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


async def test_too_many_doubts_switch_the_cache_off(opened: Open, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cache_near, "_MAX_DOUBTS", 2)
    async with opened() as (store, cache):
        gate.failures["put"] = StorageConnectionError("lost", outcome=Outcome.UNKNOWN)
        for number in range(4):
            with pytest.raises(StorageConnectionError):
                await store.kv.put(f"{number}", 1)
        gate.failures.clear()
        await store.kv.put("other", 1)
        assert cache.statistics().entries == 0


# transactions


async def test_the_cache_hears_of_a_transaction_at_its_commit(opened: Open, gate: Gate) -> None:
    async with opened() as (store, _):
        await store.kv.put_many({"a": 1, "b": 1, "c": 1, "d": 1})
        async with store.transaction() as tx:
            await tx.kv.put("a", 2)
            await tx.kv.delete_many(["b"])
            await tx.kv.put_many({"c": 2})
            assert await tx.kv.get("a") == 2
            assert await tx.kv.get("b") is None
            assert await store.kv.get("a") == 1
            assert gate.calls["get"] == 2  # inside, nothing comes from the cache
        assert [await store.kv.get(key) for key in "abcd"] == [2, None, 2, 1]


@pytest.mark.parametrize("operation", ["increment", "touch", "update", "replace", "create", "clear", "namespace"])
async def test_every_write_of_a_transaction_is_noted(opened: Open, clock: ManualClock, operation: str) -> None:
    async with opened() as (store, _):
        version = await store.kv.put("a", 1)
        await store.kv.get("new")
        await store.namespace("n").kv.put("a", 1)
        async with store.transaction() as tx:
            match operation:
                case "increment":
                    await tx.kv.increment("a")
                case "touch":
                    await tx.kv.touch("a", ttl=0)
                case "update":
                    await tx.kv.update("a", 5)
                case "replace":
                    await tx.kv.compare_and_set("a", version, 5)
                case "create":
                    await tx.kv.create("new", 5)
                case "clear":
                    await tx.kv.clear()
                case "namespace":
                    await tx.namespace("n").kv.put("a", 5)
        expected: dict[str, list[Any]] = {
            "increment": [2, None, 1], "touch": [None, None, 1], "update": [5, None, 1], "replace": [5, None, 1],
            "create": [1, 5, 1], "clear": [None, None, 1], "namespace": [1, None, 5],
        }  # fmt: skip
        found = [await store.kv.get("a"), await store.kv.get("new"), await store.namespace("n").kv.get("a")]
        assert found == expected[operation]


async def test_a_rollback_changes_nothing(opened: Open, gate: Gate) -> None:
    async with opened() as (store, cache):
        await store.kv.put("a", 1)
        with pytest.raises(ZeroDivisionError):
            async with store.transaction() as tx:
                await tx.kv.put("a", 2)
                raise ZeroDivisionError
        assert await store.kv.get("a") == 1
        assert gate.calls["entry"] == 0
        assert cache.statistics().entries == 1


async def test_many_keys_of_one_transaction(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polymem.layers._cache_transactions._MAX_SLOTS", 3)
    async with opened() as (store, _):
        await store.kv.put_many({f"{n}": 0 for n in range(8)})
        async with store.transaction() as tx:
            for number in range(8):
                await tx.kv.put(f"{number}", 1)
        assert [await store.kv.get(f"{n}") for n in range(8)] == [1] * 8


@pytest.mark.parametrize("lost", ["reply", "request"])
async def test_a_commit_without_an_answer(opened: Open, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    """Committed or not, the cache shows what the engine has, and keeps the keys out for a while."""
    async with opened() as (store, cache):
        await store.kv.put_many({"a": 1, "b": 1})
        with pytest.raises(StorageConnectionError):
            async with store.transaction() as tx:
                await tx.kv.put("a", 2)
                inner = tx._transaction._inner
                commit = inner.commit

                async def unanswered() -> None:
                    if lost == "reply":
                        await commit()
                    else:
                        await inner.rollback()
                    raise StorageConnectionError("cut off", outcome=Outcome.UNKNOWN)

                monkeypatch.setattr(inner, "commit", unanswered, raising=False)
        for _ in range(2):
            assert await store.kv.get("a") == (2 if lost == "reply" else 1)
        assert cache.statistics().entries == 1  # "b"


async def test_no_read_beside_a_commit_installs_the_old_value(opened: Open, gate: Gate) -> None:
    async with opened() as (store, _):
        await store.kv.put("a", 1)
        store.cache.invalidate(key="a")
        held = gate.hold("entry", after=True)
        late = asyncio.create_task(store.kv.get("a"))
        await held.reached.wait()
        async with store.transaction() as tx:
            await tx.kv.put("a", 2)
        held.go.set()
        assert await late == 1
        assert await store.kv.get("a") == 2


async def test_plain_sql_may_have_written_anything(tmp_path: Path, opened: Open) -> None:
    async with opened(SqliteEngine(tmp_path / "a.db")) as (store, _):
        await store.kv.put("a", 1)
        await store.sql.execute("update pm_kv set value = '2'")
        assert await store.kv.get("a") == 2
        async with store.transaction() as tx:
            await tx.sql.execute("update pm_kv set value = '3'")
        assert await store.kv.get("a") == 3


async def test_restoring_a_snapshot_empties_the_cache(opened: Open) -> None:
    async with opened() as (store, _):
        await store.kv.put("a", 1)
        snapshot = await store.engine.snapshot()
        await store.kv.put("a", 2)
        await store.engine.restore(snapshot)
        assert await store.kv.get("a") == 1


# invalidation and tags


async def test_invalidate_by_key_prefix_and_tag(opened: Open) -> None:
    async with opened() as (store, cache):
        await store.kv.put_many(dict.fromkeys(["u/1", "u/2", "v/1"], 0))
        await store.namespace("n").kv.put_many(dict.fromkeys(["u/1", "u/2"], 0))
        assert cache.invalidate(key="u/1") == 1
        assert cache.invalidate(key="u/1") == 0
        assert cache.invalidate(prefix="u/") == 1
        inner = store.namespace("n").cache
        inner.tag("u/1", "red", "green")
        cache.tag("v/1", "red")
        assert inner.invalidate(tag="red") == 1
        assert inner.invalidate(tag="red") == 0
        await store.namespace("n").kv.get("u/1")
        assert inner.invalidate(tag="green") == 1  # loaded anew it still has the other tag
        assert cache.statistics().entries == 2
        assert cache.clear() == 2


async def test_bad_tags_and_invalidations(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as (store, cache):
        calls: Any = cache
        for arguments in ({}, {"key": "a", "tag": "b"}, {"key": ""}, {"prefix": 1}, {"tag": ""}):
            with pytest.raises(StorageDataError):
                calls.invalidate(**arguments)
        for arguments in (("a",), ("", "t"), ("a", 1)):
            with pytest.raises(StorageDataError):
                calls.tag(*arguments)
        monkeypatch.setattr(_cache_handle, "MAX_TAGGED", 2)
        cache.tag("a", "x", "y")
        cache.tag("a", "x")
        with pytest.raises(StorageFullError):
            cache.tag("b", "x")
        cache.invalidate(tag="x")
        cache.tag("b", "x")


# opening


async def test_open_with_a_cache() -> None:
    async with polymem.open("memory:", cache=2) as store:
        await store.kv.put_many(dict.fromkeys("abc", 1))
        assert store.cache.statistics().entries == 2
        assert await store.kv.get_many(["a", "c"]) == {"a": 1, "c": 1}
    async with polymem.open("memory:") as store:
        with pytest.raises(StorageUnsupportedError):
            store.cache  # noqa: B018


async def test_what_concerns_the_whole_engine_passes(clock: ManualClock) -> None:
    """Sweeping, checking and purging go through, and so does an engine's error map (G-6, G-9)."""
    async with polymem.open("memory:", cache=5, clock=clock) as store:
        await store.kv.put("a", 1, ttl=1)
        clock.advance(1)
        assert await store.delete_expired() == 1
        assert (await store.check()).ok
        await store.purge()
        assert store.engine.url == "memory:"  # type: ignore[attr-defined]


async def test_layers_without_records_or_transactions(clock: ManualClock) -> None:
    """A layer below may offer less; what it leaves out stays out."""

    def turns_only(drivers: Drivers, _: str) -> Drivers:
        return Drivers(turns=drivers.turns)

    cached = CachedEngine(MemoryEngine(clock), CachePolicy(), [turns_only])
    async with Store(Session(cached, sweep_every=None)) as store:
        assert sorted(store.features()) == ["turns"]


async def test_a_tag_or_key_invalidated_beside_a_put(opened: Open, gate: Gate) -> None:
    """The put that is under way leaves nothing behind either."""
    async with opened() as (store, cache):
        held = gate.hold("put", after=True)
        put = asyncio.create_task(store.kv.put("a", 1))
        await held.reached.wait()
        cache.invalidate(key="a")
        held.go.set()
        await put
        assert cache.statistics().entries == 0


async def test_nothing_is_kept_over_a_close(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    store = await polymem.open(f"sqlite:///{path}", cache=10)
    await store.kv.put("a", 1)
    await store.close()
    async with polymem.open(f"sqlite:///{path}") as other:
        await other.kv.put("a", 2)
    await store.open()
    assert await store.kv.get("a") == 2
    await store.close()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "arc"), ("mode", "back"), ("max_entries", 0), ("max_entries", True), ("max_bytes", -1),
        ("max_bytes", 1.5), ("ttl", 5), ("negative", 0), ("negative", "yes"), ("max_staleness", -1),
        ("max_staleness", float("nan")), ("max_pending", 0), ("max_delay", 0), ("max_delay", float("inf")),
    ],
)  # fmt: skip
def test_bad_policies_name_the_field(field: str, value: Any) -> None:
    with pytest.raises(StorageDataError) as caught:
        CachePolicy(**{field: value})
    assert caught.value.field == field


def test_more_bad_policies() -> None:
    for options in ({"max_entries": None}, {"kind": "ttl"}, {"kind": "ttl", "ttl": 0}):
        with pytest.raises(StorageDataError):
            CachePolicy(**options)  # type: ignore[arg-type]
    for bad in (0, -1, "10", 1.5):
        with pytest.raises(StorageDataError) as caught:
            CachedEngine(MemoryEngine(), bad)  # type: ignore[arg-type]
        assert caught.value.field == "cache"


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cachetools", None)
    with pytest.raises(StorageUnsupportedError, match=r"polymem\[cache\]"):
        CachedEngine(MemoryEngine(), 5)


async def test_a_clear_of_unknown_outcome_switches_the_cache_off(
    opened: Open, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may still come, and nobody knows which keys it will meet."""
    async with opened() as (store, cache):
        await store.kv.put("a", 1)
        gate.failures["clear"] = StorageConnectionError("lost", outcome=Outcome.UNKNOWN)
        with pytest.raises(StorageConnectionError):
            await store.kv.clear()
        assert await store.kv.get("a") == 1
        assert cache.statistics().entries == 0
        monkeypatch.setattr(store.engine._near, "_monotonic", lambda: 1e12)  # type: ignore[attr-defined]
        await store.kv.get("a")
        assert cache.statistics().entries == 1
