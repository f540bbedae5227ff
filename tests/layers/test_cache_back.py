"""Write-back: bounded, ordered per key, flushed on close, errors surfaced, a crash loses the bound and no more (CCH-1)."""

import asyncio
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from layers.cache_gate import Gate

from polymem.core.clock import ManualClock
from polymem.engines.memory.engine import MemoryEngine
from polymem.engines.sqlite.engine import SqliteEngine
from polymem.errors import Outcome, StorageConnectionError, StorageDataError, StorageError, StorageQueryError
from polymem.layers.cache import Cache, CachedEngine, CachePolicy
from polymem.opened import Session
from polymem.store import Store

pytestmark = pytest.mark.anyio
LONG = 1000.0


def new(gate: Gate, engine: Any = None, **policy: Any) -> Store:
    options = {"max_delay": LONG, **policy}
    cached = CachedEngine(engine or MemoryEngine(ManualClock()), CachePolicy(mode="write_back", **options), [gate])
    return Store(Session(cached, sweep_every=None))


@asynccontextmanager
async def opened(gate: Gate, engine: Any = None, **policy: Any) -> AsyncIterator[tuple[Any, Cache]]:
    async with new(gate, engine, **policy) as store:
        yield store, store.cache


async def test_a_put_waits_and_is_read_from_here(gate: Gate) -> None:
    async with opened(gate) as (store, cache):
        await store.kv.put("a", 1)
        await store.kv.put("b", None, ttl=5)
        assert await store.kv.get("a") == 1
        assert await store.kv.get("b", "default") is None
        assert not gate.calls
        assert cache.statistics().pending == 2
        store.engine.clock.advance(5)  # type: ignore[attr-defined]
        assert await store.kv.get("b", "expired") == "expired"
        assert not store.kv.features.durable
        await cache.flush()
        assert gate.calls == {"put": 2}
        assert (cache.statistics().pending, cache.statistics().flushed) == (0, 2)
        assert await store.kv.get("a") == 1
        assert gate.calls["entry"] == 0  # what was written is in the cache


async def test_it_is_written_after_max_delay(gate: Gate) -> None:
    async with opened(gate, max_delay=0.001) as (store, cache):
        held = gate.hold("put")
        await store.kv.put("a", 1)
        await held.reached.wait()  # nobody asked for it
        await store.kv.put("b", 2)
        held.go.set()
        while cache.statistics().pending:
            await asyncio.sleep(0.001)
        assert gate.order == [("put", "a"), ("put", "b")]


async def test_the_newest_value_of_a_key_is_written_last(gate: Gate) -> None:
    """1 is on its way when 2 and 3 are put: 2 is never written, 3 after 1; reads see 3 all the time."""
    async with opened(gate) as (store, cache):
        await store.kv.put("a", 1)
        held = gate.hold("put")
        flush = asyncio.create_task(cache.flush())
        await held.reached.wait()
        assert await store.kv.get("a") == 1
        await store.kv.put("a", 2)
        await store.kv.put("a", 3)
        later = asyncio.create_task(cache.flush())
        await asyncio.sleep(0)
        assert await store.kv.get("a") == 3
        assert gate.calls["put"] == 1
        held.go.set()
        await asyncio.gather(flush, later)
        assert gate.calls["put"] == 2
        assert (await store.kv.entry("a")).value == 3


async def test_no_more_than_max_pending_wait(gate: Gate) -> None:
    async with opened(gate, max_pending=5) as (store, cache):
        for number in range(5):
            await store.kv.put(f"{number}", number)
        await store.kv.put("0", 100)  # a key that waits already needs no more room
        assert not gate.calls
        held = [gate.hold("put") for _ in range(5)]
        sixth = asyncio.create_task(store.kv.put("5", 5))
        await held[-1].reached.wait()
        waiting, done = cache.statistics().pending, sixth.done()
        for one in held:
            one.go.set()
        await sixth
        assert (waiting, done) == (5, False)
        assert cache.statistics().pending == 1


