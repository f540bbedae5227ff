"""The batcher over a fake driver whose round trip, of a call or of a batch, takes 100 us and no processor of the server's."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any

from report import Figure, arguments, finish

from polymem.core.batch import Batcher
from polymem.jobs.measure import interleaved, ratios, spread, throughput

ROUND_TRIP = 100e-6  # seconds
POOL = 10

Submit = Callable[[str], Awaitable[str]]


async def one(item: str) -> str:
    ends = perf_counter() + ROUND_TRIP
    while perf_counter() < ends:  # timers of an event loop are too coarse for 100 us
        await asyncio.sleep(0)
    return item


async def many(items: Sequence[str]) -> Sequence[str]:
    await one("")
    return items


def unbatched(connections: int) -> Submit:
    free = asyncio.Semaphore(connections)

    async def submit(item: str) -> str:
        async with free:
            return await one(item)

    return submit


def batched() -> Submit:
    return Batcher(one, many, size=len).submit


async def calls_per_second(way: Callable[[], Submit], tasks: int, seconds: float) -> float:
    submit = way()
    return await throughput(lambda number: submit(str(number)), tasks=tasks, seconds=seconds)


async def measure(tasks: int, options: Any) -> list[Figure]:
    ways: dict[str, Callable[[], Submit]] = {
        "batched, 1 connection": batched,
        "unbatched, 1 connection": lambda: unbatched(1),
        f"unbatched, {POOL} connections": lambda: unbatched(POOL),
    }
    sides = {name: partial(calls_per_second, way, tasks, options.seconds) for name, way in ways.items()}
    found = await interleaved(sides, options.rounds)
    what, (mine, *others) = f"{tasks} task{'s' * (tasks > 1)}", ways
    return [
        *(Figure(f"{what}: {name}", spread(rates), "calls/s") for name, rates in found.items()),
        *(Figure(f"{what}: {mine} / {other}", ratios(found[mine], found[other]), "x") for other in others),
    ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each side in each round (%(default)s)")
    options = parser.parse_args()
    figures = [figure for tasks in (1, 64) for figure in asyncio.run(measure(tasks, options))]
    finish("Batcher", figures, options)


if __name__ == "__main__":
    main()
