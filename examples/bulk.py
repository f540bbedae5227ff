"""Bulk work: a batch of operations, a long load with progress, and files in and out.

Run with `python examples/bulk.py` (needs `pip install 'polymem[parquet]'`).
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import polymem
from polymem.contracts.bulk import Delete, Increment, LoadReport, Put, Update
from polymem.errors import StorageNotFoundError
from polymem.jobs.bulk import export_file, load_file


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with polymem.open(f"sqlite:///{Path(folder, 'agent.db')}") as store:
            await batch(store)
            await load(store.namespace("events"))
            await files(store.namespace("events"), store.namespace("copy"), Path(folder))


async def batch(store: polymem.Store) -> None:
    result = await store.kv.batch_write(
        [Put("theme", "dark", ttl=3600), Increment("visits"), Update("absent", 1), Delete("x")]
    )
    for one in result.outcomes:
        print(f"{type(one.operation).__name__} {one.operation.key}: {one.state}, {one.error or one.result}")
    try:
        async with store.transaction() as tx:
            (await tx.kv.batch_write([Put("a", 1), Update("absent", 2)])).raise_first()
    except StorageNotFoundError as error:
        print(f"undone as a whole: {error}; a is {await store.kv.get('a')}")


async def load(store: polymem.Store) -> None:
    async def events() -> AsyncIterator[tuple[str, dict[str, int], float]]:
        for number in range(20_000):
            yield f"event:{number:06}", {"number": number}, 86_400.0

    def progress(report: LoadReport) -> None:
        if report.loaded % 5000 == 0:
            print(f"{report.loaded:,} events in {report.seconds:.2f} s")

    await store.kv.bulk_load(events(), progress=progress)


async def files(source: polymem.Store, target: polymem.Store, folder: Path) -> None:
    for name in ("events.jsonl", "events.jsonl.gz", "events.parquet"):
        out = await export_file(source.kv, folder / name)
        back = await load_file(target.kv, folder / name)
        size = (folder / name).stat().st_size / 1024
        print(f"{name}: {out.exported:,} records, {size:,.0f} kB; {back.loaded:,} loaded in {back.seconds:.2f} s")
    (folder / "broken.jsonl").write_text('{"key": "a", "value": 1}\n{"key": "b"}\n')
    report = await load_file(target.kv, folder / "broken.jsonl", on_error="collect")
    print(f"{report.loaded} loaded, {report.failed} refused: {report.errors[0]}")


if __name__ == "__main__":
    asyncio.run(main())
