import asyncio
import statistics
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter

from polymem.core.batch import Batcher

ROUND_TRIP = 100e-6  # seconds; a call and a batch cost the same and no CPU on the server's side
ROUNDS = 7
SECONDS = 0.5
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


async def calls_per_second(submit: Submit, tasks: int) -> float:
    calls = 0
    started = perf_counter()

    async def caller(name: str) -> None:
        nonlocal calls
        while perf_counter() - started < SECONDS:
            await submit(name)
            calls += 1

    await asyncio.gather(*(caller(str(number)) for number in range(tasks)))
    return calls / (perf_counter() - started)


async def measure(tasks: int) -> dict[str, list[float]]:
    ways: dict[str, Callable[[], Submit]] = {
        "unbatched, 1 connection": lambda: unbatched(1),
        f"unbatched, {POOL} connections": lambda: unbatched(POOL),
        "batched, 1 connection": batched,
    }
    figures: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(ROUNDS):
        names = list(ways) if turn % 2 == 0 else list(reversed(ways))
        for name in names:
            figures[name].append(await calls_per_second(ways[name](), tasks))
    return figures


def show(tasks: int, figures: dict[str, list[float]]) -> None:
    *others, (_, best) = figures.items()
    for name, rates in figures.items():
        print(
            f"{tasks:3} tasks  {name:26} {statistics.median(rates):10,.0f} calls/s ({min(rates):,.0f}-{max(rates):,.0f})"
        )
    for name, rates in others:
        ratios = [mine / theirs for mine, theirs in zip(best, rates, strict=True)]
        print(
            f"{tasks:3} tasks  batched / {name:24} {statistics.median(ratios):.2f}x ({min(ratios):.2f}-{max(ratios):.2f})"
        )


def main() -> None:
    print(f"Fake driver, {ROUND_TRIP * 1e6:.0f} us a round trip; median (range) of {ROUNDS} interleaved rounds")
    for tasks in (1, 64):
        show(tasks, asyncio.run(measure(tasks)))


if __name__ == "__main__":
    main()
