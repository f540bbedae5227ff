"""Changes by other processes on one SQLite file, and by other stores of this one (CCH-2)."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from layers.cache_gate import Gate

from polymem.core.clock import ManualClock
from polymem.engines.memory.engine import MemoryEngine
from polymem.engines.sqlite import _database
from polymem.engines.sqlite.engine import SqliteEngine
from polymem.errors import StorageUnsupportedError
from polymem.layers.cache import CachedEngine, CachePolicy
from polymem.opened import Session
from polymem.store import Store

pytestmark = pytest.mark.anyio

_OTHER = """
import asyncio, json, sys
from polymem.engines.sqlite import _database
from polymem.engines.sqlite.engine import SqliteEngine
from polymem.opened import Session
from polymem.store import Store

async def main():
    async with Store(Session(SqliteEngine(sys.argv[1]), sweep_every=None)) as store:
        print("ready", flush=True)
        for line in sys.stdin:
            operation, *arguments = json.loads(line)
            if operation == "transaction":
                async with store.transaction() as tx:
                    await tx.kv.put(*arguments)
            else:
                await getattr(store.kv, operation)(*arguments)
            print("done", flush=True)

asyncio.run(main())
"""


class Other:
    """Another process; a call returns when it has been told that its write is done."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-c", _OTHER, str(path)]
        self.process: Any = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "ready\n"

    def __call__(self, line: str) -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"


@contextmanager
def process(path: Path) -> Iterator[Other]:
    other = Other(path)
    try:
        yield other
    finally:
        other.process.stdin.close()
        other.process.stdout.close()
        other.process.wait(10)


def cached(path: Path, **policy: Any) -> Store:
    clock = policy.pop("clock", None)
    return Store(Session(CachedEngine(SqliteEngine(path, clock=clock), CachePolicy(**policy)), sweep_every=None))


async def test_no_stale_read_after_another_process_was_answered(tmp_path: Path) -> None:
    """Value, absence, deletion and transaction, each read (and so cached) before and after."""
    path = tmp_path / "a.db"
    async with cached(path) as store:
        with process(path) as other:
            for step in range(20):
                await store.kv.put("own", step)  # so that the newest commit is ours, theirs, ours, theirs ...
                assert await store.kv.get("new") == (None if step == 0 else step - 1)
                await asyncio.to_thread(other, f'["put", "new", {step}]')
                assert await store.kv.get("new") == step
                await asyncio.to_thread(other, '["put", "own", "theirs"]')
                await store.kv.put("beside", step)  # our own commit comes after theirs
                assert await store.kv.get("own") == "theirs"
                await asyncio.to_thread(other, '["delete", "own"]')
                assert await store.kv.get("own") is None
                await asyncio.to_thread(other, f'["transaction", "own", {step}]')
                assert await store.kv.get("own") == step
                await store.kv.put("beside", -step)  # signed by us when their transaction comes
                assert await store.kv.get("own") == step
                await asyncio.to_thread(other, f'["transaction", "own", {step + 100}]')
                assert await store.kv.get("own") == step + 100
        assert store.cache.statistics().foreign_changes >= 80


async def test_a_turn_of_the_loop_that_is_held_up_sees_the_others_after_a_millisecond(tmp_path: Path) -> None:
    """The reads of one turn share a read transaction, so a task that blocks the loop may wait a moment for news."""
    path = tmp_path / "a.db"
    async with cached(path) as store:
        with process(path) as other:
            for step in range(20):
                await store.kv.put("own", step)
                assert await store.kv.get("own") == step
                other('["put", "own", "theirs"]')  # blocks the loop
                time.sleep(0.0015)
                assert await store.kv.get("own") == "theirs"


async def test_our_own_writes_do_not_empty_the_cache(tmp_path: Path) -> None:
    async with cached(tmp_path / "a.db") as store:
        await store.kv.put("a", 1)
        await store.kv.get("a")
        before = store.cache.statistics()
        for number in range(30):
            await store.kv.put("b", number)
            await store.namespace("n").kv.put("c", number)
            await store.turns.append("s", "user", "x")
            async with store.transaction() as tx:
                await tx.kv.put("d", number)
            assert await store.kv.get("a") == 1
        after = store.cache.statistics()
        assert after.foreign_changes == before.foreign_changes
        assert after.misses == before.misses


