"""Erasing a person leaves nothing of them, and everything of others (TIER-5)."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from polymem.core.clock import ManualClock
from polymem.core.retry import RetryPolicy
from polymem.engines.sqlite import _file
from polymem.engines.sqlite.engine import SqliteEngine
from polymem.errors import Outcome, StorageTimeoutError
from polymem.memory.memory import Memory
from polymem.opened import Session
from polymem.store import Store

pytestmark = pytest.mark.anyio
SECRETS = ("Xanthippe", "zebrafish", "quetzal", "oubliette", "kumquat", "vuvuzela", "yggdrasil", "jabberwock")


async def fill(memory: Memory) -> None:
    """What Xanthippe said, is said of her and was once said of her, among much else."""
    session = memory.session("s1")
    for block in range(6):
        turns = [
            {"role": "user", "content": f"zebrafish {block} {n} " + "and more " * (n % 40), "speaker": "Xanthippe",
             "metadata": {"pet": "quetzal"}, "source": "oubliette"} if n % 2 else
            {"role": "user", "content": f"the weather of day {n}", "speaker": "Bob"}
            for n in range(200)
        ]  # fmt: skip
        await session.add_many(turns)
    fact = await memory.remember("She collects a kumquat a day", subject="xanthippe", idempotency_key="Xanthippe")
    await memory.update(fact, text="She collects vuvuzela records")
    moved = await memory.remember("She climbs yggdrasil", subject="XANTHIPPE")
    await memory.update(moved, text="He climbs a hill", subject="Bob")
    await memory.store.blobs().put("portrait", b"jabberwock" * 1000)
    await memory.store.blobs().put("group", b"everybody")
    parts = [{"type": "tool_result", "content": [{"type": "image", "blob": "portrait"}, {"blob": "group"}]}]
    await memory.session("alone").add("user", parts, speaker="Xanthippe")
    await memory.session("s1").add("user", [{"type": "image", "blob": "group"}], speaker="Bob")
    await memory.remember("Xenia and Xanthi are other people", subject="Xanthi")


async def test_forget_erases_one_and_leaves_the_others(memory: Memory) -> None:
    await fill(memory)
    assert await memory.recall("zebrafish")
    report = await memory.forget("xanthippE")
    assert (report.memories, report.turns, report.blobs) == (602, 601, 1)
    for question in SECRETS:
        assert not [h for h in await memory.recall(question) if any(word in h.text for word in SECRETS[1:])]
    assert await memory.subjects() == ["Bob", "Xanthi"]
    assert await memory.sessions() == ["s1"]
    assert await memory.session("s1").count() == len(await memory.list(session="s1", limit=9999)) == 601
    assert len(await memory.recall("weather of day 16", subject="bob")) == 10
    assert [h.subject for h in await memory.recall("climbs a hill", limit=1)] == ["Bob"]
    moved = (await memory.recall("climbs a hill", limit=1))[0].id
    assert [state.text for state in await memory.history(moved)] == ["He climbs a hill"]
    assert (await memory.store.blobs().exists("portrait"), await memory.store.blobs().exists("group")) == (False, True)
    space = await memory.shelf().vectors()
    assert space is not None
    assert await space.count() == len(await memory.list(limit=9999))
    assert [e async for e in memory.shelf().notes.entries("once/")] == []
    again = await memory.forget("Xanthippe")
    assert (again.memories, again.turns, again.blobs) == (0, 0, 0)


async def test_names_are_compared_whole_and_without_case(memory: Memory) -> None:
    for name in ("Ann", "ANN", "Anna", "an", "Ann ", "Straße", "A%n", "A_n"):
        await memory.remember(f"about {name}", subject=name)
        await memory.session("s").add("user", f"said by {name}", speaker=name)
    assert (await memory.forget("ann")).memories == 4
    assert (await memory.forget("STRASSE")).memories == 2
    assert await memory.subjects() == sorted(["Anna", "an", "Ann ", "A%n", "A_n"])
    assert len(await memory.list()) == 10


def bytes_of(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(path.parent.glob(path.name + "*")))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent.db"


def sqlite_store(path: Path) -> Store:
    return Store(Session(SqliteEngine(path, clock=ManualClock()), sweep_every=None, retry=RetryPolicy(attempts=1)))


def left(path: Path) -> list[str]:
    content = bytes_of(path).lower()
    return [word for word in SECRETS if word.lower().encode() in content]


async def test_no_byte_is_left_in_the_file(path: Path) -> None:
    """Read while the store is open: the file, its log and its shared memory."""
    async with sqlite_store(path) as store, Memory(store, tenant="acme") as memory:
        await fill(memory)
        await memory.recall("zebrafish")
        assert left(path) == list(SECRETS)
        await memory.forget("Xanthippe")
        assert left(path) == []
        assert b"the weather of day 16" in bytes_of(path)
        assert [file.stat().st_size for file in path.parent.glob("*-wal")] == [0]
        assert (await store.check()).ok
        assert len(await memory.recall("weather of day 16")) == 10


async def test_sweeping_and_purging_leaves_no_byte_either(path: Path) -> None:
    clock = ManualClock()
    async with Store(Session(SqliteEngine(path, clock=clock), sweep_every=None)) as store:
        memory = await Memory(store, tenant="acme")
        await memory.store.blobs().put("portrait", b"jabberwock")
        await memory.session("s").add("user", [{"text": "zebrafish", "blob": "portrait"}], speaker="Xanthippe", ttl=5)
        clock.advance(5)
        await store.delete_expired()  # the turn goes first, with what it says of its blobs
        assert await memory.sweep() == 1
        await store.purge()
        assert left(path) == []


HOLD = """
import sys, apsw
connection = apsw.Connection(sys.argv[1])
connection.execute("begin" if sys.argv[2] == "reading" else "select 1")
connection.execute("select count(*) from pm_texts").fetchall()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other_process(path: Path) -> Callable[[str], subprocess.Popen[bytes]]:
    def start(state: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", HOLD, str(path), state]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return process

    return start


async def test_another_process_may_have_the_file_open(
    path: Path, other_process: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    async with sqlite_store(path) as store, Memory(store, tenant="acme") as memory:
        await fill(memory)
        with await asyncio.to_thread(other_process, "idle") as process:
            await memory.forget("Xanthippe")
            assert left(path) == []
            process.communicate()


async def test_a_process_that_reads_delays_the_purge_and_forget_says_so(
    path: Path, other_process: Callable[[str], subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_file.BusyHandler.__init__, "__defaults__", (0.1,))
    async with sqlite_store(path) as store, Memory(store, tenant="acme") as memory:
        await fill(memory)
        with await asyncio.to_thread(other_process, "reading") as process:
            with pytest.raises(StorageTimeoutError, match="call forget again") as caught:
                await memory.forget("Xanthippe")
            assert caught.value.outcome is Outcome.APPLIED
            assert await memory.list(subject="Xanthippe") == []  # gone for every reader from here on
            process.communicate()
        assert left(path) != []
        assert (await memory.forget("Xanthippe")).memories == 0
        assert left(path) == []
