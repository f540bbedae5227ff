"""KV-6: a second writer is refused with a clear error; kill -9 loses nothing acknowledged."""

import asyncio
import os
import random
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from polymem.engines.json_file import _lock
from polymem.engines.json_file._lock import LockFile
from polymem.engines.json_file._text import parse
from polymem.engines.json_file.engine import JsonFileEngine
from polymem.errors import StorageConnectionError, StorageQueryError

from .conftest import NewStore

pytestmark = pytest.mark.anyio
NIGHTLY = os.environ.get("POLYMEM_NIGHTLY") == "1"
HEAD = """
import asyncio, sys
from polymem.engines.json_file.engine import JsonFileEngine
from polymem.opened import Session
from polymem.store import Store
store = Store(Session(JsonFileEngine(sys.argv[1]), sweep_every=None))
"""


def start(script: str, *arguments: object) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", HEAD + script, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip


HOLD = """
async def main():
    async with store:
        await store.kv.put("theirs", 1)
        print("open", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
asyncio.run(main())
"""


async def test_a_second_process_is_refused(new_store: NewStore, path: Path) -> None:
    with start(HOLD, path) as child:
        assert child.stdout is not None
        assert await asyncio.to_thread(child.stdout.readline) == b"open\n"
        before = path.read_bytes()
        with pytest.raises(StorageConnectionError, match=f"another process .number {child.pid}.*sqlite") as caught:
            await new_store()
        assert caught.value.field == "url"
        assert path.read_bytes() == before
        child.communicate(b"\n")
    async with new_store() as store:
        assert await store.kv.get("theirs") == 1


async def test_a_second_store_of_this_process_is_refused(new_store: NewStore, path: Path, tmp_path: Path) -> None:
    """Also where it comes by another name of the file."""
    (tmp_path / "link.json").symlink_to(path)
    async with new_store() as store:
        await store.kv.put("a", 1)
        for at in (path, tmp_path / "link.json"):
            with pytest.raises(StorageConnectionError, match="this process already"):
                await new_store(at)
        await store.kv.put("a", 2)
    async with new_store(tmp_path / "link.json") as store:
        assert await store.kv.get("a") == 2


async def test_a_dead_holder_is_none(new_store: NewStore, path: Path) -> None:
    with start(HOLD, path) as child:
        assert child.stdout is not None
        assert await asyncio.to_thread(child.stdout.readline) == b"open\n"
        child.kill()
    assert path.with_name("data.json.lock").exists()
    async with new_store() as store:
        assert await store.kv.get("theirs") == 1


async def test_a_child_that_inherits_the_lock_does_not_keep_it(new_store: NewStore) -> None:
    """It holds the descriptor too; closing in the parent unlocks all the same."""
    async with new_store() as store:
        await store.kv.put("a", 1)
        with subprocess.Popen(
            ["/bin/sh", "-c", "read line"], stdin=subprocess.PIPE, pass_fds=_lock_of(store.engine)
        ) as child:
            await store.close()
            async with new_store() as again:
                assert await again.kv.get("a") == 1
            child.communicate(b"\n")


def _lock_of(engine: object) -> list[int]:
    assert isinstance(engine, JsonFileEngine)
    return [engine._file._lock._descriptor]


