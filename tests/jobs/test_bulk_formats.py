"""Key-value records through files of every format (BLK-2)."""

import gzip
from dataclasses import dataclass
from pathlib import Path

import pytest
from jobs.bulk_rows import NAMES, SOON, lines, names_in

import polymem
from polymem.contracts.bulk import ExportReport, LoadReport
from polymem.errors import StorageDataError
from polymem.jobs.bulk import export_file, load_file

pytestmark = pytest.mark.anyio


pq = pytest.importorskip("pyarrow.parquet")
zstandard = pytest.importorskip("zstandard")
VALUES = {"a": None, "ü/🙂:*": "", "c": {}, "d": 0, "e": 2**80, "f": [1.5, '\u2028\n"\\', False], "g": {"": 1e300}}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("engine", ["memory", "sqlite"])
async def test_what_goes_out_comes_in_equal(tmp_path: Path, name: str, engine: str) -> None:
    """BLK-2, KV-3: values and instants of expiry survive every format; the expired are left out."""
    folder = tmp_path / "db"
    folder.mkdir()
    url = "memory:" if engine == "memory" else f"sqlite:///{folder / 'a.db'}"
    async with polymem.open(url, sweep_every=None) as store:
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
        shares = [one.share or 0.0 for one in told]
        assert shares == sorted(shares)
        assert shares[-1] == 1.0
    assert names_in(tmp_path) == {name, "db"}


async def test_files_are_what_others_read_and_write(store: polymem.Store, tmp_path: Path) -> None:
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


async def test_lines_by_hand(store: polymem.Store, tmp_path: Path) -> None:
    """Empty lines, spaces, CRLF, null and other offsets, no line end at the last one, several packed members."""
    text = (
        b'\n{"key": "a", "value": 1}\r\n   \n{"value":null, "key":"b", "expires_at": null}\n'
        b'{"key":"c","value":"x","expires_at":"2030-01-01T02:00:00.123456+02:00"}'
    )
    (tmp_path / "x.jsonl").write_bytes(text)
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(text[:20]) + gzip.compress(text[20:]))
    pack = zstandard.ZstdCompressor().compress
    (tmp_path / "x.jsonl.zst").write_bytes(pack(text[:20]) + pack(b"") + pack(text[20:]))
    for name in ("x.jsonl", "x.jsonl.gz", "x.jsonl.zst"):
        space = store.namespace(name)
        assert (await load_file(space.kv, tmp_path / name)).loaded == 3
        found = [record async for record in space.kv.bulk_export()]
        assert found == [("a", 1, None), ("b", None, None), ("c", "x", SOON)]


async def test_empty_files_hold_no_records(store: polymem.Store, tmp_path: Path) -> None:
    for name in NAMES:
        assert (await export_file(store.kv, tmp_path / name)).exported == 0
        report = await load_file(store.kv, tmp_path / name)
        assert (report.loaded, report.share) == (0, 1.0)


@dataclass
class Theme:
    dark: bool


async def test_typed(store: polymem.Store, tmp_path: Path) -> None:
    """KV-3: values of a file are checked against the type, and extra errors do not quote them."""
    path = lines(tmp_path / "x.jsonl", {"key": "a", "value": {"dark": True}}, {"key": "b", "value": {"dark": "secret"}})
    themes = store.kv.typed(Theme)
    report = await load_file(themes, path, on_error="collect")
    assert await themes.get("a") == Theme(dark=True)
    assert [(bad.where, bad.field) for bad in report.errors] == [("x.jsonl line 2", "value")]
    assert "secret" not in str(report)
    await export_file(themes, tmp_path / "y.jsonl")
    assert (tmp_path / "y.jsonl").read_text() == '{"key":"a","value":{"dark":true}}\n'


@pytest.mark.parametrize("name", ["x.csv", "x", "x.gz", "x.parquet.gz", "x.json"])
async def test_unknown_names(store: polymem.Store, tmp_path: Path, name: str) -> None:
    for call in (load_file, export_file):
        with pytest.raises(StorageDataError) as caught:
            await call(store.kv, tmp_path / name)  # type: ignore[operator]
        assert caught.value.field == "format"
    assert names_in(tmp_path) == set()


async def test_a_format_that_is_given_wins(store: polymem.Store, tmp_path: Path) -> None:
    await store.kv.put("a", 1)
    await export_file(store.kv, tmp_path / "x.dat.gz", format="jsonl")
    assert gzip.decompress((tmp_path / "x.dat.gz").read_bytes()) == b'{"key":"a","value":1}\n'
    assert (await load_file(store.kv, tmp_path / "x.dat.gz", format="jsonl")).loaded == 1
    await export_file(store.kv, tmp_path / "y", format="parquet")
    assert (await load_file(store.kv, str(tmp_path / "y"), format="parquet")).loaded == 1
