"""Changes of the JSON file: told once they are saved, and not at all where they are not (EVT-1)."""

from pathlib import Path

import pytest

from polymem.engines.json_file.engine import JsonFileEngine
from polymem.errors import StorageDataError, StorageError
from polymem.opened import Session
from polymem.store import Store

pytestmark = pytest.mark.anyio


async def test_what_could_not_be_saved_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = JsonFileEngine(tmp_path / "data.json")
    async with Store(Session(engine, sweep_every=None)) as store, store.kv.watch() as watch:

        def fail(_: object) -> None:
            raise OSError(28, "no space left on device")

        with monkeypatch.context() as broken:
            broken.setattr(engine._file, "write", fail)  # noqa: SLF001 - the disk
            with pytest.raises(StorageError):
                await store.kv.put("a", 1)
            with pytest.raises(StorageError):
                async with store.transaction() as tx:
                    await tx.kv.put("b", 1)
        assert await watch.read() == []
        await store.kv.put("c", 1)
        assert [change.key for change in await watch.read()] == ["c"]


async def test_loading_the_file_ends_every_watch(tmp_path: Path) -> None:
    engine = JsonFileEngine(tmp_path / "data.json", autosave=False)
    async with Store(Session(engine, sweep_every=None)) as store, store.kv.watch() as watch:
        await store.kv.put("a", 1)
        await engine.save()
        await watch.read()
        await engine.load()
        with pytest.raises(StorageDataError):
            await watch.read()
        async with store.kv.watch() as anew:
            await store.kv.put("b", 1)
            assert [change.key for change in await anew.read()] == ["b"]