async def test_two_stores_of_one_process(tmp_path: Path) -> None:
    """They share the writer, but not the cache; their writes may even be committed together."""
    path = tmp_path / "a.db"
    async with cached(path) as one, cached(path) as two, Store(Session(SqliteEngine(path), sweep_every=None)) as bare:
        for step in range(20):
            for writer in (one, two, bare):
                await writer.kv.put("a", [step, str(writer.engine)])
                for reader in (one, two, bare):
                    assert await reader.kv.get("a") == [step, str(writer.engine)]


async def test_writes_of_two_stores_in_one_commit(tmp_path: Path) -> None:
    import asyncio

    path = tmp_path / "a.db"
    async with cached(path) as one, cached(path) as two:
        for step in range(30):
            await asyncio.gather(
                *(one.kv.put(f"o{n}", step) for n in range(5)), *(two.kv.put(f"t{n}", step) for n in range(5))
            )
            for store in (one, two):
                assert [await store.kv.get(f"{who}{n}") for who in "ot" for n in range(5)] == [step] * 10


async def test_as_stale_as_the_policy_says_and_no_more(tmp_path: Path) -> None:
    path, clock = tmp_path / "a.db", ManualClock()
    async with cached(path, max_staleness=2, clock=clock) as store:
        await store.kv.put("a", 1)
        assert await store.kv.get("a") == 1
        async with Store(Session(SqliteEngine(path, clock=clock), sweep_every=None)) as other:
            await other.kv.put("a", 2)
        clock.advance(1.9)
        assert await store.kv.get("a") == 1
        clock.advance(0.1)
        assert await store.kv.get("a") == 2
        clock.advance(-1000)  # a clock set back is no reason to wait
        async with Store(Session(SqliteEngine(path, clock=clock), sweep_every=None)) as other:
            await other.kv.put("a", 3)
        assert await store.kv.get("a") == 3


