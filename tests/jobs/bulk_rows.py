"""Records, and files made of them, for the tests of bulk files."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polymem

NAMES = ("x.jsonl", "x.ndjson", "x.jsonl.gz", "x.jsonl.zst", "x.parquet")
SOON = datetime(2030, 1, 1, 0, 0, 0, 123456, tzinfo=UTC)


async def stored(store: polymem.Store) -> dict[str, Any]:
    return {record.key: record.value async for record in store.kv.bulk_export()}


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def numbered(count: int) -> list[Any]:
    return [{"key": f"k{n:05}", "value": n} for n in range(count)]