def test_a_lock_file_that_is_removed_meanwhile(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened before its holder closed and locked afterwards, a lock file is no longer that of the data."""
    first, second, third = (LockFile(path) for _ in range(3))
    real = _lock._lock

    def late(descriptor: int) -> None:
        first.release()
        real(descriptor)

    first.acquire()
    monkeypatch.setattr(_lock, "_lock", late)
    second.acquire()
    with pytest.raises(StorageConnectionError, match="this process already"):
        third.acquire()
    second.release()
    assert not path.exists()


FIGHT = """
async def main():
    won = 0
    for n in range(300):
        try:
            async with store:
                await store.kv.increment("n")
                won += 1
        except Exception as error:
            assert "is open in another process" in str(error), repr(error)
            await asyncio.sleep(0.0005)
    print(won, flush=True)
asyncio.run(main())
"""


async def test_processes_that_open_and_close_in_turn_lose_nothing(new_store: NewStore, path: Path) -> None:
    """The lock file is removed at each close: never do two hold different ones."""
    children = [start(FIGHT, path) for _ in range(3)]
    outputs = [(await asyncio.to_thread(child.communicate))[0] for child in children]
    assert [child.returncode for child in children] == [0, 0, 0]
    async with new_store() as store:
        assert await store.kv.get("n") == sum(map(int, outputs)) > 0
        assert (await store.check()).details["set_aside"] == []


# --- kill -9 ------------------------------------------------------------------------------------------------------

WRITE = """
async def write(task):
    for n in range(1_000_000):
        key = f"{sys.argv[2]}/{task}/{n}"
        if n % 5 == 3:
            async with store.transaction(timeout=60) as tx:
                await tx.kv.put(key, {"key": key, "text": "x" * (n * 37 % 500)})
                await tx.kv.put("twin " + key, key)
        else:
            await store.kv.put(key, {"key": key, "text": "x" * (n * 37 % 500)})
        print(key, flush=True)

async def main():
    async with store:
        await asyncio.gather(*(write(task) for task in range(8)))
asyncio.run(main())
"""


def kill_while_writing(path: Path, cycle: int, lines: int) -> list[str]:
    """What the child reported as written before it was killed. Whoever looks at the file meanwhile finds it whole."""
    with start(WRITE, path, cycle) as child:
        assert child.stdout is not None
        reported = []
        for _ in range(lines):
            reported.append(child.stdout.readline())
            parse(path.read_bytes(), 0)
        child.kill()
        reported += child.stdout.readlines()
    return [line.decode().strip() for line in reported if line.endswith(b"\n")]


@pytest.mark.timeout(1800 if NIGHTLY else 300)
async def test_kill_9_loses_nothing_acknowledged(new_store: NewStore, path: Path) -> None:
    chance = random.Random(9)  # noqa: S311
    everything: list[str] = []
    for cycle in range(100 if NIGHTLY else 6):
        acknowledged = await asyncio.to_thread(kill_while_writing, path, cycle, chance.choice((1, 20, 100, 300)))
        everything += acknowledged
        parse(path.read_bytes(), 0)
        async with new_store() as store:
            health = await store.check()
            assert health.ok
            assert health.details["notes"] == []  # the file itself was whole: nothing had to be recovered
            found = {entry.key: entry.value async for entry in store.kv.entries(f"{cycle}/")}
            assert [key for key in acknowledged if found.get(key, {}).get("key") != key] == []
            twins = {key.removeprefix("twin ") async for key in store.kv.scan(f"twin {cycle}/")}
            assert twins == {key for key in found if int(key.rpartition("/")[2]) % 5 == 3}
    async with new_store() as store:
        keys = {key async for key in store.kv.scan()}
        assert set(everything) <= keys


# --- permissions --------------------------------------------------------------------------------------------------


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody reaches."""
    with tempfile.TemporaryDirectory(prefix="polymem-") as name:
        folder = Path(name) / "inner"
        folder.mkdir()
        Path(name).chmod(0o755)
        folder.chmod(0o755)
        yield folder


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may do anything: become somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_a_read_only_file_is_left_untouched(new_store: NewStore, path: Path) -> None:
    async with new_store() as store:
        await store.kv.put("a", 1)
    before = path.read_bytes()
    path.chmod(0o444)
    with pytest.raises(StorageQueryError, match="read-only"):
        await new_store()
    assert path.read_bytes() == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert not path.with_name("data.json.lock").exists()


async def test_a_folder_one_may_not_write_to(new_store: NewStore, public: Path) -> None:
    path = public / "data.json"
    async with new_store(path) as store:
        await store.kv.put("a", 1)
    path.chmod(0o666)
    public.chmod(0o555)
    with as_nobody(), pytest.raises(StorageQueryError, match="permissions"):
        await new_store(path)
    public.chmod(0o755)
    async with new_store(path) as store:
        assert await store.kv.get("a") == 1


async def test_a_folder_that_becomes_read_only(new_store: NewStore, public: Path) -> None:
    """A write that the system refuses raises and changes nothing; allowed again, the store goes on."""
    public.chmod(0o777)
    path = public / "data.json"
    with as_nobody():
        async with new_store(path) as store:
            await store.kv.put("a", 1)
            public_mode(public, 0o555)
            with pytest.raises(StorageQueryError, match="permissions"):
                await store.kv.put("a", 2)
            assert await store.kv.get("a") == 1
            public_mode(public, 0o777)
            await store.kv.put("a", 3)
        async with new_store(path) as store:
            assert await store.kv.get("a") == 3


def public_mode(folder: Path, mode: int) -> None:
    """As its owner."""
    us = os.geteuid()
    if os.getuid() == 0:
        os.seteuid(0)
    folder.chmod(mode)
    os.seteuid(us)


@pytest.mark.parametrize("name", ["missing/data.json", "."])
async def test_no_place_for_a_file(new_store: NewStore, tmp_path: Path, name: str) -> None:
    with pytest.raises(StorageConnectionError) as caught:
        await new_store(tmp_path / name)
    assert caught.value.field == "url"
    assert not list(tmp_path.iterdir())


async def test_not_a_regular_file(new_store: NewStore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StorageConnectionError, match="regular"):
        await new_store(tmp_path / "pipe")