class Mute:
    """An engine of a third party that cannot tell."""

    def __init__(self, engine: MemoryEngine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        if name == "changes_elsewhere":
            raise AttributeError(name)
        return getattr(self._engine, name)


async def test_an_engine_that_cannot_tell() -> None:
    """It is refused, unless the policy says how old a value may be; then every entry is given up at that age."""
    clock = ManualClock()
    engine: Any = Mute(MemoryEngine(clock))
    with pytest.raises(StorageUnsupportedError, match="max_staleness"):
        CachedEngine(engine, CachePolicy())
    behind = engine._engine.drivers("").kv
    async with Store(Session(CachedEngine(engine, CachePolicy(max_staleness=2)), sweep_every=None)) as store:
        await store.kv.put("a", 1)
        await store.kv.get("b")
        for key in ("a", "b"):
            await behind.put(key, b"2", "json", version=1, expires_at=None)
        clock.advance(1.9)
        assert [await store.kv.get("a"), await store.kv.get("b")] == [1, None]
        clock.advance(0.1)
        assert [await store.kv.get("a"), await store.kv.get("b")] == [2, 2]
    async with Store(Session(CachedEngine(engine, CachePolicy(max_staleness=float("inf"))), sweep_every=None)) as store:
        await store.kv.put("a", 1)
        await behind.put("a", b"2", "json", version=1, expires_at=None)
        clock.advance(1e6)
        assert await store.kv.get("a") == 1


class Telling(Mute):
    """An engine whose server tells which keys are written; the test is the server."""

    def __init__(self, engine: MemoryEngine, refusal: Exception | None = None) -> None:
        super().__init__(engine)
        self.refusal, self.is_current, self.within, self.closed = refusal, True, 0.0, 0

    async def follow_changes(self, hearer: Any, within: float) -> Any:
        if self.refusal is not None:
            raise self.refusal
        self.hearer, self.within = hearer, within
        return self

    def current(self) -> bool:
        return self.is_current

    async def close(self) -> None:
        self.closed += 1  # of the engine, too


async def test_an_engine_that_is_told() -> None:
    engine: Any = Telling(MemoryEngine())
    behind = engine._engine.drivers("").kv
    async with Store(Session(CachedEngine(engine, CachePolicy()), sweep_every=None)) as store:
        assert engine.within == 1
        await store.kv.put("a", 1)
        await store.kv.put("b", 1)
        for key in ("a", "b"):
            await behind.put(key, b"2", "json", version=1, expires_at=None)
        engine.hearer.changed("", "a")
        assert [await store.kv.get("a"), await store.kv.get("b")] == [2, 1]
        engine.is_current = False
        assert await store.kv.get("b") == 2
        await behind.put("a", b"3", "json", version=1, expires_at=None)
        assert await store.kv.get("a") == 3
        engine.is_current = True
        await store.kv.get("a")
        await store.namespace("n").kv.get("a")
        await store.namespace("n").kv.get("b")
        engine.hearer.changed("n/", None)  # anything there
        assert store.cache.statistics().entries == 2
        engine.hearer.drop()
        assert store.cache.statistics().entries == 0
    assert engine.closed == 2  # it no longer listens, then the engine


async def test_what_is_told_in_the_middle_of_a_write(tmp_path: Path) -> None:
    engine: Any = Telling(MemoryEngine())
    gate = Gate()
    async with Store(Session(CachedEngine(engine, CachePolicy(), [gate]), sweep_every=None)) as store:
        held = gate.hold("put", after=True)
        put = asyncio.create_task(store.kv.put("a", 1))
        await held.reached.wait()
        engine.hearer.changed("", "a")  # somebody else's came after it
        held.go.set()
        await put
        assert store.cache.statistics().entries == 0


async def test_an_engine_whose_server_refuses_to_tell() -> None:
    """It is as if it could not tell."""
    clock = ManualClock()
    engine: Any = Telling(MemoryEngine(clock), StorageUnsupportedError("no"))
    with pytest.raises(StorageUnsupportedError):
        await Store(Session(CachedEngine(engine, CachePolicy()), sweep_every=None))
    assert engine.closed == 1
    with pytest.raises(StorageUnsupportedError, match="max_staleness"):
        CachedEngine(engine, CachePolicy(max_staleness=0))
    behind = engine._engine.drivers("").kv
    async with Store(Session(CachedEngine(engine, CachePolicy(max_staleness=2)), sweep_every=None)) as store:
        await store.kv.put("a", 1)
        await behind.put("a", b"2", "json", version=1, expires_at=None)
        clock.advance(1.9)
        assert await store.kv.get("a") == 1
        clock.advance(0.1)
        assert await store.kv.get("a") == 2


async def test_a_file_that_is_busy_counts_as_changed(tmp_path: Path) -> None:
    import apsw

    engine = SqliteEngine(tmp_path / "a.db")
    await engine.open()
    before = engine.changes_elsewhere()
    assert engine.changes_elsewhere() == before
    runner: Any = engine._runner
    execute, runner._execute = runner._execute, lambda *_: (_ for _ in ()).throw(apsw.BusyError())
    await asyncio.sleep(0)
    assert [engine.changes_elsewhere(), engine.changes_elsewhere()] == [before + 1, before + 2]
    runner._execute = execute
    await engine.close()


async def test_the_file_is_asked_once_in_a_turn_and_after_each_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the reads of a turn share, the hits of a turn share: news of others is asked for once."""
    asked: list[float] = []
    moment = [100.0]
    monkeypatch.setattr(_database, "perf_counter", lambda: moment[0])
    async with cached(tmp_path / "a.db") as store, Store(Session(SqliteEngine(tmp_path / "a.db"))) as other:
        await store.kv.put("a", 1)
        runner: Any = store.engine._engine._runner  # type: ignore[attr-defined]
        execute = runner._execute

        def counting(statement: str, row: Any) -> Any:
            if statement == "pragma data_version":
                asked.append(moment[0])
            return execute(statement, row)

        runner._execute = counting
        await asyncio.sleep(0)
        for _ in range(10):
            assert await store.kv.get("a") == 1
        assert len(asked) == 1
        await other.kv.put("a", 2)
        for _ in range(10):
            assert await store.kv.get("a") == 2
        seen = len(asked)
        moment[0] += 0.0011  # a turn that is held up
        assert await store.kv.get("a") == 2
        assert len(asked) == seen + 1