async def test_other_operations_find_it_written(gate: Gate) -> None:
    """Everything but get and put concerns the engine's record, so a put that waits is written first."""
    async with opened(gate) as (store, _):
        kv = store.kv
        version = await kv.put("a", 1)
        assert (await kv.entry("a")).version == version
        version = await kv.put("a", 2)
        version = await kv.compare_and_set("a", version, 3)
        await kv.put("a", 4)
        assert await kv.increment("a") == 5
        await kv.put("a", 6)
        await kv.update("a", 7)
        await kv.put("a", 8)
        assert await kv.touch("a", ttl=5)
        await kv.put("b", 1)
        assert await kv.count() == 2
        await kv.put("c", 1)
        assert [key async for key in kv.scan()] == ["a", "b", "c"]
        await kv.put("d", 1)
        assert await kv.get_many(["a", "d"]) == {"a": 8, "d": 1}
        await kv.put("e", 1)
        assert await kv.delete("e")
        await kv.put_many({"e": 2})
        await kv.put("e", 3)
        assert await kv.delete_many(["e", "f"]) == 1
        await kv.put("g", 1)
        assert await kv.clear() == 5
        assert await kv.count() == 0
        await store.namespace("n").kv.put("a", 1)
        assert [name async for name in store.namespaces()] == [("n",)]
        await store.namespace("n").kv.put("b", 1)
        assert await store.drop_namespace("n") == 2
        await kv.put("h", 1)
        async with store.transaction() as tx:
            assert await tx.kv.get("h") == 1


async def test_inside_a_transaction_nothing_waits_for_its_own_end(gate: Gate) -> None:
    """Another task's put waits; writing it needs the writer that this very task holds."""
    async with opened(gate) as (store, cache):
        ready, put = asyncio.Event(), asyncio.Event()

        async def other() -> None:
            await ready.wait()
            await store.kv.put("a", 1)
            put.set()

        task = asyncio.create_task(other())
        async with store.transaction():
            ready.set()
            await put.wait()
            assert await store.kv.get("a") == 1
            with pytest.raises(StorageQueryError):
                await store.kv.count()
        await task
        assert await store.kv.count() == 1
        assert cache.statistics().pending == 0


async def test_errors_go_to_those_who_wait_and_the_value_stays(gate: Gate) -> None:
    async with opened(gate, max_pending=2) as (store, cache):
        gate.failures["put"] = StorageConnectionError("down", outcome=Outcome.UNKNOWN)
        await store.kv.put("a", 1)
        await store.kv.put("b", 1)
        for call in (cache.flush(), store.kv.entry("a"), store.kv.count(), store.kv.put("c", 1), store.kv.delete("b")):
            with pytest.raises(StorageConnectionError):
                await call
        with pytest.raises(StorageConnectionError):
            async with store.transaction():
                raise AssertionError
        await store.kv.put("a", 2)
        assert await store.kv.get("a") == 2
        assert cache.statistics().pending == 2
        assert cache.statistics().flush_errors >= 6
        gate.failures.clear()
        await cache.flush()
        assert (await store.kv.entry("a")).value == 2


async def test_a_failed_write_does_not_bring_back_what_was_put_over_it(gate: Gate) -> None:
    async with opened(gate) as (store, cache):
        await store.kv.put("a", 1)
        held = gate.hold("put")
        flush = asyncio.create_task(cache.flush())
        await held.reached.wait()
        await store.kv.put("a", 2)
        gate.failures["put"] = StorageDataError("refused")
        held.go.set()
        with pytest.raises(StorageDataError):
            await flush
        gate.failures.clear()
        assert await store.kv.get("a") == 2
        assert (await store.kv.entry("a")).value == 2


async def test_one_bad_put_does_not_hold_up_the_others(gate: Gate) -> None:
    async with opened(gate) as (store, cache):
        held = gate.hold("put")
        await store.kv.put("a", 1)
        await store.kv.put("b", 2)
        flush = asyncio.create_task(cache.flush())
        await held.reached.wait()
        gate.failures["put"] = StorageDataError("refused")  # meets the one that is held, "a"
        held.go.set()
        with pytest.raises(StorageDataError):
            await flush
        gate.failures.clear()
        assert cache.statistics().pending == 1
        assert (await store.kv.entry("b")).value == 2
        assert gate.order[-1] == ("entry", "b")


