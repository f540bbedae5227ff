"""Several processes on one file (SQ-1): no lost update, no error, one creator."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import NewStore

from polymem.store import Store

pytestmark = pytest.mark.anyio
PROCESSES, TASKS, STEPS = 2, 8, 25

_SETUP = """
import asyncio, sys
from polymem.engines.sqlite.engine import SqliteEngine
from polymem.errors import StorageConflictError
from polymem.opened import Session
from polymem.store import Store

def new(sweep_every=None):
    return Store(Session(SqliteEngine(sys.argv[1]), sweep_every=sweep_every))

def wait_for_parent():
    print("ready", flush=True)
    sys.stdin.readline()
"""
_INCREMENT = f"""
async def add(store):
    for _ in range({STEPS}):
        while True:
            entry = await store.kv.entry("n")
            try:
                await store.kv.compare_and_set("n", entry.version, entry.value + 1)
                break
            except StorageConflictError:
                pass

async def main():
    async with new() as store:
        wait_for_parent()
        await asyncio.gather(*(add(store) for _ in range({TASKS})))

asyncio.run(main())
"""
_CREATE = """
async def main():
    wait_for_parent()
    async with new() as store:
        await store.kv.create(sys.argv[2], 1)
        await store.turns.append("s", "user", sys.argv[2])

asyncio.run(main())
"""
_HOLD = """
async def main():
    async with new() as store:
        async with store.transaction(timeout=60) as tx:
            await tx.kv.put("held", "within")
            wait_for_parent()
            await tx.kv.put("held", "done")

asyncio.run(main())
"""

_SWEEP = """
async def main():
    async with new() as store:
        await store._session.sweep_in_turn()
        wait_for_parent()

asyncio.run(main())
"""


def start(script: str, path: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", _SETUP + script, str(path), *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip


def ready(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()


def go(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def finish(process: "subprocess.Popen[str]") -> None:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


async def test_compare_and_set_loses_no_update(new_store: NewStore, path: Path) -> None:
    async with new_store() as store:
        await store.kv.put("n", 0)
        children = [start(_INCREMENT, path) for _ in range(PROCESSES)]
        for child in children:
            ready(child)
        for child in children:
            go(child)
        await asyncio.gather(*(asyncio.to_thread(finish, child) for child in children))
        assert await store.kv.get("n") == PROCESSES * TASKS * STEPS


async def test_four_processes_create_one_file(new_store: NewStore, path: Path) -> None:
    """All begin at once on a file that does not exist; again on one that is empty."""
    for attempt in range(3):
        file = path.with_name(f"{attempt}.db")
        if attempt % 2:
            file.touch()
        children = [start(_CREATE, file, str(n)) for n in range(4)]
        for child in children:
            ready(child)
        for child in children:
            go(child)
        await asyncio.gather(*(asyncio.to_thread(finish, child) for child in children))
        async with new_store(file) as store:
            assert [key async for key in store.kv.scan()] == ["0", "1", "2", "3"]
            assert [turn.turn_id async for turn in store.turns.scan("s")] == [1, 2, 3, 4]
            assert (await store.check()).ok


async def test_a_transaction_elsewhere_blocks_writers_not_readers(store: Store, path: Path) -> None:
    await store.kv.put("held", "before")
    child = start(_HOLD, path)
    await asyncio.to_thread(ready, child)
    assert await store.kv.get("held") == "before"
    assert await store.kv.count() == 1
    write = asyncio.ensure_future(store.kv.put("mine", 1))
    assert await store.kv.get("mine") is None
    assert not write.done()
    go(child)
    await asyncio.to_thread(finish, child)
    await write
    assert await store.kv.get("held") == "done"
    assert await store.kv.get("mine") == 1


async def test_what_another_process_wrote_is_seen_at_once(store: Store, path: Path) -> None:
    """No connection keeps an old state between two reads."""
    child = start(_CREATE, path, "theirs")
    ready(child)
    assert await store.kv.get("theirs") is None
    go(child)
    await asyncio.to_thread(finish, child)
    assert await store.kv.get("theirs") == 1
    assert await store.turns.count() == 1
