"""Key-value records from and to files (BLK-2)."""

import asyncio
import errno
import gzip
import io
import json
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import polymem
from polymem.contracts import _kv_bulk
from polymem.contracts.bulk import BulkRecord, ExportReport, LoadReport
from polymem.engines.memory.kv import MemoryKV
from polymem.errors import (
    StorageConflictError,
    StorageCorruptError,
    StorageDataError,
    StorageFullError,
    StorageTimeoutError,
    StorageUnsupportedError,
)
from polymem.jobs import _bulk_files, _bulk_lines, _bulk_parquet
from polymem.jobs.bulk import export_file, export_to, load_file

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
zstandard = pytest.importorskip("zstandard")

NAMES = ("x.jsonl", "x.ndjson", "x.jsonl.gz", "x.jsonl.zst", "x.parquet")
VALUES = {"a": None, "ü/🙂:*": "", "c": {}, "d": 0, "e": 2**80, "f": [1.5, '\u2028\n"\\', False], "g": {"": 1e300}}
SOON = datetime(2030, 1, 1, 0, 0, 0, 123456, tzinfo=UTC)
Scenario = Callable[[polymem.Store], Coroutine[Any, Any, None]]


def play(scenario: Scenario, url: str = "memory:") -> None:
    async def main() -> None:
        async with polymem.open(url, sweep_every=None) as store:
            await scenario(store)

    asyncio.run(main())


async def stored(store: polymem.Store) -> dict[str, Any]:
    return {record.key: record.value async for record in store.kv.bulk_export()}


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def numbered(count: int) -> list[Any]:
    return [{"key": f"k{n:05}", "value": n} for n in range(count)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("engine", ["memory", "sqlite"])
def test_what_goes_out_comes_in_equal(tmp_path: Path, name: str, engine: str) -> None:
    """BLK-2, KV-3: values and instants of expiry survive every format; the expired are left out."""

    async def scenario(store: polymem.Store) -> None:
        await store.kv.put_many(VALUES)
        await store.kv.put("soon", [1], ttl=SOON)
        await store.kv.put("past", [1], ttl=-1)
        await store.kv.bulk_load((f"n:{n}", {"n": n}) for n in range(2500))
        before = [record async for record in store.kv.bulk_export()]
        seen: list[ExportReport] = []
        report = await export_file(store.kv, tmp_path / name, progress=seen.append)
        assert report.exported == len(before) == 2500 + len(VALUES) + 1
        assert [one.exported for one in seen] == [1000, 2000, len(before)]
        assert seen[-1] == report
        copy = store.namespace("copy")
        told: list[LoadReport] = []
        loaded = await load_file(copy.kv, tmp_path / name, progress=told.append)
        assert (loaded.loaded, loaded.failed, loaded.errors) == (len(before), 0, ())
        assert loaded.bytes == report.bytes
        assert [record async for record in copy.kv.bulk_export()] == before
        assert ("soon", [1], SOON) in before
        shares = [one.share for one in told]
        assert shares == sorted(shares)
        assert shares[-1] == 1.0

    folder = tmp_path / "db"
    folder.mkdir()
    play(scenario, "memory:" if engine == "memory" else f"sqlite:///{folder / 'a.db'}")
    assert names_in(tmp_path) == {name, "db"}


def test_files_are_what_others_read_and_write(tmp_path: Path) -> None:
    async def scenario(store: polymem.Store) -> None:
        await store.kv.put("a", {"b": [1]})
        await store.kv.put("soon", 1, ttl=SOON)
        for name in NAMES:
            await export_file(store.kv, tmp_path / name)
        text = '{"key":"a","value":{"b":[1]}}\n{"key":"soon","value":1,"expires_at":"2030-01-01T00:00:00.123456Z"}\n'
        assert (tmp_path / "x.jsonl").read_text() == text
        assert gzip.decompress((tmp_path / "x.jsonl.gz").read_bytes()).decode() == text
        with (tmp_path / "x.jsonl.zst").open("rb") as file:
            assert zstandard.ZstdDecompressor().stream_reader(file).read().decode() == text
        table = pq.read_table(tmp_path / "x.parquet")
        assert table.to_pydict() == {"key": ["a", "soon"], "value": ['{"b":[1]}', "1"], "expires_at": [None, SOON]}
        assert str(table.schema.field("expires_at").type) == "timestamp[us, tz=UTC]"
        assert pq.ParquetFile(tmp_path / "x.parquet").metadata.row_group(0).column(0).compression == "ZSTD"
        for given in ("none", "gzip"):
            await export_file(store.kv, tmp_path / "x.parquet", compression=given, overwrite=True)
            found = pq.ParquetFile(tmp_path / "x.parquet").metadata.row_group(0).column(0).compression
            assert found == {"none": "UNCOMPRESSED", "gzip": "GZIP"}[given]

    play(scenario)


def test_lines_by_hand(tmp_path: Path) -> None:
    """Empty lines, spaces, CRLF, null and other offsets, no line end at the last one, several packed members."""
    text = (
        b'\n{"key": "a", "value": 1}\r\n   \n{"value":null, "key":"b", "expires_at": null}\n'
        b'{"key":"c","value":"x","expires_at":"2030-01-01T02:00:00.123456+02:00"}'
    )
    (tmp_path / "x.jsonl").write_bytes(text)
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(text[:20]) + gzip.compress(text[20:]))
    pack = zstandard.ZstdCompressor().compress
    (tmp_path / "x.jsonl.zst").write_bytes(pack(text[:20]) + pack(b"") + pack(text[20:]))

    async def scenario(store: polymem.Store) -> None:
        for name in ("x.jsonl", "x.jsonl.gz", "x.jsonl.zst"):
            space = store.namespace(name)
            assert (await load_file(space.kv, tmp_path / name)).loaded == 3
            found = [record async for record in space.kv.bulk_export()]
            assert found == [("a", 1, None), ("b", None, None), ("c", "x", SOON)]

    play(scenario)


