"""How long other tasks of the event loop wait while the database works.

A task sleeps 1 ms at a time and notes by how much each sleep was too long; a long wait counts once. "Idle" is what the machine does to a loop
that has nothing to do; "idle, a thread calls" is what the loop itself adds when results come in from threads.

The loop waits with `select`, whose timeouts are microseconds. Those of `epoll`, asyncio's default on Linux, are whole
milliseconds: after any event the rest of a sleep is rounded up, by as much as 1 ms whatever caused the event
(`--epoll` shows it).

On a busy machine the loop's thread waits for a processor like any other, which Linux counts: "p99 without waits for a
processor" leaves that out, also where it is threads of this very process that the loop waited for.
"""

import asyncio
import gc
import selectors
import threading
import time
from argparse import Namespace
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, NamedTuple

from dataset import Dataset, Searches, ingest, load
from report import Figure, arguments, finish

from polymem.engines.sqlite._maintenance import truncate_log
from polymem.engines.sqlite.engine import SqliteEngine
from polymem.jobs.bench_kv import value
from polymem.jobs.measure import Latencies, latencies
from polymem.memory.memory import Memory

P99_MS, MAX_MS = 1.0, 20.0
SCHEDSTAT = Path("/proc/thread-self/schedstat")
SECONDS = 4.0
Work = Callable[[], Awaitable[object]]


class Measured(NamedTuple):
    """The lag, and what of it was not spent waiting for a processor: for the interpreter lock, or for other tasks."""

    whole: Latencies
    ours: Latencies


def waited_for_processor() -> float:
    """Seconds that this thread was ready to run and another ran; 0 where the system does not say."""
    return int(SCHEDSTAT.read_bytes().split()[1]) / 1e9 if SCHEDSTAT.exists() else 0.0


class Lag:
    """Notes the lag of the running loop while its block runs."""

    def __init__(self) -> None:
        self._all: list[float] = []
        self._ours: list[float] = []

    async def _watch(self) -> None:
        while True:
            before, waited = perf_counter(), waited_for_processor()
            await asyncio.sleep(0.001)
            late = perf_counter() - before - 0.001
            self._all.append(late)
            self._ours.append(max(0.0, late - (waited_for_processor() - waited)))

    def measured(self) -> Measured:
        return Measured(latencies(self._all), latencies(self._ours))

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


async def during(work: Work, *, at_least: float = SECONDS) -> Measured:
    """The lag while `work` runs, again and again for so many seconds."""
    lag, started = Lag(), perf_counter()
    async with lag.watching():
        while True:
            await work()
            if perf_counter() - started > at_least:
                break
    return lag.measured()


async def many(call: Callable[[int], Awaitable[Any]], *, tasks: int = 4, each: int = 25) -> None:
    """Several tasks that each make some calls."""

    async def one(first: int) -> None:
        for number in range(first, first + each):
            await call(number)

    await asyncio.gather(*(one(task * each) for task in range(tasks)))


@asynccontextmanager
async def a_thread_that_calls() -> AsyncIterator[None]:
    """A thread that wakes the loop for nothing, about as often as results of a database come in."""
    loop, stop = asyncio.get_running_loop(), threading.Event()

    def call() -> None:
        while not stop.is_set():
            time.sleep(0.0007)
            loop.call_soon_threadsafe(int)

    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


async def situations(memory: Memory, dataset: Dataset, folder: Path) -> dict[str, Measured]:
    engine, asked = memory.store.engine, dataset.questions
    assert isinstance(engine, SqliteEngine)
    searches = Searches(memory, (await memory.stats())["memories"])
    copies = iter(range(1_000_000))
    sessions = list(dataset.sessions(2000))
    writing = memory.store.namespace("writes").kv

    async def add(number: int) -> None:
        await memory.session(f"new {number % 8}").add("user", f"{number} {asked[number % len(asked)]}", speaker="Ada")

    async def add_sessions() -> None:
        for session, turns in sessions:
            await memory.session(session).add_many(turns)

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
        "ingest, add_many": add_sessions,
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


async def first_recall(memory: Memory, question: str) -> Measured:
    lag = Lag()
    async with lag.watching():
        await memory.recall(question)
    return lag.measured()


BARRED = ("ingest", "full-text", "writes and checkpoints")


def figures(name: str, lag: Measured) -> list[Figure]:
    barred = name.startswith(BARRED)
    return [
        Figure(f"{name}: p50", lag.whole.p50, "ms"),
        Figure(f"{name}: p99", lag.whole.p99, "ms", at_most=P99_MS if barred else None),
        Figure(f"{name}: max", lag.whole.max, "ms", at_most=MAX_MS if barred else None),
        Figure(f"{name}: p99 without waits for a processor", lag.ours.p99, "ms"),
    ]


async def main(options: Namespace) -> None:
    dataset = load(options.dataset)
    lags = {"idle": await during(lambda: asyncio.sleep(SECONDS))}
    async with a_thread_that_calls():
        lags["idle, a thread calls"] = await during(lambda: asyncio.sleep(SECONDS))
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


def new_loop(options: Namespace) -> asyncio.AbstractEventLoop:
    selector = selectors.DefaultSelector if options.epoll else selectors.SelectSelector
    return asyncio.SelectorEventLoop(selector())


def parsed() -> Namespace:
    parser = arguments(__doc__, rounds=None)
    parser.add_argument("dataset", type=Path, nargs="?", help="LoCoMo file or BEAM folder; made-up words without one")
    parser.add_argument("--turns", type=int, default=20_000, help="stored before anything is measured (%(default)s)")
    parser.add_argument("--collect", action="store_true", help="leave start-up's objects to the garbage collector")
    parser.add_argument("--epoll", action="store_true", help="with asyncio's default selector")
    return parser.parse_args()


if __name__ == "__main__":
    given = parsed()
    with asyncio.Runner(loop_factory=lambda: new_loop(given)) as runner:
        runner.run(main(given))
