"""KV-6: loads once, saves at every put or when told, reads again when told; G-2, G-8."""

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import polymem
from polymem.core.clock import ManualClock
from polymem.core.registry import create_engine
from polymem.engines.json_file.engine import JsonFileEngine
from polymem.errors import (
    StorageConflictError,
    StorageConnectionError,
    StorageCorruptError,
    StorageDataError,
    StorageNotFoundError,
)
from polymem.store import Store

from .conftest import NewStore

pytestmark = pytest.mark.anyio


def values(path: Path, namespace: str = "/") -> dict[str, object]:
    found = json.loads(path.read_bytes())["namespaces"].get(namespace, {})
    return {key: stored["value"] for key, stored in found.items()}


class TestUrl:
    @pytest.mark.parametrize(
        ("url", "path"),
        [
            ("file:///srv/data.json", "/srv/data.json"),
            ("file:////srv/data.json", "/srv/data.json"),
            ("file://localhost/srv/data.json", "/srv/data.json"),
            ("FILE:///srv/two%20words.json", "/srv/two words.json"),
            ("file:data.json", f"{Path.cwd()}/data.json"),
            ("file:sub/../data.json", f"{Path.cwd()}/data.json"),
        ],
    )
    def test_paths(self, url: str, path: str) -> None:
        engine = create_engine(url)
        assert isinstance(engine, JsonFileEngine)
        assert str(engine.path) == path
        assert engine.autosave

    @pytest.mark.parametrize("url", ["file:", "file://", "file:///", "file://host/data.json", "file:?autosave=true"])
    def test_refused(self, url: str) -> None:
        with pytest.raises(StorageDataError) as caught:
            create_engine(url)
        assert caught.value.field == "url"

    def test_options(self, tmp_path: Path) -> None:
        for text, switch in (("false", False), ("0", False), ("True", True), ("1", True)):
            engine = create_engine(f"file://{tmp_path}/data.json?autosave={text}")
            assert isinstance(engine, JsonFileEngine)
            assert engine.autosave is switch
        for text in ("", "maybe"):
            with pytest.raises(StorageDataError) as caught:
                create_engine(f"file://{tmp_path}/data.json?autosave={text}")
            assert caught.value.field == "autosave"
        with pytest.raises(StorageDataError, match="unknown option cache"):
            create_engine(f"file://{tmp_path}/data.json?cache=1")
        with pytest.raises(StorageDataError):
            JsonFileEngine(tmp_path / "data.json", autosave=None)  # type: ignore[arg-type]

    async def test_open(self, tmp_path: Path) -> None:
        async with polymem.open(f"file://{tmp_path}/data.json") as store:
            await store.kv.put("a", 1)
        async with polymem.open(f"file://{tmp_path}/data.json", autosave=False) as store:
            assert await store.kv.get("a") == 1


class TestAutosave:
    async def test_a_put_is_in_the_file_when_it_returns(self, store: Store, path: Path) -> None:
        await store.kv.put("a", {"n": 1})
        assert values(path) == {"a": {"n": 1}}
        await store.namespace("acme", "x/y").kv.put("b", [2])
        assert values(path, "/acme/x%2Fy/") == {"b": [2]}
        await store.kv.put_many({"c": 3, "d": 4})
        await store.kv.delete("a")
        assert values(path) == {"c": 3, "d": 4}
        await store.kv.clear()
        await store.drop_namespace("acme")
        assert values(path) == {}

    async def test_reopening_finds_everything(self, new_store: NewStore, clock: ManualClock) -> None:
        """Values, versions, instants and expiry come back exactly."""
        async with new_store() as store:
            await store.kv.put("a", {"big": 10**30, "tiny": 5e-324, "text": "ä\n\u2028"}, ttl=60.000001)
            clock.advance(1)
            await store.kv.update("a", {"none": None})
            await store.kv.put("gone", 1, ttl=1)
            before = await store.kv.entry("a")
        clock.advance(2)
        async with new_store() as store:
            assert await store.kv.entry("a") == before
            assert await store.kv.count() == 1
            assert await store.delete_expired() == 1

    async def test_what_changes_nothing_writes_nothing(self, store: Store, path: Path) -> None:
        """Refused and empty writes, sweeps without expired records and a second save leave the file alone."""
        await store.kv.put("a", 1)
        before = path.stat()
        await store.kv.delete("b")
        await store.namespace("n").kv.clear()
        await store.delete_expired()
        await store.drop_namespace("n")
        async with store.transaction() as tx:
            await tx.kv.get("a")
        with pytest.raises(StorageConflictError):
            await store.kv.create("a", 2)
        await _engine(store).save()
        after = path.stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)

    async def test_nothing_written_leaves_no_file(self, new_store: NewStore, tmp_path: Path) -> None:
        async with new_store() as store:
            assert await store.kv.get("a") is None
            assert (await store.check()).ok
        assert not list(tmp_path.iterdir())

    async def test_a_clean_close_leaves_the_file_and_its_copy(self, new_store: NewStore, tmp_path: Path) -> None:
        async with new_store() as store:
            await store.kv.put("a", 1)
            await store.kv.put("a", 2)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["data.json", "data.json.bak"]
        assert (tmp_path / "data.json").read_bytes() == (tmp_path / "data.json.bak").read_bytes()

    async def test_closing_finishes_what_is_under_way(self, new_store: NewStore, path: Path) -> None:
        store = await new_store()
        writing = [asyncio.ensure_future(store.kv.put(f"{n}", n)) for n in range(20)]
        await asyncio.sleep(0)
        await store.close()
        assert len(await asyncio.gather(*writing)) == 20
        assert values(path) == {f"{n}": n for n in range(20)}

    async def test_a_store_that_is_opened_again_starts_anew(self, new_store: NewStore, path: Path, copy: Path) -> None:
        """What it knew of the file, and noted about it, ends with the close."""
        store = new_store()
        async with store:
            await store.kv.put("a", 1)
            path.write_text("notes")
            await store.kv.put("a", 2)
            assert len((await store.check()).details["notes"]) == 1
        path.unlink()
        copy.unlink()
        async with store:
            assert await store.kv.count() == 0
            await store.kv.put("b", 1)
            assert (await store.check()).details["notes"] == []