def test_empty_files_hold_no_records(tmp_path: Path) -> None:
    async def scenario(store: polymem.Store) -> None:
        for name in NAMES:
            assert (await export_file(store.kv, tmp_path / name)).exported == 0
            report = await load_file(store.kv, tmp_path / name)
            assert (report.loaded, report.share) == (0, 1.0)

    play(scenario)


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
def test_a_broken_line_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, field: str) -> None:
    """Issue 3, bad input: file, line and field; whole chunks before it, or nothing at all."""
    monkeypatch.setattr(_kv_bulk, "CHUNK_RECORDS", 10)
    path = lines(tmp_path / "x.jsonl", *numbered(15), "", line, {"key": "z", "value": 1})

    async def scenario(store: polymem.Store) -> None:
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

    play(scenario)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'{"key": "\xff", "value": 1}\n{"key": "a", "value": "\xff"}\n\x00\x01\n')

    async def scenario(store: polymem.Store) -> None:
        report = await load_file(store.kv, tmp_path / "x.jsonl", on_error="collect")
        assert (report.loaded, report.failed) == (0, 3)

    play(scenario)


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_bulk_lines, "LONGEST", 1 << 20)
    lines(tmp_path / "x.jsonl", {"key": "a", "value": 1}, "x" * (1 << 21))

    async def scenario(store: polymem.Store) -> None:
        for on_error in ("stop", "collect"):
            with pytest.raises(StorageDataError, match="line 2: longer than 1 MB"):
                await load_file(store.kv, tmp_path / "x.jsonl", on_error=on_error)  # type: ignore[arg-type]

    play(scenario)


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.jsonl.zst", "x.parquet"])
def test_a_damaged_or_cut_file_is_named(tmp_path: Path, name: str) -> None:
    """Also with `collect`: what follows the damage cannot be trusted."""

    async def scenario(store: polymem.Store) -> None:
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

    play(scenario)


