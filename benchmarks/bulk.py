"""Bulk work on SQLite: records a second against awaiting one put after the other, and the memory that long loads take.

All sides write distinct JSON values of about 200 bytes, durable. The rounds are interleaved; a ratio is that of one
round. Memory is the peak of a process that does nothing else, at 1,000, 100,000 and 1,000,000 records: bounded means
that ten times the records take no more than a little memory more. `--largest 10000000` goes on to that many, for the
night: some ten minutes and 10 GB of disk.
"""

import asyncio
import itertools
import multiprocessing
import resource
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from report import Figure, arguments, finish, rss_mb

import polymem
from polymem.contracts.bulk import Put
from polymem.jobs.bench_kv import value
from polymem.jobs.bulk import export_file, load_file
from polymem.jobs.measure import interleaved, ratios, spread
from polymem.store import Store

BAR = 10.0
MORE_MB = 64.0
"""What ten times the records may take more: caches that fill up, not the records."""
SIZES, FEW = (1_000, 100_000, 1_000_000, 10_000_000), 100_000
FORMATS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
Side = Callable[[], Awaitable[float]]


class Records:
    """Keys and values that never come twice."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def take(self, count: int) -> list[tuple[str, Any]]:
        return [(f"key:{number:012}", value(number)) for number in itertools.islice(self._numbers, count)]


async def rate(work: Callable[[], Awaitable[object]], count: int) -> float:
    started = perf_counter()
    await work()
    return count / (perf_counter() - started)


def sides(store: Store, records: Records, files: Path, options: Any) -> dict[str, Side]:
    kv, count = store.kv, options.records

    async def sequential() -> float:
        rows = records.take(options.sequential)

        async def work() -> None:
            for key, content in rows:
                await kv.put(key, content)

        return await rate(work, len(rows))

    async def bulk(*, expiring: bool = False) -> float:
        rows = records.take(count)
        given = [(*row, 1e6 + number) for number, row in enumerate(rows)] if expiring else rows
        return await rate(lambda: kv.bulk_load(given), count)

    async def batch() -> float:
        operations = [Put(*row) for row in records.take(count)]
        return await rate(lambda: kv.batch_write(operations), count)

    async def file(suffix: str) -> float:
        source = files / f"next{suffix}"
        async with polymem.open("memory:") as other:
            await other.kv.bulk_load(records.take(count))
            await export_file(other.kv, source, overwrite=True)
        return await rate(lambda: load_file(kv, source), count)

    return {
        "one put after the other": sequential,
        "bulk_load": bulk,
        "bulk_load, each its own expiry": partial(bulk, expiring=True),
        "batch_write": batch,
        **{f"load_file {suffix}": partial(file, suffix) for suffix in FORMATS},
    }


async def compare(folder: Path, options: Any) -> list[Figure]:
    async with polymem.open(f"sqlite:///{folder / 'compare.db'}", sweep_every=None) as store:
        found = await interleaved(sides(store, Records(), folder, options), options.rounds)
        out = await exports(store, folder, options)
    slow = found["one put after the other"]
    figures = [Figure(name, spread(measured), "records/s") for name, measured in found.items()]
    for name, measured in found.items():
        if measured is not slow:
            bar = None if name == "batch_write" else BAR
            figures.append(Figure(f"{name} / one put after the other", ratios(measured, slow), "x", at_least=bar))
    return figures + out


async def exports(store: Store, folder: Path, options: Any) -> list[Figure]:
    async def export(suffix: str) -> float:
        report = await export_file(store.kv, folder / f"out{suffix}", prefix="key:0000000", overwrite=True)
        return report.exported / report.seconds

    found = await interleaved({suffix: partial(export, suffix) for suffix in FORMATS}, options.rounds)
    return [Figure(f"export_file {suffix}", spread(measured), "records/s") for suffix, measured in found.items()]


def endless(count: int) -> Iterator[tuple[str, Any]]:
    return ((f"key:{number:012}", value(number)) for number in range(count))


async def long_work(kind: str, folder: Path, count: int) -> None:
    async with polymem.open(f"sqlite:///{folder / 'long.db'}", sweep_every=None) as store:
        if kind == "bulk_load":
            await store.kv.bulk_load(endless(count))
        elif kind.startswith("export_file"):
            await export_file(store.kv, folder / f"long{kind.split()[1]}", overwrite=True)
        else:
            await load_file(store.namespace(kind).kv, folder / f"long{kind.split()[1]}")


def peak_of(kind: str, folder: Path, count: int) -> tuple[float, float]:
    """Seconds, and the peak of resident memory in MB of this process."""
    started = perf_counter()
    asyncio.run(long_work(kind, folder, count))
    took = perf_counter() - started
    if not Path("/proc/self/status").exists():
        return took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return took, rss_mb(what="VmHWM")


def memory(folder: Path, options: Any) -> list[Figure]:
    figures, least = [], {}
    kinds = ["bulk_load", *(f"{verb}_file {s}" for s in (".jsonl.zst", ".parquet") for verb in ("export", "load"))]
    for count in (size for size in SIZES if size <= options.largest):
        with TemporaryDirectory(dir=folder) as name:
            for kind in kinds:
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    took, peak = pool.apply(peak_of, (kind, Path(name), count))
                bar = least[kind] + MORE_MB if kind in least else None
                if count == FEW:  # smaller ones say what a process takes that does next to nothing
                    least[kind] = peak
                figures += [
                    Figure(f"{count:,} records, {kind}: peak memory", peak, "MB", at_most=bar),
                    Figure(f"{count:,} records, {kind}", count / took, "records/s"),
                ]
    return figures


async def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--records", type=int, default=20_000, help="of a bulk side in a round (%(default)s)")
    parser.add_argument("--sequential", type=int, default=2_000, help="puts in a round (%(default)s)")
    parser.add_argument("--largest", type=int, default=1_000_000, help="records to measure memory at (%(default)s)")
    parser.add_argument("--no-speed", action="store_true", help="only the memory")
    parser.add_argument("--no-memory", action="store_true", help="only the comparison")
    options = parser.parse_args()
    with TemporaryDirectory(dir=options.folder) as name:
        figures = [] if options.no_speed else await compare(Path(name), options)
        if not options.no_memory:
            figures += await asyncio.to_thread(memory, Path(name), options)
    finish("Bulk work on SQLite, durable", figures, options)


if __name__ == "__main__":
    asyncio.run(main())
