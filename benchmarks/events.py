"""What watching, listening and hooks cost, and how soon a change is seen. SQLite, durable puts of about 200 bytes.

"nobody" is a store that nobody watches or listens to. "watched" has a reader that keeps up, "once watched" one that
has gone: the log is written all the same. "another namespace watched" writes where nobody reads. Every other side has one
listener or hook on puts (`on`, `use`). The processor time of a put, of all threads and the reader, says more than calls a
second on a machine whose disk is busy.
"""

import asyncio
import itertools
import subprocess
import sys
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time, time
from typing import Any

from report import Figure, arguments, finish

import polymem
from polymem.jobs.bench_kv import value
from polymem.jobs.measure import interleaved, latencies, ratios, spread, throughput
from polymem.store import Store

KEYS = 5000
WRITER = """
import asyncio, sys, time, polymem
async def main():
    async with polymem.open(sys.argv[1], sweep_every=None) as store:
        for number in range(int(sys.argv[2])):
            await store.kv.put(f"{number}", time.time())
            await asyncio.sleep(0.01)
asyncio.run(main())
"""


async def follow(store: Store) -> None:
    async for _ in store.kv.watch():
        pass


async def unchanged(_: Any) -> None:
    """A hook that does nothing."""


async def heard(_: Any) -> None:
    """A listener that does nothing."""


async def open_sides(stack: AsyncExitStack, folder: Path) -> dict[str, Store]:
    names = ("nobody", "watched", "once watched", "another namespace watched", "on", "use")
    stores = {
        name: await stack.enter_async_context(polymem.open(f"sqlite:///{folder / name}.db", sweep_every=None))
        for name in names
    }
    reader = asyncio.create_task(follow(stores["watched"]))
    stack.callback(reader.cancel)
    await stores["once watched"].kv.watch().__aenter__()
    await stores["another namespace watched"].namespace("other").kv.watch().__aenter__()
    stores["on"].on("after:put", heard)
    stores["use"].use(unchanged)
    return stores


async def costs(stores: dict[str, Store], options: Any) -> list[Figure]:
    fresh, figures = itertools.count(), []

    async def put(store: Store, number: int) -> None:
        await store.kv.put(f"key:{number % KEYS}", value(next(fresh)))

    for tasks in options.tasks:
        busy: dict[str, list[float]] = {name: [] for name in stores}

        async def side(name: str, tasks: int = tasks, busy: dict[str, list[float]] = busy) -> float:
            began, cpu = perf_counter(), process_time()
            rate = await throughput(partial(put, stores[name]), tasks=tasks, seconds=options.seconds)
            busy[name].append(1e6 * (process_time() - cpu) / (rate * (perf_counter() - began)))
            return rate

        rates = await interleaved({name: partial(side, name) for name in stores}, options.rounds)
        for unit, better, found in (("calls/s", "rate", rates), ("us", "processor time", busy)):
            title = f"put, {tasks} tasks, {better}"
            figures += [Figure(f"{title}: {name}", spread(one), unit) for name, one in found.items()]
            others = [name for name in stores if name != "nobody"]
            figures += [Figure(f"{title}: {n} / nobody", ratios(found[n], found["nobody"]), "x") for n in others]
    return figures


async def delays(url: str, changes: int) -> list[Figure]:
    """How long after its put a change is handed to a reader, of this process and of another one."""
    figures = []
    async with polymem.open(url, sweep_every=None) as store:
        watch = await store.kv.watch().__aenter__()
        took = []
        for number in range(changes):
            await asyncio.sleep(0.01)
            began = perf_counter()
            waiting = asyncio.ensure_future(anext(watch))
            await store.kv.put(f"{number}", number)
            await waiting
            took.append(perf_counter() - began)
        figures += figures_of("a change seen in this process", took)
        writer = subprocess.Popen([sys.executable, "-c", WRITER, url, str(changes)])
        took = []
        for _ in range(changes):
            change = await anext(watch)
            took.append(time() - (await store.kv.get(change.key or "", 0.0)))
        writer.wait()
        figures += figures_of("a change of another process seen", took)
    return figures


def figures_of(name: str, took: list[float]) -> list[Figure]:
    found = latencies(took)
    return [Figure(f"{name}: p50", found.p50, "ms"), Figure(f"{name}: p99", found.p99, "ms")]


async def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--seconds", type=float, default=0.3, help="of each side in each round (%(default)s)")
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--changes", type=int, default=200, help="whose delay is measured (%(default)s)")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            figures = await costs(await open_sides(stack, Path(folder)), options)
        figures += await delays(f"sqlite:///{folder}/delays.db", options.changes)
    finish("events", figures, options)


if __name__ == "__main__":
    asyncio.run(main())
