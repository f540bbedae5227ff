"""Stores with a cache: opening, closing, policies, and what passes by it (CCH-1, G-2)."""

import sys
from pathlib import Path
from typing import Any

import pytest

import polymem
from polymem.contracts.drivers import Drivers
from polymem.core.clock import ManualClock
from polymem.engines.memory.engine import MemoryEngine
from polymem.errors import StorageDataError, StorageUnsupportedError
from polymem.layers.cache import CachedEngine, CachePolicy
from polymem.opened import Session
from polymem.store import Store

pytestmark = pytest.mark.anyio


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

    engine = CachedEngine(MemoryEngine(clock), CachePolicy(), [turns_only])
    async with Store(Session(engine, sweep_every=None)) as store:
        assert sorted(store.features()) == ["turns"]


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
