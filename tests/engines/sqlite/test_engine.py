"""The file and its life: what may be opened, what is left when it is closed (G-8)."""

import asyncio
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import apsw
import pytest
from conftest import NewStore

from polymem.engines.sqlite import _file
from polymem.engines.sqlite._database import registry
from polymem.engines.sqlite.engine import SqliteEngine, from_url
from polymem.errors import (
    StorageConnectionError,
    StorageCorruptError,
    StorageDataError,
    StorageError,
    StorageQueryError,
    StorageUnsupportedError,
)
from polymem.store import Store

pytestmark = pytest.mark.anyio


def threads() -> list[str]:
    return sorted(t.name for t in threading.enumerate() if t.name.startswith("polymem-sqlite"))


def files_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


async def refusal(store: Store) -> StorageError:
    with pytest.raises(StorageError) as caught:
        await store.open()
    assert not threads()
    return caught.value


async def closed_file(new_store: NewStore, path: Path, keys: int = 200) -> bytes:
    async with new_store(path) as store:
        await store.kv.put_many({f"k{n}": "x" * 500 for n in range(keys)})
    return path.read_bytes()


# --- what is refused, and left as it was --------------------------------------------------------------------------


async def refuses(new_store: NewStore, path: Path, content: bytes, kind: type[StorageError], match: str) -> None:
    path.write_bytes(content)
    error = await refusal(new_store(path))
    assert isinstance(error, kind)
    assert match in str(error)
    assert path.read_bytes() == content
    assert files_in(path.parent) == [path.name]


@pytest.mark.parametrize("content", [b"hello", b"\0" * 5000, b"SQLite format 2\0" + b"x" * 5000])
async def test_not_a_database(new_store: NewStore, path: Path, content: bytes) -> None:
    await refuses(new_store, path, content, StorageCorruptError, "not a SQLite database")


@pytest.mark.parametrize("kept", [16, 99, 107, 4096, 20_000, -1])
async def test_truncated(new_store: NewStore, path: Path, kept: int) -> None:
    content = (await closed_file(new_store, path))[:kept]
    await refuses(new_store, path, content, StorageCorruptError, "missing")


async def test_newer_format(new_store: NewStore, path: Path) -> None:
    content = bytearray(await closed_file(new_store, path))
    content[60:64] = (_file.FORMAT + 1).to_bytes(4)
    await refuses(new_store, path, bytes(content), StorageCorruptError, f"format {_file.FORMAT + 1}")


async def test_another_application(new_store: NewStore, path: Path) -> None:
    connection = apsw.Connection(str(path))
    connection.execute("create table theirs(x)")
    connection.close()
    await refuses(new_store, path, path.read_bytes(), StorageCorruptError, "another application")


async def test_another_application_with_all_in_its_log(new_store: NewStore, path: Path) -> None:
    """The file alone looks new then."""
    connection = apsw.Connection(str(path))
    connection.execute("pragma journal_mode=wal").fetchall()
    connection.execute("create table theirs(x)")
    before = path.read_bytes()
    assert "another application" in str(await refusal(new_store(path)))
    assert path.read_bytes() == before
    assert connection.execute("select count(*) from theirs").get == 0
    connection.close()


async def test_read_only_file(new_store: NewStore, path: Path) -> None:
    """Even for root, whom the permission bits would not stop."""
    content = await closed_file(new_store, path)
    path.chmod(stat.S_IRUSR | stat.S_IRGRP)
    error = await refusal(new_store(path))
    assert isinstance(error, StorageQueryError)
    assert "read-only" in str(error)
    assert path.read_bytes() == content
    assert files_in(path.parent) == [path.name]


async def test_a_folder_or_pipe_in_place_of_the_file(new_store: NewStore, tmp_path: Path) -> None:
    assert isinstance(await refusal(new_store(tmp_path)), StorageConnectionError)
    os.mkfifo(tmp_path / "pipe")
    assert isinstance(await refusal(new_store(tmp_path / "pipe")), StorageConnectionError)