class TestWithoutAutosave:
    @pytest.fixture
    async def store(self, new_store: NewStore) -> AsyncIterator[Store]:
        async with new_store(autosave=False) as opened:
            yield opened

    async def test_dirty_until_saved(self, store: Store, path: Path) -> None:
        assert store.features()["kv"].durable is False
        await store.kv.put("a", 1)
        async with store.transaction() as tx:
            assert tx.features()["kv"].durable is False
            await tx.kv.put("b", 2)
        assert not path.exists()
        assert (await store.check()).details["saved"] is False
        await _engine(store).save()
        assert values(path) == {"a": 1, "b": 2}
        assert (await store.check()).details["saved"] is True
        await store.kv.put("a", 3)
        assert values(path) == {"a": 1, "b": 2}

    async def test_closing_saves(self, new_store: NewStore, path: Path) -> None:
        async with new_store(autosave=False) as store:
            await store.kv.put("a", 1)
        assert values(path) == {"a": 1}

    async def test_an_open_transaction_is_not_saved(self, store: Store, path: Path) -> None:
        async with store.transaction() as tx:
            await tx.kv.put("b", 2)
            await _engine(store).save()
            assert not path.exists()
        await _engine(store).save()
        assert values(path) == {"b": 2}

    async def test_writes_during_a_save_are_not_lost(self, store: Store, path: Path) -> None:
        for n in range(20):
            saving = asyncio.ensure_future(_engine(store).save())
            await asyncio.sleep(0)
            await store.kv.put(f"{n}", n)
            await saving
        assert (await store.check()).details["saved"] is False
        await _engine(store).save()
        assert values(path) == {f"{n}": n for n in range(20)}

    async def test_load_forgets_what_was_not_saved(self, store: Store) -> None:
        await store.kv.put("a", 1)
        await _engine(store).save()
        await store.kv.put("a", 2)
        await store.kv.put("b", 2)
        await _engine(store).load()
        assert [entry.value async for entry in store.kv.entries()] == [1]


class TestLoad:
    async def test_takes_what_a_person_wrote(self, store: Store, path: Path) -> None:
        await store.kv.put("a", 1)
        path.write_text(path.read_text().replace('"value": 1,', '"value": {"by": "hand"},'))
        before = _engine(store).changes_elsewhere()
        await _engine(store).load()
        assert _engine(store).changes_elsewhere() != before
        assert await store.kv.get("a") == {"by": "hand"}
        await store.kv.put("b", 2)
        assert values(path) == {"a": {"by": "hand"}, "b": 2}
        assert (await store.check()).details["notes"] == []

    @pytest.mark.parametrize(
        ("content", "error"),
        [(b"{", StorageCorruptError), (b'{"other": 1}', StorageCorruptError), (None, StorageNotFoundError)],
    )
    async def test_bad_files_change_nothing(
        self, store: Store, path: Path, content: bytes | None, error: type[Exception]
    ) -> None:
        await store.kv.put("a", 1)
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(error, match=str(path)):
            await _engine(store).load()
        assert await store.kv.get("a") == 1
        assert (path.read_bytes() if path.exists() else None) == content

    async def test_waits_for_a_transaction(self, store: Store) -> None:
        await store.kv.put("a", 1)
        async with store.transaction() as tx:
            loading = asyncio.ensure_future(_engine(store).load())
            await tx.kv.put("a", 2)
        await loading
        assert await store.kv.get("a") == 2


