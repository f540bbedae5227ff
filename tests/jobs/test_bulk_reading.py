"""Loading from files: what is refused by name, and how far it is read (BLK-1, BLK-2)."""

import asyncio
import io
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from jobs.bulk_rows import lines, names_in, numbered, stored

import polymem
from polymem.contracts import _kv_bulk
from polymem.contracts.bulk import LoadReport
from polymem.errors import StorageDataError, StorageUnsupportedError
from polymem.jobs import _bulk_files, _bulk_lines
from polymem.jobs.bulk import export_file, load_file

pytestmark = pytest.mark.anyio
pytest.importorskip("pyarrow.parquet")
pytest.importorskip("zstandard")


BAD_LINES = [
    ("{", "record"), ("[1]", "record"), ("7", "record"), ('{"key": "a", "value": 1} x', "record"),
    ('{"key": "a"}', "value"), ('{"value": 1}', "key"), ('{"key": null, "value": 1}', "key"),
    ('{"key": "", "value": 1}', "key"), ('{"key": "a\\u0000", "value": 1}', "key"),
    ('{"key": "a", "value": "\\u0000"}', "value"), ('{"key": "a", "value": {"b": ["\\u0000"]}}', "value.b[0]"),
    ('{"key": "a", "value": NaN}', "record"), ('{"key": "a", "value": "\\ud800"}', "record"),
    ('{"key": "a", "value": ' + "[" * 300 + "]" * 300 + "}", "value"),
    ('{"key": "a", "value": ' + "[" * 200_000 + "]" * 200_000 + "}", "record"),
    ('{"key": "a", "value": 1, "expires_at": "2030-01-01T00:00:00"}', "expires_at"),
    ('{"key": "a", "value": 1, "expires_at": "secret"}', "expires_at"),
    ('{"key": "a", "value": 1, "expires_at": 17}', "expires_at"), ('{"key": "a", "value": 1, "ttl": 5}', "ttl"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "field"), BAD_LINES)
async def test_a_broken_line_is_named(
    store: polymem.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, field: str
) -> None:
    """File, line and field; whole chunks before it, or nothing at all."""
    monkeypatch.setattr(_kv_bulk, "CHUNK_RECORDS", 10)
    path = lines(tmp_path / "x.jsonl", *numbered(15), "", line, {"key": "z", "value": 1})
    with pytest.raises(StorageDataError, match="x.jsonl line 17") as caught:
        await load_file(store.kv, path, check_first=True)
    assert await stored(store) == {}
    assert (caught.value.field or "").startswith(field)
    assert "secret" not in str(caught.value)
    with pytest.raises(StorageDataError) as caught:
        await load_file(store.kv, path)
    assert caught.value.__notes__ == ["10 records are done with; go on with skip=10"]
    assert len(await stored(store)) == 10
    report = await load_file(store.kv, path, on_error="collect", skip=10)
    assert (report.skipped, report.loaded, report.failed, report.position) == (10, 6, 1, 17)
    assert (report.errors[0].position, report.errors[0].where) == (16, "x.jsonl line 17")
    assert len(await stored(store)) == 16


async def test_bytes_that_are_no_text(store: polymem.Store, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'{"key": "\xff", "value": 1}\n{"key": "a", "value": "\xff"}\n\x00\x01\n')
    report = await load_file(store.kv, tmp_path / "x.jsonl", on_error="collect")
    assert (report.loaded, report.failed) == (0, 3)


async def test_a_line_without_end_does_not_fill_the_memory(
    store: polymem.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_bulk_lines, "LONGEST", 1 << 20)
    lines(tmp_path / "x.jsonl", {"key": "a", "value": 1}, "x" * (1 << 21))
    for on_error in ("stop", "collect"):
        with pytest.raises(StorageDataError, match="line 2: longer than 1 MB"):
            await load_file(store.kv, tmp_path / "x.jsonl", on_error=on_error)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.jsonl.zst", "x.parquet"])
