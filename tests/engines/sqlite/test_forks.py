"""A store belongs to its process: forked children are refused and harm nothing (G-8)."""

import os
import subprocess
import sys
from pathlib import Path

FORK = """
import asyncio, os, sys
from polymem.engines.sqlite.engine import SqliteEngine
from polymem.errors import StorageConnectionError
from polymem.opened import Session
from polymem.store import Store

def new():
    return Store(Session(SqliteEngine(sys.argv[1]), sweep_every=None))

async def child_uses(store):
    for call in (store.kv.get("k"), store.kv.put("k", "child")):
        try:
            await call
        except StorageConnectionError as error:
            assert "process" in str(error), error
        else:
            raise AssertionError("the child could use the store")
    try:
        await new().open()
    except StorageConnectionError as error:
        assert "forked" in str(error), error
    else:
        raise AssertionError("the child could open the inherited file")
    async with Store(Session(SqliteEngine(sys.argv[1] + ".other"), sweep_every=None)) as other:
        await other.kv.put("k", "child")

async def start():
    store = await new().open()
    await store.kv.put("k", 0)
    # a reader is within SQLite, which holds a lock then, when the process forks
    long = "with recursive c(x) as (select 1 union all select x + 1 from c where x < 3000000) select count(*) from c"
    reading = asyncio.ensure_future(store.sql.query(long))
    return store, [reading, *(asyncio.ensure_future(store.kv.put(f"k{n}", n)) for n in range(200))]

async def end(store, writes):
    await asyncio.gather(*writes)
    await store.kv.put("after", 1)
    assert await store.kv.count() == 202
    await store.close()
    async with new() as store:
        assert await store.kv.get("k") == 0
        assert (await store.check()).ok

loop = asyncio.new_event_loop()
store, writes = loop.run_until_complete(start())
loop.run_until_complete(asyncio.sleep(0))
pid = os.fork()
if pid == 0:
    asyncio.run(child_uses(store))
    sys.exit(0)  # with all that Python tears down, inherited connections included
_, status = os.waitpid(pid, 0)
assert status == 0, status
loop.run_until_complete(end(store, writes))
"""


def run(program: str, path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr


def test_a_forked_child_gets_a_clear_error_and_harms_nothing(path: Path) -> None:
    """A store belongs to its process. The child is a fork of a process of its own, not of the test run."""
    run(FORK, path)


LATE_CHILD = """
import asyncio, os, subprocess, sys
from polymem.engines.sqlite.engine import SqliteEngine
from polymem.opened import Session
from polymem.store import Store

def new():
    return Store(Session(SqliteEngine(sys.argv[1]), sweep_every=None))

async def crash():
    store = await new().open()
    await store.kv.put("acknowledged", 1)
    os._exit(7)

if len(sys.argv) > 2:
    asyncio.run(crash())

async def start():
    store = await new().open()
    await store.kv.put("k", 1)
    return store

async def found():
    async with new() as store:
        return await store.kv.get("acknowledged")

loop = asyncio.new_event_loop()
store = loop.run_until_complete(start())
hold, release = os.pipe()
pid = os.fork()
if pid == 0:
    os.close(release)
    os.read(hold, 1)
    sys.exit(0)
loop.run_until_complete(store.close())
assert subprocess.run([sys.executable, "-c", sys.orig_argv[2], sys.argv[1], "crash"]).returncode == 7
os.write(release, b"x")
os.waitpid(pid, 0)
assert loop.run_until_complete(found()) == 1
"""


def test_a_child_that_ends_late_leaves_the_file_of_others_alone(path: Path) -> None:
    """Its inherited connections go when it exits; the log of a process that crashed since must not go with them."""
    run(LATE_CHILD, path)
