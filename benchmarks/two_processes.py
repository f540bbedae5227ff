"""Two processes with 16 tasks each on one file: errors, lost updates, and how long the slower one waits for a put."""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from report import Figure, arguments, finish

import polymem
from polymem.errors import StorageConflictError, StorageError
from polymem.jobs.bench_kv import value
from polymem.jobs.measure import Latencies, latencies, spread
from polymem.store import Store

TASKS, COUNTERS = 16, 4


class Worker:
    """One of the two processes."""

    def __init__(self, store: Store, name: str, seconds: float) -> None:
        self.store, self.name, self.seconds = store, name, seconds
        self.took: list[float] = []
        self.errors: list[str] = []
        self.increments = [0] * COUNTERS
        self.conflicts = 0

    async def put(self, task: int, until: float) -> None:
        number = 0
        while time.time() < until:
            number += 1
            started = perf_counter()
            try:
                await self.store.kv.put(f"{self.name}:{task}:{number % 500}", value(number))
            except StorageError as error:
                self.errors.append(f"put {type(error).__name__}: {error}")
            else:
                self.took.append(perf_counter() - started)

    async def increment(self, task: int, until: float) -> None:
        counter = task % COUNTERS
        while time.time() < until:
            try:
                entry = await self.store.kv.entry(f"counter:{counter}")
                assert entry is not None
                await self.store.kv.compare_and_set(entry.key, entry.version, entry.value + 1)
            except StorageConflictError:
                self.conflicts += 1
            except StorageError as error:
                self.errors.append(f"compare_and_set {type(error).__name__}: {error}")
            else:
                self.increments[counter] += 1

    async def run(self, start: float) -> None:
        """Both phases, begun and ended at the same times in both processes."""
        for phase, work in enumerate((self.put, self.increment)):
            begin = start + phase * (self.seconds + 0.5)
            await asyncio.sleep(max(0.0, begin - time.time()))
            await asyncio.gather(*(work(task, begin + self.seconds) for task in range(TASKS)))


async def worker(path: str, name: str, start: str, seconds: str) -> None:
    async with polymem.open(f"sqlite:///{path}") as store:
        one = Worker(store, name, float(seconds))
        await one.run(float(start))
        done = {"took": one.took, "errors": one.errors, "increments": one.increments, "conflicts": one.conflicts}
        print(json.dumps(done))


async def one_round(path: Path, seconds: float) -> dict[str, Any]:
    """Two processes at once; the counters afterwards."""
    names = [f"counter:{number}" for number in range(COUNTERS)]
    async with polymem.open(f"sqlite:///{path}") as store:
        await store.kv.put_many(dict.fromkeys(names, 0))
    command = [sys.executable, __file__, "--worker", str(path)]
    start = time.time() + 2.0  # both are up by then
    running = [
        subprocess.Popen([*command, name, str(start), str(seconds)], stdout=subprocess.PIPE) for name in ("a", "b")
    ]
    workers = [json.loads((await asyncio.to_thread(one.communicate))[0]) for one in running]
    async with polymem.open(f"sqlite:///{path}") as store:
        found = await store.kv.get_many(names)
        health = await store.check()
    said = [sum(column) for column in zip(*(one["increments"] for one in workers), strict=True)]
    latency: list[Latencies] = [latencies(one["took"]) for one in workers]
    return {
        "errors": [error for one in workers for error in one["errors"]] + list(health.problems),
        "lost": sum(abs(count - found[name]) for name, count in zip(names, said, strict=True)),
        "increments": sum(said) / seconds,
        "conflicts": sum(one["conflicts"] for one in workers),
        "p99": max(one.p99 for one in latency),
        "p50": max(one.p50 for one in latency),
        "max": max(one.max for one in latency),
        "slower": min(one.calls for one in latency) / seconds,
        "puts": sum(one.calls for one in latency) / seconds,
    }


async def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        await worker(*sys.argv[2:6])
        return
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each phase (%(default)s)")
    options = parser.parse_args()
    rounds = []
    for _ in range(options.rounds):
        with TemporaryDirectory(dir=options.folder) as name:
            rounds.append(await one_round(Path(name, "shared.db"), options.seconds))
    errors = [error for one in rounds for error in one["errors"]]
    figures = [
        Figure("errors", len(errors), at_most=0),
        Figure("increments lost or doubled", sum(one["lost"] for one in rounds), at_most=0),
        Figure("put p99 of the slower process", spread(one["p99"] for one in rounds), "ms", at_most=50),
        Figure("put p50 of the slower process", spread(one["p50"] for one in rounds), "ms"),
        Figure("put, longest", spread(one["max"] for one in rounds), "ms"),
        Figure("puts of both", spread(one["puts"] for one in rounds), "calls/s"),
        Figure("puts of the slower process", spread(one["slower"] for one in rounds), "calls/s"),
        Figure("increments by compare_and_set of both", spread(one["increments"] for one in rounds), "calls/s"),
        Figure("conflicts, each tried again", spread(one["conflicts"] for one in rounds)),
    ]
    for error in sorted(set(errors)):
        print(error)
    finish(f"Two processes, {TASKS} tasks each, one file", figures, options)


if __name__ == "__main__":
    asyncio.run(main())
