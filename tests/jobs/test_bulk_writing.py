"""Exporting to files: whole or not at all (BLK-1, BLK-2)."""

import asyncio
import errno
from pathlib import Path
from typing import Any

import pytest
from jobs.bulk_rows import names_in

import polymem
from polymem.contracts.bulk import BulkRecord, ExportReport
from polymem.engines.memory.kv import MemoryKV
from polymem.errors import StorageConflictError, StorageCorruptError, StorageFullError, StorageTimeoutError
from polymem.jobs import _bulk_files, _bulk_lines
from polymem.jobs.bulk import export_file, export_to, load_file

pytestmark = pytest.mark.anyio
pytest.importorskip("pyarrow.parquet")
pytest.importorskip("zstandard")


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.jsonl.zst", "x.parquet"])
async def test_a_failed_export_leaves_what_was_there(store: polymem.Store, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    await store.kv.bulk_load((f"k{n:05}", n) for n in range(2500))
    with pytest.raises(StorageConflictError):
        await export_file(store.kv, tmp_path / name)

    def upset(report: ExportReport) -> None:
        assert len(names_in(tmp_path)) == 2
        if report.exported > 1000:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await export_file(store.kv, tmp_path / name, overwrite=True, progress=upset)
    begun = asyncio.Event()

    async def stuck(report: ExportReport) -> None:
        begun.set()
        await asyncio.sleep(60)

    exporting = asyncio.create_task(export_file(store.kv, tmp_path / name, overwrite=True, progress=stuck))
    await begun.wait()
    exporting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await exporting
    assert (tmp_path / name).read_text() == "precious"
    assert names_in(tmp_path) == {name}
    await export_file(store.kv, tmp_path / name, overwrite=True)
    assert (await load_file(store.kv, tmp_path / name)).loaded == 2500


def test_a_full_disk(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    with pytest.raises(StorageFullError), _bulk_files.failures_told(full), full.open("wb") as file:
        file.write(b"x")


async def test_a_file_that_appears_meanwhile_is_kept(store: polymem.Store, tmp_path: Path) -> None:
    def rival(report: ExportReport) -> None:
        (tmp_path / "x.jsonl").write_text("precious")

    await store.kv.put("a", 1)
    with pytest.raises(StorageConflictError):
        await export_file(store.kv, tmp_path / "x.jsonl", progress=rival)
    assert (tmp_path / "x.jsonl").read_text() == "precious"
    assert names_in(tmp_path) == {"x.jsonl"}


async def test_whose_failure_it_is(store: polymem.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the file is told as ours; that of the store, or of the caller's own code, comes out untouched."""

    def full(self: Any, records: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def late(self: Any, *args: Any) -> Any:
        raise StorageTimeoutError("too late", retryable=False)

    def upset(report: ExportReport) -> None:
        raise FileNotFoundError("mine")

    await store.kv.put("a", 1)
    with pytest.raises(FileNotFoundError, match="mine"):
        await export_file(store.kv, tmp_path / "x.jsonl", progress=upset)
    with monkeypatch.context() as patched, pytest.raises(StorageFullError):
        patched.setattr(_bulk_lines.LinesWriter, "write", full)
        await export_file(store.kv, tmp_path / "x.jsonl")
    monkeypatch.setattr(MemoryKV, "page", late)
    with pytest.raises(StorageTimeoutError):
        await export_file(store.namespace("n").kv, tmp_path / "x.jsonl")
    assert names_in(tmp_path) == set()


async def test_a_damaged_value_is_not_exported_as_if_absent(store: polymem.Store, tmp_path: Path) -> None:
    await store.kv.put("a", 1)
    await store.kv._driver.put("b", b"{", "json", version=1, expires_at=None)
    with pytest.raises(StorageCorruptError):
        await export_file(store.kv, tmp_path / "x.jsonl")
    assert names_in(tmp_path) == set()


async def test_export_to_a_sink_waits_for_it(store: polymem.Store, tmp_path: Path) -> None:
    """BLK-1: back-pressure: a batch at a time."""
    await store.kv.bulk_load((f"k{n:05}", n) for n in range(2500))
    batches: list[list[BulkRecord[Any]]] = []
    busy = False

    async def sink(records: list[BulkRecord[Any]]) -> int:
        nonlocal busy
        assert not busy
        busy = True
        await asyncio.sleep(0.001)
        busy = False
        batches.append(records)
        return 10

    report = await export_to(store.kv, sink, prefix="k0")
    assert (report.exported, report.bytes, [len(batch) for batch in batches]) == (2500, 30, [1000, 1000, 500])
    plain: list[list[BulkRecord[Any]]] = []
    await export_to(store.kv, plain.append)
    assert plain == batches