async def test_missing_folder(new_store: NewStore, tmp_path: Path) -> None:
    error = await refusal(new_store(tmp_path / "absent" / "agent.db"))
    assert isinstance(error, StorageConnectionError)
    assert "existing folder" in str(error)
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
async def test_network_file_system(
    new_store: NewStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """SQLite's locks do not hold there; also when a link leads there and when the path has blanks."""
    remote, mounts = tmp_path / "far away", tmp_path / "mounts"
    remote.mkdir()
    (tmp_path / "link").symlink_to(remote)
    escaped = str(remote).replace(" ", "\\040")
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/x {escaped} {kind} rw 0 0\n")
    monkeypatch.setattr(_file, "_MOUNTS", mounts)
    for folder in (remote, tmp_path / "link"):
        error = await refusal(new_store(folder / "agent.db"))
        assert isinstance(error, StorageUnsupportedError)
        assert kind in str(error)
    assert files_in(remote) == []
    async with new_store(tmp_path / "near.db") as store:
        await store.kv.put("k", 1)


async def test_damaged_pages(new_store: NewStore, path: Path) -> None:
    """Damage inside is found when it is read, and by `check`; the file stays as it is."""
    content = bytearray(await closed_file(new_store, path, keys=2000))
    for page in range(40, len(content) // 4096):
        content[page * 4096 : page * 4096 + 100] = b"\xff" * 100
    path.write_bytes(content)
    async with new_store(path) as store:
        with pytest.raises(StorageCorruptError):
            await store.kv.count()
        health = await store.check()
        assert not health.ok
        assert health.problems
    assert path.read_bytes() == content


async def test_damaged_schema(new_store: NewStore, path: Path) -> None:
    content = bytearray(await closed_file(new_store, path))
    content[100:4096] = b"\xa5" * 3996
    await refuses(new_store, path, bytes(content), StorageCorruptError, "damaged")


async def test_an_empty_file_is_a_new_one(new_store: NewStore, path: Path) -> None:
    path.touch()
    async with new_store(path) as store:
        await store.kv.put("k", 1)


async def test_a_creation_cut_short_is_a_new_file(new_store: NewStore, path: Path) -> None:
    """A crash between the first page and the tables must not make the file unusable."""
    connection = apsw.Connection(str(path))
    for pragma in ("page_size=4096", "auto_vacuum=incremental", "journal_mode=wal"):
        connection.execute(f"pragma {pragma}").fetchall()
    connection.close()
    assert path.stat().st_size
    async with new_store(path) as store:
        await store.kv.put("k", 1)


@pytest.mark.parametrize(
    "name", ["a b.db", "ü 文件 🙂.db", "a?mode=ro&x=%41.db", "file:x.db", 'it\'s "q".db', ":x:", "-x", "a#b"]
)
async def test_hostile_file_names(new_store: NewStore, tmp_path: Path, name: str) -> None:
    async with new_store(tmp_path / name) as store:
        await store.kv.put("k", 1)
    assert files_in(tmp_path) == [name]
    async with new_store(tmp_path / name) as store:
        assert await store.kv.get("k") == 1


@pytest.mark.parametrize(
    "url", ["sqlite://host/x.db", "sqlite:", "sqlite:///", "sqlite:///:memory:", "sqlite:///x.db?speed=9",
            "sqlite:///x.db?durability=off", "sqlite:///x.db?cache_mb=0", "sqlite:///x.db?cache_mb=lots"],
)  # fmt: skip
def test_urls_that_make_no_sense(url: str) -> None:
    with pytest.raises(StorageDataError) as caught:
        from_url(url)
    assert caught.value.field in ("url", "durability", "cache_mb")


def test_urls() -> None:
    assert from_url("sqlite:///a%20b.db").path == Path.cwd() / "a b.db"
    assert from_url("sqlite:////tmp/x.db?durability=normal&cache_mb=64").path == Path("/tmp/x.db")  # noqa: S108


# --- a file's life ------------------------------------------------------------------------------------------------


async def test_a_clean_close_leaves_one_file_and_no_thread(new_store: NewStore, path: Path) -> None:
    async with new_store() as store:
        await store.kv.put("k", "kept")
        assert path.with_name("agent.db-wal").exists()
        assert len(threads()) == 4
    assert files_in(path.parent) == ["agent.db"]
    assert not threads()
    async with new_store() as store:
        assert await store.kv.get("k") == "kept"


async def test_the_file_says_what_it_is(new_store: NewStore, path: Path) -> None:
    await closed_file(new_store, path)
    connection = apsw.Connection(str(path))
    found = {
        p: connection.pragma(p) for p in ("application_id", "user_version", "journal_mode", "page_size", "auto_vacuum")
    }
    connection.close()
    assert found == {
        "application_id": int.from_bytes(b"PMEM"), "user_version": 1, "journal_mode": "wal", "page_size": 4096,
        "auto_vacuum": 2,
    }  # fmt: skip


@pytest.mark.parametrize(("durability", "synchronous"), [("full", 2), ("normal", 1)])
async def test_durability(new_store: NewStore, durability: str, synchronous: int) -> None:
    async with new_store(durability=durability) as store:
        runner = store.engine._runner  # type: ignore[attr-defined]
        assert await runner.unbatched(lambda c: c.pragma("synchronous")) == synchronous
        assert await runner.unbatched(lambda c: c.pragma("secure_delete")) == 1


async def test_opening_and_closing_twice(new_store: NewStore, path: Path) -> None:
    store = new_store()
    assert await asyncio.gather(store.open(), store.open()) == [store, store]
    await store.open()
    await store.kv.put("k", 1)
    assert len(threads()) == 4
    await asyncio.gather(store.close(), store.close())
    await store.close()
    assert not threads()
    assert files_in(path.parent) == ["agent.db"]
    async with store:
        assert await store.kv.get("k") == 1


async def test_the_engine_alone_may_be_opened_and_closed_twice(path: Path) -> None:
    engine = SqliteEngine(path)
    await engine.open()
    await engine.open()
    await engine.close()
    await engine.close()
    assert not threads()


async def test_use_before_open_and_after_close(new_store: NewStore) -> None:
    store = new_store()
    for _ in range(2):
        for call in (
            store.kv.get("k"),
            store.kv.put("k", 1),
            store.kv.count(),
            store.drop_namespace("a"),
            store.check(),
        ):
            with pytest.raises(StorageConnectionError):
                await call
        with pytest.raises(StorageConnectionError):
            async with store.transaction():
                pass
        async with store:
            pass
    engine = store.engine
    kv = engine.drivers("").kv
    with pytest.raises(StorageConnectionError):
        await kv.get("k")


async def test_two_stores_on_one_file_share_threads(new_store: NewStore, path: Path, tmp_path: Path) -> None:
    """Also by another name of the same file."""
    (tmp_path / "link.db").symlink_to(path)
    async with new_store() as one, new_store(tmp_path / "link.db") as two:
        assert len(threads()) == 4
        await one.kv.put("k", 1)
        assert await two.kv.get("k") == 1
        await two.kv.put("k", 2)
        assert await one.kv.get("k") == 2
    assert not threads()


async def test_the_one_who_stays_is_not_disturbed_by_who_leaves(new_store: NewStore) -> None:
    async with new_store() as stays:
        async with new_store() as leaves:
            await leaves.kv.put("k", 1)
        await stays.kv.put("k", 2)
        assert await stays.kv.get("k") == 2


async def test_another_durability_in_one_process_is_refused(new_store: NewStore) -> None:
    async with new_store() as one:
        with pytest.raises(StorageDataError) as caught:
            await new_store(durability="normal").open()
        assert caught.value.field == "durability"
        await one.kv.put("k", 1)


async def test_opening_that_is_cancelled_leaves_nothing_open(
    new_store: NewStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G-8: the thread that opens the file cannot be stopped, but what it opened can be closed."""
    entered, go = threading.Event(), threading.Event()
    acquire = registry.acquire

    acquired = threading.Event()

    def slow(settings: object) -> object:
        entered.set()
        go.wait()
        database = acquire(settings)  # type: ignore[arg-type]
        acquired.set()
        return database

    monkeypatch.setattr(registry, "acquire", slow)
    opening = asyncio.ensure_future(new_store().open())
    await asyncio.to_thread(entered.wait)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    go.set()
    await asyncio.to_thread(acquired.wait)
    async with asyncio.timeout(20):
        while registry._databases or threads():
            await asyncio.sleep(0.001)


def test_another_event_loop_is_refused(new_store: NewStore) -> None:
    store = asyncio.run(_opened(new_store))
    with pytest.raises(StorageConnectionError, match="event loop"):
        asyncio.run(_get(store))
    asyncio.run(store.close())
    assert not threads()


async def _opened(new_store: NewStore) -> Store:
    return await new_store().open()


async def _get(store: Store) -> object:
    return await store.kv.get("k")


# --- forked children ----------------------------------------------------------------------------------------------

_FORK = """
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


def test_a_forked_child_gets_a_clear_error_and_harms_nothing(path: Path) -> None:
    """A store belongs to its process. The child is a fork of a process of its own, not of the test run."""
    ran = subprocess.run(
        [sys.executable, "-c", _FORK, str(path)], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr


_LATE_CHILD = """
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
    ran = subprocess.run(
        [sys.executable, "-c", _LATE_CHILD, str(path)], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
