"""The file's life: what it is, who shares it, and what is left when it is closed (G-8)."""

import asyncio
import threading
from pathlib import Path

import apsw
import pytest
from conftest import NewStore
from engines.sqlite.threads_and_files import files_in, threads

from polymem.engines.sqlite._database import registry
from polymem.engines.sqlite.engine import SqliteEngine, from_url
from polymem.errors import StorageConnectionError, StorageDataError

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("url", "field"),
    [
        ("sqlite://host/x.db", "url"), ("sqlite:", "url"), ("sqlite:///", "url"), ("sqlite:///:memory:", "url"),
        ("sqlite:///x.db?speed=9", "speed"), ("sqlite:///x.db?durability=off", "durability"),
        ("sqlite:///x.db?cache_mb=0", "cache_mb"), ("sqlite:///x.db?cache_mb=lots", "cache_mb"),
    ],
)  # fmt: skip
def test_urls_that_make_no_sense(url: str, field: str) -> None:
    with pytest.raises(StorageDataError) as caught:
        from_url(url)
    assert caught.value.field == field


def test_urls() -> None:
    assert from_url("sqlite:///a%20b.db").path == Path.cwd() / "a b.db"
    assert from_url("sqlite:////tmp/x.db?durability=normal&cache_mb=64").path == Path("/tmp/x.db")  # noqa: S108


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
    async with new_store():
        pass
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


async def test_the_engine_alone_may_be_opened_and_closed_twice(path: Path) -> None:
    engine = SqliteEngine(path)
    await engine.open()
    await engine.open()
    await engine.close()
    await engine.close()
    assert not threads()


async def test_a_driver_kept_beyond_the_close_is_refused(path: Path) -> None:
    """Also without the guard in front of it."""
    engine = SqliteEngine(path)
    await engine.open()
    kv = engine.drivers("").kv
    assert kv is not None
    await engine.close()
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