async def test_a_damaged_or_cut_file_is_named(store: polymem.Store, tmp_path: Path, name: str) -> None:
    """Also with `collect`: what follows the damage cannot be trusted."""
    await store.kv.bulk_load((f"k{n}", f"{n * 7919:x}" * 9) for n in range(9000))
    await export_file(store.kv, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    middle = len(whole) // 2
    broken = (
        whole[:-7],
        whole[:middle],
        whole[:middle] + bytes(64) + whole[middle + 64 :],
        b"nonsense" * 9,
        b"PAR1",
    )
    for content in broken:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(StorageDataError) as caught:
            await load_file(store.namespace("copy").kv, tmp_path / name, on_error="collect", dry_run=True)
        assert name in str(caught.value)


async def test_dry_run_writes_nothing(store: polymem.Store, tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", *numbered(1200), "{")
    with pytest.raises(StorageDataError, match="line 1201"):
        await load_file(store.kv, path, dry_run=True)
    report = await load_file(store.kv, path, dry_run=True, on_error="collect")
    assert (report.loaded, report.failed) == (1200, 1)
    assert await stored(store) == {}


async def test_files_that_cannot_be_used(store: polymem.Store, tmp_path: Path) -> None:
    """G-1: the error of the system comes as ours."""
    (tmp_path / "folder.jsonl").mkdir()
    for name in ("absent.jsonl", "absent.parquet", "folder.jsonl"):
        with pytest.raises(StorageDataError) as caught:
            await load_file(store.kv, tmp_path / name)
        assert caught.value.field == "path"
    with pytest.raises(StorageDataError) as caught:
        await export_file(store.kv, tmp_path / "absent" / "x.jsonl")
    assert caught.value.field == "path"
    with pytest.raises(StorageDataError) as caught:
        await export_file(store.kv, tmp_path / "x.jsonl", compression="rar")  # type: ignore[arg-type]
    assert caught.value.field == "compression"


async def test_missing_libraries_are_named(
    store: polymem.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("x.parquet", "x.jsonl.zst"):
        (tmp_path / name).write_bytes(b"some")

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(_bulk_files, "import_module", missing)
    for name, extra in (("x.parquet", r"\[parquet\]"), ("x.jsonl.zst", r"\[compression\]")):
        with pytest.raises(StorageUnsupportedError, match=extra):
            await load_file(store.kv, tmp_path / name)
        with pytest.raises(StorageUnsupportedError, match=extra):
            await export_file(store.kv, tmp_path / name, overwrite=True)
        assert (tmp_path / name).read_bytes() == b"some"
    assert names_in(tmp_path) == {"x.parquet", "x.jsonl.zst"}


async def test_reading_is_done_in_threads_and_no_further_than_needed(
    store: polymem.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BLK-1: the loop never parses, and a slow engine holds the reader back."""
    monkeypatch.setattr(_kv_bulk, "CHUNK_RECORDS", 10)
    path = lines(tmp_path / "x.jsonl", *numbered(200))
    threads, parsed, whole = set(), 0, _bulk_lines._row

    def noted(bulk: Any, text: bytes) -> Any:
        nonlocal parsed
        threads.add(threading.current_thread())
        parsed += 1
        return whole(bulk, text)

    monkeypatch.setattr(_bulk_lines, "_row", noted)
    ahead = []

    async def slow(report: LoadReport) -> None:
        await asyncio.sleep(0.002)
        ahead.append(parsed - report.loaded)

    await load_file(store.kv, path, progress=slow)
    assert max(ahead) <= 20
    assert threading.current_thread() not in threads


async def test_a_cancelled_load_lets_go_of_the_file(
    store: polymem.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread ends before the file is closed under it, and whole chunks are stored."""
    monkeypatch.setattr(_kv_bulk, "CHUNK_RECORDS", 10)
    path, opened, whole = lines(tmp_path / "x.jsonl", *numbered(2000)), [], _bulk_lines._lines

    def slowly(file: io.BufferedReader, source: Path) -> Any:
        opened.append(file)
        for number, line in whole(file, source):
            time.sleep(0.001)
            yield number, line

    monkeypatch.setattr(_bulk_lines, "_lines", slowly)
    seen, begun = [LoadReport()], asyncio.Event()

    def told(report: LoadReport) -> None:
        seen.append(report)
        begun.set()

    loading = asyncio.create_task(load_file(store.kv, path, progress=told))
    await begun.wait()
    await asyncio.sleep(0.005)  # into the middle of a chunk
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert opened[0].closed
    assert 0 < seen[-1].loaded < 2000
    assert len(await stored(store)) == seen[-1].loaded == seen[-1].position