async def test_closing_writes_everything(gate: Gate, tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(gate, SqliteEngine(path)) as (store, _):
        for number in range(50):
            await store.kv.put(f"{number}", number)
    assert gate.calls == {"put": 50}
    async with Store(Session(SqliteEngine(path), sweep_every=None)) as store:
        assert await store.kv.count() == 50


async def test_closing_says_what_is_lost_and_closes(gate: Gate, tmp_path: Path) -> None:
    store = await new(gate, SqliteEngine(tmp_path / "a.db"))
    gate.failures["put"] = StorageDataError("refused")
    await store.kv.put("a", 1)
    await store.kv.put("b", 1)
    with pytest.raises(StorageError, match="2 puts") as caught:
        await store.close()
    assert isinstance(caught.value.__cause__, StorageDataError)
    await store.close()
    gate.failures.clear()
    async with store:  # a new life begins empty
        assert await store.kv.get("a") is None


async def test_a_caller_who_leaves_does_not_stop_the_round(gate: Gate) -> None:
    async with opened(gate) as (store, cache):
        await store.kv.put("a", 1)
        held = gate.hold("put")
        flush = asyncio.create_task(cache.flush())
        await held.reached.wait()
        flush.cancel()
        await asyncio.gather(flush, return_exceptions=True)
        held.go.set()
        await cache.flush()
        assert gate.calls["put"] == 1


_CRASH = """
import asyncio, os, sys
from polymem.engines.sqlite.engine import SqliteEngine
from polymem.layers.cache import CachedEngine, CachePolicy
from polymem.opened import Session
from polymem.store import Store

async def main():
    policy = CachePolicy(mode="write_back", max_pending=20, max_delay=1000)
    async with Store(Session(CachedEngine(SqliteEngine(sys.argv[1]), policy), sweep_every=None)) as store:
        for number in range(int(sys.argv[2])):
            await store.kv.put(f"{number:05}", number)
            print(number, flush=True)
        os._exit(1)

asyncio.run(main())
"""


@pytest.mark.parametrize("puts", [19, 20, 21, 90])
def test_a_crash_loses_at_most_max_pending(tmp_path: Path, puts: int) -> None:
    """The process ends at once after its last acknowledgement: all but the last 20 keys are in the file."""
    path = tmp_path / "a.db"
    done = subprocess.run([sys.executable, "-c", _CRASH, str(path), str(puts)], capture_output=True, check=False)
    acknowledged = len(done.stdout.split())
    assert acknowledged == puts, done.stderr

    async def survivors() -> list[str]:
        async with Store(Session(SqliteEngine(path), sweep_every=None)) as store:
            return [key async for key in store.kv.scan()]

    found = asyncio.run(survivors())
    assert found == [f"{number:05}" for number in range(len(found))]
    assert puts - 20 <= len(found)
    assert puts <= 20 or len(found) > 0


@pytest.mark.parametrize("seed", range(20))
async def test_random_work_reads_like_an_engine(gate: Gate, seed: int) -> None:
    """Any sequence of operations gives the same answers as without the cache, instants excepted."""
    dice, clock = random.Random(seed), ManualClock()
    async with (
        opened(gate, MemoryEngine(clock), max_pending=4, max_entries=3) as (store, cache),
        Store(Session(MemoryEngine(clock), sweep_every=None)) as plain,
    ):
        for _ in range(300):
            step, seconds = _step(dice), dice.choice([0, 0, 0, 0.5, 2])
            assert await _do(store, step) == await _do(plain, step), step
            clock.advance(seconds)
            if dice.random() < 0.05:
                await cache.flush()
        assert await _do(store, ("scan", "", 0, None)) == await _do(plain, ("scan", "", 0, None))


def _step(dice: random.Random) -> tuple[str, str, int, float | None]:
    operation = dice.choice(
        ["get", "get", "put", "put", "put", "delete", "exists", "update", "create", "increment", "touch", "ttl", "cas",
         "count", "scan", "get_many", "transaction", "clear"] + ["get", "put"] * 5,
    )  # fmt: skip
    return operation, dice.choice("abcde"), dice.randrange(100), dice.choice([None, None, 1.0, 3.0])


async def _do(store: Store, step: tuple[str, str, int, float | None]) -> Any:
    operation, key, number, ttl = step
    kv = store.kv
    try:
        match operation:
            case "get" | "delete" | "exists" | "ttl":
                return await getattr(kv, operation)(key)
            case "put" | "create":
                await getattr(kv, operation)(key, number, ttl=ttl)
            case "update":
                await kv.update(key, number)
            case "increment":
                return await kv.increment(key)
            case "touch":
                return await kv.touch(key, ttl=ttl)
            case "cas":
                entry = await kv.entry(key)
                await kv.compare_and_set(key, None if entry is None else entry.version, number, ttl=ttl)
            case "count":
                return await kv.count()
            case "scan":
                return [(entry.key, entry.value, entry.expires_at) async for entry in kv.entries()]
            case "get_many":
                return await kv.get_many(list("abc"))
            case "transaction":
                async with store.transaction() as tx:
                    await tx.kv.put(key, (await tx.kv.get(key) or 0) + number)
            case "clear":
                return await kv.clear() if number < 10 else None
    except StorageError as error:
        return type(error)
