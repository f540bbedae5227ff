"""The change log in memory: bounded, and given up when the state is replaced (EVT-1)."""

import asyncio
from typing import Any

import pytest

from polymem.engines._tables.changes import KEPT
from polymem.engines.memory.engine import MemoryEngine
from polymem.errors import StorageDataError
from polymem.opened import Session
from polymem.store import Store

pytestmark = pytest.mark.anyio


async def test_the_oldest_changes_fall_out() -> None:
    store = await Store(Session(MemoryEngine(), sweep_every=None))
    async with store, store.kv.watch() as slow, store.kv.watch() as other:
        await store.kv.put_many({f"{number}": 1 for number in range(KEPT)})
        assert (await other.read(1))[0].key == "0"
        await store.kv.put("one more", 1)
        with pytest.raises(StorageDataError):
            await slow.read()


async def test_restoring_a_snapshot_ends_every_watch() -> None:
    engine = MemoryEngine()
    async with Store(Session(engine, sweep_every=None)) as store, store.kv.watch() as watch:
        snapshot = await engine.snapshot()
        waiting: Any = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        await engine.restore(snapshot)
        with pytest.raises(StorageDataError):
            await asyncio.wait_for(waiting, 10)


async def test_namespaces_that_nobody_watches_cost_no_memory() -> None:
    engine = MemoryEngine()
    async with Store(Session(engine, sweep_every=None)) as store, store.namespace("a").kv.watch():
        await store.kv.put("k", 1)
        async with store.transaction() as tx:
            await tx.kv.put("k", 1)
        logs = engine._view.logs  # noqa: SLF001 - nothing else shows it
        assert set(logs) == {"a/"}
        assert logs["a/"].position.endswith(".0")
