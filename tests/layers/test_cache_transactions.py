"""The near cache hears of transactions when they are committed, and believes no plain SQL (CCH-1)."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from layers.cache_gate import Gate, Open

from polymem.core.clock import ManualClock
from polymem.engines.sqlite.engine import SqliteEngine
from polymem.errors import Outcome, StorageConnectionError

pytestmark = pytest.mark.anyio


async def test_the_cache_hears_of_a_transaction_at_its_commit(cached: Open, gate: Gate) -> None:
    async with cached() as (store, _):
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
async def test_every_write_of_a_transaction_is_noted(cached: Open, clock: ManualClock, operation: str) -> None:
    async with cached() as (store, _):
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


async def test_a_rollback_changes_nothing(cached: Open, gate: Gate) -> None:
    async with cached() as (store, cache):
        await store.kv.put("a", 1)
        with pytest.raises(ZeroDivisionError):
            async with store.transaction() as tx:
                await tx.kv.put("a", 2)
                raise ZeroDivisionError
        assert await store.kv.get("a") == 1
        assert gate.calls["entry"] == 0
        assert cache.statistics().entries == 1


async def test_many_keys_of_one_transaction(cached: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polymem.layers._cache_transactions._MAX_SLOTS", 3)
    async with cached() as (store, _):
        await store.kv.put_many({f"{n}": 0 for n in range(8)})
        async with store.transaction() as tx:
            for number in range(8):
                await tx.kv.put(f"{number}", 1)
        assert [await store.kv.get(f"{n}") for n in range(8)] == [1] * 8


@pytest.mark.parametrize("lost", ["reply", "request"])
async def test_a_commit_without_an_answer(cached: Open, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    """Committed or not, the cache shows what the engine has, and keeps the keys out for a while."""
    async with cached() as (store, cache):
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


async def test_no_read_beside_a_commit_installs_the_old_value(cached: Open, gate: Gate) -> None:
    async with cached() as (store, _):
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


async def test_plain_sql_may_have_written_anything(tmp_path: Path, cached: Open) -> None:
    async with cached(SqliteEngine(tmp_path / "a.db")) as (store, _):
        await store.kv.put("a", 1)
        await store.sql.execute("update pm_kv set value = '2'")
        assert await store.kv.get("a") == 2
        async with store.transaction() as tx:
            await tx.sql.execute("update pm_kv set value = '3'")
        assert await store.kv.get("a") == 3


async def test_restoring_a_snapshot_empties_the_cache(cached: Open) -> None:
    async with cached() as (store, _):
        await store.kv.put("a", 1)
        snapshot = await store.engine.snapshot()
        await store.kv.put("a", 2)
        await store.engine.restore(snapshot)
        assert await store.kv.get("a") == 1
