"""KV-6: one save for the writers of one moment; failed saves change nothing; commits are saves."""

import asyncio
import errno
import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from polymem.engines.json_file._datafile import DataFile
from polymem.engines.json_file._text import State
from polymem.engines.json_file.engine import JsonFileEngine
from polymem.errors import (
    Outcome,
    StorageConflictError,
    StorageConnectionError,
    StorageDataError,
    StorageFullError,
    StorageQueryError,
)
from polymem.store import Store

from .conftest import NewStore

pytestmark = pytest.mark.anyio


class Saves:
    """Counts the saves of every data file; `hold` keeps the next ones waiting."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.go, self.seen = threading.Event(), threading.Event()
        self.go.set()
        real: Callable[[DataFile, State], None] = DataFile.write

        def write(file: DataFile, state: State) -> None:
            self.count += 1
            self.seen.set()
            assert self.go.wait(30)
            real(file, state)

        monkeypatch.setattr(DataFile, "write", write)

    async def under_way(self) -> None:
        assert await asyncio.to_thread(self.seen.wait, 30)


@pytest.fixture
def saves(monkeypatch: pytest.MonkeyPatch) -> Iterator[Saves]:
    found = Saves(monkeypatch)
    yield found
    found.go.set()


@contextmanager
def no_space(limit: int = 4096) -> Iterator[None]:
    """No file may grow beyond the limit: writing fails in the middle, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestGroupCommit:
    async def test_writers_of_one_moment_share_a_save(self, store: Store, saves: Saves) -> None:
        await asyncio.gather(*(store.kv.put(f"{n}", n) for n in range(64)))
        assert saves.count == 1
        assert await store.kv.count() == 64

    async def test_writers_that_come_during_a_save_share_the_next(self, store: Store, saves: Saves) -> None:
        saves.go.clear()
        first = asyncio.ensure_future(store.kv.put("first", 1))
        await saves.under_way()
        later = [asyncio.ensure_future(store.namespace(f"{n}").kv.put("a", n)) for n in range(64)]
        await asyncio.sleep(0.02)
        assert not first.done()
        saves.go.set()
        await asyncio.gather(first, *later)
        assert saves.count == 2

    async def test_each_has_its_own_outcome(self, store: Store, saves: Saves) -> None:
        await store.kv.put("text", "x")
        results = await asyncio.gather(
            store.kv.create("a", 1), store.kv.create("a", 2), store.kv.increment("text"), store.kv.increment("n"),
            store.kv.increment("n"), store.kv.delete("a"), store.kv.delete("a"), return_exceptions=True,
        )  # fmt: skip
        assert isinstance(results[0], int)
        assert isinstance(results[1], StorageConflictError)
        assert isinstance(results[2], StorageDataError)
        assert results[3:] == [1, 2, True, False]
        assert saves.count == 2

    async def test_nothing_is_seen_before_it_is_saved(self, store: Store, saves: Saves) -> None:
        saves.go.clear()
        writing = asyncio.ensure_future(store.kv.put("a", 1))
        await saves.under_way()
        assert await store.kv.get("a") is None
        saves.go.set()
        await writing
        assert await store.kv.get("a") == 1

    async def test_a_cancelled_caller_leaves_its_write(self, store: Store, saves: Saves) -> None:
        saves.go.clear()
        writing = asyncio.ensure_future(store.kv.put("a", 1))
        await saves.under_way()
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        saves.go.set()
        await store.kv.put("b", 2)
        assert await store.kv.get_many(["a", "b"]) == {"a": 1, "b": 2}

    async def test_one_sync_of_the_file_and_one_of_the_folder(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        syncs: list[int] = []
        real = os.fsync
        monkeypatch.setattr(os, "fsync", lambda fd: syncs.append(fd) or real(fd))
        await asyncio.gather(*(store.kv.put(f"{n}", n) for n in range(64)))
        assert len(syncs) == 2


class TestFailedSaves:
    async def test_a_full_disk(self, new_store: NewStore, path: Path, copy: Path) -> None:
        """The write raises and has not happened; what was acknowledged is there; with space it works again."""
        async with new_store() as store:
            await store.kv.put("small", 1)
            before = path.read_bytes()
            with no_space():
                for _ in range(2):
                    results = await asyncio.gather(
                        store.kv.put("big", "x" * 10_000), store.kv.put("other", 1), return_exceptions=True
                    )
                    assert [type(result) for result in results] == [StorageFullError, StorageFullError]
                    assert all(r.outcome is Outcome.NOT_APPLIED for r in results if isinstance(r, StorageFullError))
                    assert results[0] is not results[1]
                with pytest.raises(StorageFullError):
                    async with store.transaction() as tx:
                        await tx.kv.put("big", "x" * 10_000)
                assert await store.kv.get_many(["small", "big", "other"]) == {"small": 1}
                assert path.read_bytes() == before
                assert not [p.name for p in path.parent.iterdir() if p.name.endswith(".new")]
                await store.kv.put("small", 2)
            await store.kv.put("big", "x" * 10_000)
        async with new_store() as store:
            assert await store.kv.get_many(["small", "big"]) == {"small": 2, "big": "x" * 10_000}

    async def test_closing_without_space_loses_nothing(self, new_store: NewStore) -> None:
        """Without autosave a close that cannot save raises, and the engine stays open for another attempt."""
        store = await new_store(autosave=False)
        await store.kv.put("big", "x" * 10_000)
        with no_space(), pytest.raises(StorageFullError):
            await store.close()
        await store.engine.close()
        async with new_store() as store:
            assert await store.kv.get("big") == "x" * 10_000

    async def test_no_space_for_the_copy(
        self, new_store: NewStore, copy: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """At the close the data is safe already; that the copy is not as new is a warning."""
        store = await new_store()
        await store.kv.put("big", "x" * 10_000)
        with no_space():
            await store.close()
        assert "could not be brought up to date" in caplog.text
        assert not copy.exists()

    async def test_after_the_replacement_the_outcome_is_unknown(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, path: Path
    ) -> None:
        """Nobody knows whether the new name survives a power cut: it is not acknowledged, and not read."""
        await store.kv.put("a", 1)
        real, calls = os.fsync, [0]

        def second_fails(descriptor: int) -> None:
            calls[0] += 1
            if calls[0] == 2:
                raise OSError(errno.EIO, "the folder")
            real(descriptor)

        monkeypatch.setattr(os, "fsync", second_fails)
        with pytest.raises(StorageConnectionError) as caught:
            await store.kv.put("b", 1)
        assert caught.value.outcome is Outcome.UNKNOWN
        assert b'"b"' in path.read_bytes()
        assert await store.kv.get("b") is None
        assert (await store.check()).ok
        await store.kv.put("c", 1)
        assert b'"b"' not in path.read_bytes()
        assert not list(path.parent.glob("*.changed-*"))

    @pytest.mark.parametrize(
        ("number", "kind"),
        [(errno.EIO, StorageConnectionError), (errno.EROFS, StorageQueryError), (errno.ENOSPC, StorageFullError)],
    )
    async def test_errors_of_the_system(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
    ) -> None:
        await store.kv.put("a", 1)

        def fails(_: int) -> None:
            raise OSError(number, "as told")

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fails)
            with pytest.raises(kind):
                await store.kv.put("a", 2)
            assert await store.kv.get("a") == 1
        await store.kv.put("a", 3)


class TestTransactions:
    async def test_a_commit_is_one_save(self, store: Store, saves: Saves) -> None:
        async with store.transaction() as tx:
            for n in range(10):
                await tx.kv.put(f"{n}", n)
            await tx.namespace("n").kv.put("a", 1)
            assert saves.count == 0
        assert saves.count == 1

    async def test_unseen_until_saved_and_then_whole(self, store: Store, saves: Saves) -> None:
        saves.go.clear()

        async def work() -> None:
            async with store.transaction() as tx:
                await tx.kv.put_many({"a": 1, "b": 2})

        working = asyncio.ensure_future(work())
        await saves.under_way()
        waiting = asyncio.ensure_future(store.kv.increment("a"))
        await asyncio.sleep(0.02)
        assert await store.kv.count() == 0
        saves.go.set()
        await working
        assert await waiting == 2

    async def test_a_cancelled_commit_is_done_to_its_end(self, store: Store, saves: Saves) -> None:
        saves.go.clear()

        async def work() -> None:
            async with store.transaction(timeout=0.1) as tx:
                await tx.kv.put_many({"a": 1, "b": 2})

        working = asyncio.ensure_future(work())
        await saves.under_way()
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        other = asyncio.ensure_future(store.kv.put("c", 3))
        await asyncio.sleep(0.15)  # its time is over too: nobody may write before it is
        assert await store.kv.count() == 0
        saves.go.set()
        await other
        assert await store.kv.get_many(list("abc")) == {"a": 1, "b": 2, "c": 3}

    async def test_closing_waits_for_a_commit(self, new_store: NewStore, saves: Saves) -> None:
        store = await new_store()
        saves.go.clear()

        async def work() -> None:
            async with store.transaction() as tx:
                await tx.kv.put("a", 1)

        working = asyncio.ensure_future(work())
        await saves.under_way()
        closing = asyncio.ensure_future(store.close())
        await asyncio.sleep(0.02)
        assert not closing.done()
        saves.go.set()
        await asyncio.gather(working, closing)
        async with new_store() as store:
            assert await store.kv.get("a") == 1

    async def test_a_cancelled_save_is_done_to_its_end(self, new_store: NewStore, saves: Saves) -> None:
        async with new_store(autosave=False) as store:
            engine = store.engine
            assert isinstance(engine, JsonFileEngine)
            for call in (engine.save, engine.load, engine.purge):
                await store.kv.put("a", call.__name__)
                if call == engine.load:
                    await engine.save()
                working = asyncio.ensure_future(call())
                await asyncio.sleep(0)
                working.cancel()
                await asyncio.gather(working, return_exceptions=True)
                health = await store.check()
                assert health.ok
                assert health.details["saved"] is True, call

    @pytest.mark.parametrize("autosave", [True, False])
    async def test_closing_rolls_back(self, new_store: NewStore, autosave: bool) -> None:
        store = await new_store(autosave=autosave)
        entered = asyncio.Event()

        async def work(key: str) -> None:
            async with store.transaction() as tx:
                entered.set()
                await tx.kv.put(key, 1)
                await asyncio.sleep(0.05)

        open_, waiting = (asyncio.ensure_future(work(key)) for key in "ab")
        await entered.wait()
        await asyncio.sleep(0.01)
        await store.close()
        ends = await asyncio.gather(open_, waiting, return_exceptions=True)
        assert [type(end) for end in ends] == [StorageConnectionError] * 2
        async with new_store() as store:
            assert await store.kv.count() == 0


async def test_a_refused_opening_takes_no_later_lock(new_store: NewStore, path: Path) -> None:
    """What a failed opening cleans up is its own."""
    first, second = new_store(), new_store()
    for _ in range(20):
        async with first:
            with pytest.raises(StorageConnectionError):
                await second.open()
        async with second:
            assert path.with_name("data.json.lock").exists()
            await asyncio.sleep(0.001)
            with pytest.raises(StorageConnectionError):
                await first.open()


async def test_an_opening_that_is_cancelled_keeps_no_lock(new_store: NewStore, path: Path) -> None:
    for _ in range(5):
        engine = JsonFileEngine(path)
        opening = asyncio.ensure_future(engine.open())
        await asyncio.sleep(0)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        if not opening.cancelled():
            await engine.close()
    async with asyncio.timeout(10):
        while True:
            try:
                async with new_store():
                    return
            except StorageConnectionError:
                await asyncio.sleep(0.01)