class TestOtherPrograms:
    """What somebody else does to the file while it is open is noticed and never overwritten unseen."""

    async def test_a_changed_file_is_kept(
        self, new_store: NewStore, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with new_store() as store:
            await store.kv.put("a", 1)
            path.write_text("my notes")
            assert not (await store.check()).ok
            await store.kv.put("b", 2)
            health = await store.check()
            assert health.ok
            assert health.details["set_aside"] == [f"{path}.changed-1"]
            assert "changed" in health.details["notes"][0]
            assert caplog.records[-1].levelname == "WARNING"
            assert Path(f"{path}.changed-1").read_text() == "my notes"
            path.write_text("more notes")
            await store.kv.put("c", 3)
            assert Path(f"{path}.changed-2").read_text() == "more notes"
        assert values(path) == {"a": 1, "b": 2, "c": 3}

    async def test_a_removed_file_is_written_again(self, store: Store, path: Path) -> None:
        await store.kv.put("a", 1)
        path.unlink()
        assert (await store.check()).problems == [f"{path} is missing"]
        await store.kv.put("b", 2)
        assert values(path) == {"a": 1, "b": 2}

    async def test_one_that_appears_is_kept(self, store: Store, path: Path) -> None:
        path.write_text("mine")
        await store.kv.put("a", 1)
        assert Path(f"{path}.changed-1").read_text() == "mine"

    async def test_closing_copies_no_foreign_file(self, new_store: NewStore, path: Path, copy: Path) -> None:
        async with new_store() as store:
            await store.kv.put("a", 1)
            await store.kv.put("a", 2)
            path.write_text("notes")
        assert path.read_text() == "notes"
        assert values(copy) == {"a": 1}


class TestCare:
    async def test_check_tells(self, store: Store, path: Path, copy: Path) -> None:
        await store.namespace("n").kv.put("a", 1)
        await store.kv.put_many({"a": 1, "b": 2})
        health = await store.check()
        assert health.ok
        assert health.details["namespaces"] == 2
        assert health.details["records"] == {"kv": 3}
        assert health.details["path"] == str(path)
        copy.write_text("{")
        assert "copy" in (await store.check()).problems[0]

    async def test_purge_leaves_nothing_of_the_deleted(self, new_store: NewStore, path: Path, tmp_path: Path) -> None:
        async with new_store() as store:
            await store.kv.put("a", "the secret word")
            await store.kv.put("b", "kept")
            await store.kv.delete("a")
            assert b"secret" in path.with_name("data.json.bak").read_bytes()  # or this test shows nothing
            await store.purge()
            assert [p.name for p in tmp_path.iterdir() if b"secret" in p.read_bytes()] == []
            assert values(path.with_name("data.json.bak")) == {"b": "kept"}
            assert await store.kv.get("b") == "kept"
        async with new_store() as store:
            assert [key async for key in store.kv.scan()] == ["b"]

    async def test_purge_with_a_copy_that_is_the_file(self, new_store: NewStore, path: Path, copy: Path) -> None:
        """A crash may leave both names on one file: overwriting the copy must not overwrite the file."""
        async with new_store() as store:
            await store.kv.put("a", 1)
        copy.unlink()
        os.link(path, copy)
        async with new_store() as store:
            await store.kv.put("b", 2)
            copy.unlink()
            os.link(path, copy)
            await store.purge()
            assert values(path) == values(copy) == {"a": 1, "b": 2}
            assert (await store.check()).details["notes"] == []
            assert path.stat().st_ino != copy.stat().st_ino

    async def test_permissions_stay(self, new_store: NewStore, path: Path) -> None:
        async with new_store() as store:
            await store.kv.put("a", 1)
            path.chmod(0o600)
            await store.kv.put("a", 2)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.with_name("data.json.bak").stat().st_mode) in (0o600, 0o644)

    async def test_a_link_stays_a_link(self, new_store: NewStore, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        link = tmp_path / "link.json"
        link.symlink_to(tmp_path / "real" / "data.json")
        async with new_store(link) as store:
            await store.kv.put("a", 1)
        assert link.is_symlink()
        assert values(tmp_path / "real" / "data.json") == {"a": 1}


async def test_engine_calls_before_open_and_after_close(new_store: NewStore) -> None:
    """G-8: also those that pass by the store."""
    store = new_store()
    for _ in range(2):
        for call in (_engine(store).save, _engine(store).load, _engine(store).purge, _engine(store).check):
            with pytest.raises(StorageConnectionError):
                await call()
        await store.open()
        await store.close()
    await _engine(store).close()


def _engine(store: Store) -> JsonFileEngine:
    assert isinstance(store.engine, JsonFileEngine)
    return store.engine
