"""The near cache: what is a hit, how long, and what goes when there is no room (CCH-1, G-6)."""

from typing import Any

import pytest
from layers.cache_gate import Gate, Open

from polymem.core.clock import ManualClock
from polymem.errors import StorageDataError, StorageFullError
from polymem.layers import _cache_handle

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("value", [{}, 0, "", None, False, [], 0.0])
async def test_an_empty_value_is_a_hit(cached: Open, gate: Gate, value: Any) -> None:
    async with cached(mode="write_around", negative=False) as (store, cache):
        await store.kv.put("a", value)
        for _ in range(3):
            assert await store.kv.get("a", "default") == value
        assert gate.calls["entry"] == 1
        assert (cache.statistics().hits, cache.statistics().misses) == (2, 1)
        assert cache.statistics().hit_rate == pytest.approx(2 / 3)


async def test_a_put_is_a_hit_and_its_entry_is_read_once(cached: Open, gate: Gate) -> None:
    async with cached() as (store, _):
        version = await store.kv.put("a", 1)
        assert await store.kv.get("a") == 1
        assert gate.calls["entry"] == 0
        for _ in range(3):
            assert (await store.kv.entry("a")).version == version
        assert await store.kv.exists("a")
        assert gate.calls["entry"] == 1


async def test_absence_is_remembered(cached: Open, gate: Gate, clock: ManualClock) -> None:
    async with cached(negative=5.0) as (store, cache):
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


async def test_absence_is_not_remembered_when_told_so(cached: Open, gate: Gate) -> None:
    async with cached(negative=False) as (store, _):
        await store.kv.get("a")
        await store.kv.get("a")
        assert gate.calls["entry"] == 2


async def test_get_many_is_answered_whole_or_not_at_all(cached: Open, gate: Gate) -> None:
    """A mixture of cached and loaded values could show half of a put_many."""
    async with cached() as (store, _):
        await store.kv.put_many({"a": 1, "b": 2})
        await store.kv.get("c")
        assert await store.kv.get_many(["a", "b", "c"]) == {"a": 1, "b": 2}
        assert gate.calls["get_many"] == 0
        assert await store.kv.get_many(["a", "d"]) == {"a": 1}
        assert gate.calls["get_many"] == 1


async def test_a_cached_record_dies_with_its_own_expiry(cached: Open, clock: ManualClock) -> None:
    """However it came into the cache: by a put, by a load, by a touch in between (G-6)."""
    async with cached() as (store, _):
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


async def test_kind_ttl(cached: Open, gate: Gate, clock: ManualClock) -> None:
    async with cached(kind="ttl", ttl=3) as (store, _):
        await store.kv.put("a", 1)
        clock.advance(2.9)
        assert await store.kv.get("a") == 1
        assert gate.calls["entry"] == 0
        clock.advance(0.2)
        assert await store.kv.get("a") == 1
        assert gate.calls["entry"] == 1


@pytest.mark.parametrize(("kind", "stays"), [("lru", ["a", "c"]), ("lfu", ["a", "c"]), ("ttl", ["a", "c"])])
async def test_what_goes_when_there_is_no_room(cached: Open, kind: str, stays: list[str]) -> None:
    async with cached(kind=kind, ttl=9 if kind == "ttl" else None, max_entries=2) as (store, cache):
        await store.kv.put("a", 1)
        await store.kv.put("b", 1)
        await store.kv.get("a")
        await store.kv.put("c", 1)
        assert cache.statistics().entries == 2
        assert cache.statistics().evictions == 1
        assert [key for key in "abc" if cache.invalidate(key=key)] == stays


async def test_the_least_frequent_goes_though_it_was_last_used(cached: Open) -> None:
    async with cached(kind="lfu", max_entries=2) as (store, cache):
        await store.kv.put("a", 1)
        for _ in range(5):
            await store.kv.get("a")
        await store.kv.put("b", 1)
        await store.kv.get("b")
        await store.kv.put("c", 1)
        assert [key for key in "ab" if cache.invalidate(key=key)] == ["a"]


async def test_room_in_bytes(cached: Open) -> None:
    async with cached(max_bytes=3000, max_entries=None) as (store, cache):
        for number in range(10):
            await store.kv.put(f"{number}", "x" * 500)
        statistics = cache.statistics()
        assert statistics.size_bytes is not None
        assert 2000 < statistics.size_bytes <= 3000
        assert statistics.entries == 3
        await store.kv.put("big", "x" * 5000)
        assert await store.kv.get("big") == "x" * 5000
        assert cache.statistics().entries == 3


async def test_both_limits(cached: Open) -> None:
    async with cached(max_bytes=100_000, max_entries=2) as (store, cache):
        await store.kv.put_many(dict.fromkeys("abcdef", 1))
        assert cache.statistics().entries == 2


async def test_invalidate_by_key_prefix_and_tag(cached: Open) -> None:
    async with cached() as (store, cache):
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


async def test_bad_tags_and_invalidations(cached: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async with cached() as (store, cache):
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