def table(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


TEXTS = ["1", "2"]


@pytest.mark.parametrize(
    ("columns", "field"),
    [
        ({"key": TEXTS}, "value"),
        ({"value": TEXTS}, "key"),
        ({"key": [1, 2], "value": TEXTS}, "key"),
        ({"key": TEXTS, "value": [1, 2]}, "value"),
        ({"key": TEXTS, "value": [{"a": 1}, {"a": 2}]}, "value"),
        ({"key": TEXTS, "value": TEXTS, "expires_at": TEXTS}, "expires_at"),
        ({"key": TEXTS, "value": TEXTS, "expires_at": [datetime(2030, 1, 1), None]}, "expires_at"),
        ({"key": TEXTS, "value": TEXTS, "ttl": [1, 2]}, "ttl"),
    ],
)
def test_wrong_columns_are_refused_before_anything_is_written(tmp_path: Path, columns: Any, field: str) -> None:
    """Issue 3, bad input."""
    path = table(tmp_path / "x.parquet", **columns)

    async def scenario(store: polymem.Store) -> None:
        for on_error in ("stop", "collect"):
            with pytest.raises(StorageDataError, match=f"x.parquet column {field}") as caught:
                await load_file(store.kv, path, on_error=on_error)  # type: ignore[arg-type]
            assert caught.value.field == field
        assert await stored(store) == {}

    play(scenario)


def test_bad_rows_are_named(tmp_path: Path) -> None:
    far = pa.array([None] * 5 + [9_000_000_000_000], pa.timestamp("s", tz="UTC"))
    keys = ["a", None, "", "d", "e", "f"]
    path = table(tmp_path / "x.parquet", key=keys, value=["1", "1", "1", "{", None, "1"], expires_at=far)

    async def scenario(store: polymem.Store) -> None:
        report = await load_file(store.kv, path, on_error="collect")
        assert [(bad.where, bad.field) for bad in report.errors] == [
            ("x.parquet row 2", "key"), ("x.parquet row 3", "key"), ("x.parquet row 4", "value"),
            ("x.parquet row 5", "value"), ("x.parquet row 6", "expires_at"),
        ]  # fmt: skip
        assert await stored(store) == {"a": 1}
        with pytest.raises(StorageDataError, match="x.parquet row 2: is null"):
            await load_file(store.kv, path)

    play(scenario)


def test_other_kinds_of_text_and_time(tmp_path: Path) -> None:
    """Categories and large strings; instants of any unit and zone, rounded up and never down (KV-2)."""
    for unit, count, expected in (("s", 1, 1e6), ("ms", 1, 1e3), ("us", 1, 1), ("ns", 1, 1), ("ns", 1001, 2)):
        base = 1_900_000_000 * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
        columns = {
            "expires_at": pa.array([base + count], pa.timestamp(unit, tz="Europe/Lisbon")),
            "value": pa.array(['{"a": 1}'], pa.large_string()),
            "key": pa.array(["a"]).dictionary_encode(),
        }
        path = table(tmp_path / "x.parquet", **columns)

        async def scenario(store: polymem.Store, path: Path = path, expected: float = expected) -> None:
            await load_file(store.kv, path)
            (record,) = [record async for record in store.kv.bulk_export()]
            assert record.value == {"a": 1}
            assert record.expires_at is not None
            whole = datetime.fromtimestamp(1_900_000_000, UTC)
            assert (record.expires_at - whole).microseconds + 1e6 * (record.expires_at - whole).seconds == expected

        play(scenario)


def test_skip_in_a_parquet_file_of_several_row_groups(tmp_path: Path) -> None:
    keys = [f"k{n:03}" for n in range(100)]
    pq.write_table(pa.table({"key": keys, "value": ["1"] * 100}), tmp_path / "x.parquet", row_group_size=30)

    async def scenario(store: polymem.Store) -> None:
        for skip in (0, 1, 29, 30, 31, 60, 99, 100, 500):
            space = store.namespace(str(skip))
            report = await load_file(space.kv, tmp_path / "x.parquet", skip=skip)
            assert list(await stored(space)) == keys[skip:]
            assert report.loaded == len(keys[skip:])

    play(scenario)


def test_row_groups_and_batches_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_bulk_parquet, "_GROUP_ROWS", 1500)

    async def scenario(store: polymem.Store) -> None:
        await store.kv.bulk_load((f"k{n:05}", n) for n in range(4500))
        await export_file(store.kv, tmp_path / "x.parquet")
        metadata = pq.ParquetFile(tmp_path / "x.parquet").metadata
        assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [2000, 2000, 500]

    play(scenario)
    wide = pa.table({"key": [f"k{n}" for n in range(20)], "value": [json.dumps(f"{n}" * (1 << 19)) for n in range(20)]})
    pq.write_table(wide, tmp_path / "wide.parquet", use_dictionary=False)
    assert _bulk_parquet._batch_size(pq.ParquetFile(tmp_path / "wide.parquet").metadata) < 8


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", *numbered(1200), "{")

    async def scenario(store: polymem.Store) -> None:
        with pytest.raises(StorageDataError, match="line 1201"):
            await load_file(store.kv, path, dry_run=True)
        report = await load_file(store.kv, path, dry_run=True, on_error="collect")
        assert (report.loaded, report.failed) == (1200, 1)
        assert await stored(store) == {}

    play(scenario)


@dataclass
class Theme:
    dark: bool


def test_typed(tmp_path: Path) -> None:
    """KV-3: values of a file are checked against the type, and extra errors do not quote them."""
    path = lines(tmp_path / "x.jsonl", {"key": "a", "value": {"dark": True}}, {"key": "b", "value": {"dark": "secret"}})

    async def scenario(store: polymem.Store) -> None:
        themes = store.kv.typed(Theme)
        report = await load_file(themes, path, on_error="collect")
        assert await themes.get("a") == Theme(dark=True)
        assert [(bad.where, bad.field) for bad in report.errors] == [("x.jsonl line 2", "value")]
        assert "secret" not in str(report)
        await export_file(themes, tmp_path / "y.jsonl")
        assert (tmp_path / "y.jsonl").read_text() == '{"key":"a","value":{"dark":true}}\n'

    play(scenario)


@pytest.mark.parametrize("name", ["x.csv", "x", "x.gz", "x.parquet.gz", "x.json"])
def test_unknown_names(tmp_path: Path, name: str) -> None:
    async def scenario(store: polymem.Store) -> None:
        for call in (load_file, export_file):
            with pytest.raises(StorageDataError) as caught:
                await call(store.kv, tmp_path / name)  # type: ignore[operator]
            assert caught.value.field == "format"

    play(scenario)
    assert names_in(tmp_path) == set()


def test_a_format_that_is_given_wins(tmp_path: Path) -> None:
    async def scenario(store: polymem.Store) -> None:
        await store.kv.put("a", 1)
        await export_file(store.kv, tmp_path / "x.dat.gz", format="jsonl")
        assert gzip.decompress((tmp_path / "x.dat.gz").read_bytes()) == b'{"key":"a","value":1}\n'
        assert (await load_file(store.kv, tmp_path / "x.dat.gz", format="jsonl")).loaded == 1
        await export_file(store.kv, tmp_path / "y", format="parquet")
        assert (await load_file(store.kv, str(tmp_path / "y"), format="parquet")).loaded == 1

    play(scenario)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    """G-1: the error of the system comes as ours."""
    (tmp_path / "folder.jsonl").mkdir()

    async def scenario(store: polymem.Store) -> None:
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

    play(scenario)


def test_missing_libraries_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x.parquet", "x.jsonl.zst"):
        (tmp_path / name).write_bytes(b"some")

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(_bulk_files, "import_module", missing)

    async def scenario(store: polymem.Store) -> None:
        for name, extra in (("x.parquet", "parquet"), ("x.jsonl.zst", "zstd")):
            with pytest.raises(StorageUnsupportedError, match=extra):
                await load_file(store.kv, tmp_path / name)
            with pytest.raises(StorageUnsupportedError, match=extra):
                await export_file(store.kv, tmp_path / name, overwrite=True)
            assert (tmp_path / name).read_bytes() == b"some"

    play(scenario)
    assert names_in(tmp_path) == {"x.parquet", "x.jsonl.zst"}


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.jsonl.zst", "x.parquet"])
def test_a_failed_export_leaves_what_was_there(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")

    async def scenario(store: polymem.Store) -> None:
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

    play(scenario)


def test_a_full_disk(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    with pytest.raises(StorageFullError), _bulk_files.failures_told(full), full.open("wb") as file:
        file.write(b"x")


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    def rival(report: ExportReport) -> None:
        (tmp_path / "x.jsonl").write_text("precious")

    async def scenario(store: polymem.Store) -> None:
        await store.kv.put("a", 1)
        with pytest.raises(StorageConflictError):
            await export_file(store.kv, tmp_path / "x.jsonl", progress=rival)

    play(scenario)
    assert (tmp_path / "x.jsonl").read_text() == "precious"
    assert names_in(tmp_path) == {"x.jsonl"}


def test_whose_failure_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the file is told as ours; that of the store, or of the caller's own code, comes out untouched."""

    def full(self: Any, records: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def late(self: Any, *args: Any) -> Any:
        raise StorageTimeoutError("too late", retryable=False)

    def upset(report: ExportReport) -> None:
        raise FileNotFoundError("mine")

    async def scenario(store: polymem.Store) -> None:
        await store.kv.put("a", 1)
        with pytest.raises(FileNotFoundError, match="mine"):
            await export_file(store.kv, tmp_path / "x.jsonl", progress=upset)
        with monkeypatch.context() as patched, pytest.raises(StorageFullError):
            patched.setattr(_bulk_lines.LinesWriter, "write", full)
            await export_file(store.kv, tmp_path / "x.jsonl")
        monkeypatch.setattr(MemoryKV, "page", late)
        with pytest.raises(StorageTimeoutError):
            await export_file(store.namespace("n").kv, tmp_path / "x.jsonl")

    play(scenario)
    assert names_in(tmp_path) == set()


def test_a_damaged_value_is_not_exported_as_if_absent(tmp_path: Path) -> None:
    async def scenario(store: polymem.Store) -> None:
        await store.kv.put("a", 1)
        await store.kv._driver.put("b", b"{", "json", version=1, expires_at=None)
        with pytest.raises(StorageCorruptError):
            await export_file(store.kv, tmp_path / "x.jsonl")

    play(scenario)
    assert names_in(tmp_path) == set()


def test_export_to_a_sink_waits_for_it(tmp_path: Path) -> None:
    """BLK-1: back-pressure: a batch at a time."""

    async def scenario(store: polymem.Store) -> None:
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

    play(scenario)


def test_reading_is_done_in_threads_and_no_further_than_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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

    async def scenario(store: polymem.Store) -> None:
        ahead = []

        async def slow(report: LoadReport) -> None:
            await asyncio.sleep(0.002)
            ahead.append(parsed - report.loaded)

        await load_file(store.kv, path, progress=slow)
        assert max(ahead) <= 20
        assert threading.current_thread() not in threads

    play(scenario)


def test_a_cancelled_load_lets_go_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread ends before the file is closed under it, and whole chunks are stored."""
    monkeypatch.setattr(_kv_bulk, "CHUNK_RECORDS", 10)
    path, opened, whole = lines(tmp_path / "x.jsonl", *numbered(2000)), [], _bulk_lines._lines

    def slowly(file: io.BufferedReader, source: Path) -> Any:
        opened.append(file)
        for number, line in whole(file, source):
            time.sleep(0.001)
            yield number, line

    monkeypatch.setattr(_bulk_lines, "_lines", slowly)

    async def scenario(store: polymem.Store) -> None:
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

    play(scenario)
