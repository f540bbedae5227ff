"""How long other tasks of the event loop wait while the database works.

A task sleeps 1 ms at a time and notes by how much each sleep was too long; a long wait counts once. "Idle" is what the machine does to a loop
that has nothing to do; "other process" is idle beside a process that keeps one processor busy.
"""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from dataset import Dataset, Searches, ingest, load
from report import Figure, arguments, finish

from polymem.engines.sqlite._maintenance import truncate_log
from polymem.engines.sqlite.engine import SqliteEngine
from polymem.jobs.bench_kv import value
from polymem.jobs.measure import Latencies, latencies
from polymem.memory.memory import Memory

P99_MS, MAX_MS = 1.0, 20.0
SECONDS = 4.0
Work = Callable[[], Awaitable[object]]


class Lag:
    """Notes the lag of the running loop while its block runs."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def _watch(self) -> None:
        while True:
            before = perf_counter()
            await asyncio.sleep(0.001)
            self.seconds.append(perf_counter() - before - 0.001)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        await asyncio.sleep(0.05)
        task = asyncio.create_task(self._watch())
        await asyncio.sleep(0)
        try:
            yield
        finally:
            await asyncio.sleep(0.002)  # what is late may show
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def during(work: Work, *, at_least: float = SECONDS) -> Latencies:
    """The lag while `work` runs, again and again for so many seconds."""
    lag, started = Lag(), perf_counter()
    async with lag.watching():
        while True:
            await work()
            if perf_counter() - started > at_least:
                break
    return latencies(lag.seconds)


async def many(call: Callable[[int], Awaitable[Any]], *, tasks: int = 4, each: int = 25) -> None:
    """Several tasks that each make some calls."""

    async def one(first: int) -> None:
        for number in range(first, first + each):
            await call(number)

    await asyncio.gather(*(one(task * each) for task in range(tasks)))


async def situations(memory: Memory, dataset: Dataset, folder: Path) -> dict[str, Latencies]:
    engine, asked = memory.store.engine, dataset.questions
    assert isinstance(engine, SqliteEngine)
    searches = Searches(memory, (await memory.stats())["memories"])
    copies = iter(range(1_000_000))
    writing = memory.store.namespace("writes").kv

    async def add(number: int) -> None:
        await memory.session(f"new {number % 8}").add("user", f"{number} {asked[number % len(asked)]}", speaker="Ada")

    async def checkpoint() -> None:
        for first in range(0, 2000, 50):  # few at a time: it is not this benchmark that should hold up the loop
            await writing.put_many({f"k{n}": value(next(copies)) for n in range(first, first + 50)})
        await engine._runner.unbatched(truncate_log)

    async def backup() -> None:
        target = folder / "backup.db"
        await engine.backup(target)
        target.unlink()

    def ask(search: Callable[[str], Awaitable[object]]) -> Work:
        return lambda: many(lambda number: search(asked[number % len(asked)]))

    def get(number: int) -> Awaitable[object]:
        return writing.get(f"k{number % 2000}")

    def put(number: int) -> Awaitable[object]:
        return writing.put(f"k{number % 2000}", value(next(copies)))

    first = await first_recall(memory, asked[0])
    works: dict[str, Work] = {
        "ingest, add_many": lambda: ingest(memory, dataset, 2000),
        "ingest, add by 4 tasks": lambda: many(add),
        "full-text search by 4 tasks": ask(searches.wide_text),
        "whole recall by 4 tasks": ask(searches.recall),
        "writes and checkpoints": checkpoint,
        "backup": backup,
        "64 tasks that get": lambda: many(get, tasks=64, each=200),
        "64 tasks that put": lambda: many(put, tasks=64),
    }
    if searches.has_vectors:
        works["vector search by 4 tasks"] = ask(searches.vector)
    return {
        "first recall, which loads the indexes": first,
        **{name: await during(work) for name, work in works.items()},
    }


async def first_recall(memory: Memory, question: str) -> Latencies:
    lag = Lag()
    async with lag.watching():
        await memory.recall(question)
    return latencies(lag.seconds)


BARRED = ("ingest", "full-text", "writes and checkpoints")


def figures(name: str, lag: Latencies) -> list[Figure]:
    barred = name.startswith(BARRED)
    return [
        Figure(f"{name}: p50", lag.p50, "ms"),
        Figure(f"{name}: p99", lag.p99, "ms", at_most=P99_MS if barred else None),
        Figure(f"{name}: max", lag.max, "ms", at_most=MAX_MS if barred else None),
    ]


async def main() -> None:
    parser = arguments(__doc__, rounds=None)
    parser.add_argument("dataset", type=Path, nargs="?", help="LoCoMo file or BEAM folder; made-up words without one")
    parser.add_argument("--turns", type=int, default=20_000, help="stored before anything is measured (%(default)s)")
    parser.add_argument("--collect", action="store_true", help="leave start-up's objects to the garbage collector")
    options = parser.parse_args()
    dataset = load(options.dataset)
    lags = {"idle": await during(lambda: asyncio.sleep(SECONDS))}
    with TemporaryDirectory(dir=options.folder) as name:
        url = f"sqlite:///{Path(name, 'lag.db')}"
        async with Memory.open(url) as memory:
            await ingest(memory, dataset, options.turns)
        async with Memory.open(url) as memory:
            if not options.collect:
                gc.collect()
                gc.freeze()
            lags |= await situations(memory, dataset, Path(name))
    lags["idle again"] = await during(lambda: asyncio.sleep(SECONDS))
    title = f"Event loop lag, {options.turns:,} turns"
    finish(title, [figure for situation, lag in lags.items() for figure in figures(situation, lag)], options)


if __name__ == "__main__":
    asyncio.run(main())
