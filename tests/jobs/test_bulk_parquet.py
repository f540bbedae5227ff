"""What Parquet files may and may not look like (BLK-2)."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from jobs.bulk_rows import stored

import polymem
from polymem.errors import StorageDataError
from polymem.jobs import _bulk_parquet
from polymem.jobs.bulk import export_file, load_file

pytestmark = pytest.mark.anyio


pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


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
async def test_wrong_columns_are_refused_before_anything_is_written(
    store: polymem.Store, tmp_path: Path, columns: Any, field: str
) -> None:
    path = table(tmp_path / "x.parquet", **columns)
    for on_error in ("stop", "collect"):
        with pytest.raises(StorageDataError, match=f"x.parquet column {field}") as caught:
            await load_file(store.kv, path, on_error=on_error)  # type: ignore[arg-type]
        assert caught.value.field == field
    assert await stored(store) == {}


async def test_bad_rows_are_named(store: polymem.Store, tmp_path: Path) -> None:
    far = pa.array([None] * 5 + [9_000_000_000_000], pa.timestamp("s", tz="UTC"))
    keys = ["a", None, "", "d", "e", "f"]
    path = table(tmp_path / "x.parquet", key=keys, value=["1", "1", "1", "{", None, "1"], expires_at=far)
    report = await load_file(store.kv, path, on_error="collect")
    assert [(bad.where, bad.field) for bad in report.errors] == [
        ("x.parquet row 2", "key"), ("x.parquet row 3", "key"), ("x.parquet row 4", "value"),
        ("x.parquet row 5", "value"), ("x.parquet row 6", "expires_at"),
    ]  # fmt: skip
    assert await stored(store) == {"a": 1}
    with pytest.raises(StorageDataError, match="x.parquet row 2: is null"):
        await load_file(store.kv, path)


async def test_other_kinds_of_text_and_time(store: polymem.Store, tmp_path: Path) -> None:
    """Categories and large strings; instants of any unit and zone, rounded up and never down (KV-2)."""
    for unit, count, expected in (("s", 1, 1e6), ("ms", 1, 1e3), ("us", 1, 1), ("ns", 1, 1), ("ns", 1001, 2)):
        base = 1_900_000_000 * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
        columns = {
            "expires_at": pa.array([base + count], pa.timestamp(unit, tz="Europe/Lisbon")),
            "value": pa.array(['{"a": 1}'], pa.large_string()),
            "key": pa.array(["a"]).dictionary_encode(),
        }
        path = table(tmp_path / "x.parquet", **columns)
        await load_file(store.kv, path)
        (record,) = [record async for record in store.kv.bulk_export()]
        assert record.value == {"a": 1}
        assert record.expires_at is not None
        whole = datetime.fromtimestamp(1_900_000_000, UTC)
        assert (record.expires_at - whole).microseconds + 1e6 * (record.expires_at - whole).seconds == expected


async def test_skip_in_a_parquet_file_of_several_row_groups(store: polymem.Store, tmp_path: Path) -> None:
    keys = [f"k{n:03}" for n in range(100)]
    pq.write_table(pa.table({"key": keys, "value": ["1"] * 100}), tmp_path / "x.parquet", row_group_size=30)
    for skip in (0, 1, 29, 30, 31, 60, 99, 100, 500):
        space = store.namespace(str(skip))
        report = await load_file(space.kv, tmp_path / "x.parquet", skip=skip)
        assert list(await stored(space)) == keys[skip:]
        assert report.loaded == len(keys[skip:])


async def test_row_groups_and_batches_are_bounded(
    store: polymem.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_bulk_parquet, "_GROUP_ROWS", 1500)
    await store.kv.bulk_load((f"k{n:05}", n) for n in range(4500))
    await export_file(store.kv, tmp_path / "x.parquet")
    metadata = pq.ParquetFile(tmp_path / "x.parquet").metadata
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [2000, 2000, 500]
    wide = pa.table({"key": [f"k{n}" for n in range(20)], "value": [json.dumps(f"{n}" * (1 << 19)) for n in range(20)]})
    pq.write_table(wide, tmp_path / "wide.parquet", use_dictionary=False)
    assert _bulk_parquet._batch_size(pq.ParquetFile(tmp_path / "wide.parquet").metadata) < 8
