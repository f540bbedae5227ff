"""Puts on a JSON file, durable, by the number of records in it, beside the memory engine.

Every save writes the whole file, so the rate falls with its size. A put of one task is a save of its own (an fsync of
the new file, a rename, an fsync of the folder); puts of many tasks share saves. Values are JSON of about 200 bytes.
The memory engine's rate over that of one task is the bar of KV-7.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from report import Figure, arguments, finish

import polymem
from polymem.jobs.bench_kv import value
from polymem.jobs.measure import interleaved, ratios, spread, throughput
from polymem.store import Store

BAR = 100.0
TASKS = 64


def put(store: Store, records: int) -> Callable[[int], Awaitable[Any]]:
    """Overwrites one record after another, so that their number stays."""
    numbers = itertools.count(records)
    return lambda number: store.kv.put(f"key:{number % records}", value(next(numbers)))


async def fill(store: Store, records: int) -> None:
    await store.kv.put_many({f"key:{number}": value(number) for number in range(records)})


async def compare(folder: Path, records: int, options: Any) -> list[Figure]:
    path = folder / f"{records}.json"
    async with (
        polymem.open(f"file://{path}", sweep_every=None) as file,
        polymem.open("memory:", sweep_every=None) as memory,
    ):
        await fill(file, records)
        await fill(memory, records)
        sides: dict[str, Callable[[], Awaitable[float]]] = {
            "json_file, 1 task": partial(throughput, put(file, records), tasks=1, seconds=options.seconds),
            f"json_file, {TASKS} tasks": partial(throughput, put(file, records), tasks=TASKS, seconds=options.seconds),
            "memory, 1 task": partial(throughput, put(memory, records), tasks=1, seconds=options.seconds),
        }
        found = await interleaved(sides, options.rounds)
    one, many, fast = found.values()
    name = f"{records:,} records"
    return [
        Figure(f"{name}: size of the file", path.stat().st_size / 1e6, "MB"),
        *(Figure(f"{name}: {side}", spread(rates), "puts/s") for side, rates in found.items()),
        Figure(f"{name}: {TASKS} tasks / 1 task", ratios(many, one), "x"),
        Figure(f"{name}: memory / json_file, 1 task", ratios(fast, one), "x", at_least=BAR),
    ]


async def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each side in each round (%(default)s)")
    parser.add_argument("--records", type=int, nargs="+", default=[100, 1000, 10_000])
    options = parser.parse_args()
    figures: list[Figure] = []
    with TemporaryDirectory(dir=options.folder) as name:
        for records in options.records:
            figures += await compare(Path(name), records, options)
    finish("A JSON file, durable puts", figures, options)


if __name__ == "__main__":
    asyncio.run(main())
