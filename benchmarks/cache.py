"""A hit of the near cache against an inline SQLite get, and what a cache costs the puts.

"strict" asks the file in every turn of the loop whether another process has written; "10 ms" (`max_staleness`) a hundred
times a second; "alone" never. "plain" is the same store without a cache, over SQLite and over a compressed one (10 kB values).
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from report import Figure, arguments, finish

import polymem
from polymem.jobs.bench_kv import value
from polymem.jobs.measure import interleaved, ratios, spread, throughput
from polymem.layers.cache import CachePolicy
from polymem.store import Store

KEYS = 1000
ALONE = float("inf")
POLICIES = {
    "plain": None,
    "strict": CachePolicy(),
    "10 ms": CachePolicy(max_staleness=0.01),
    "alone": CachePolicy(max_staleness=ALONE),
    "alone, lfu": CachePolicy(kind="lfu", max_staleness=ALONE),
    "alone, ttl": CachePolicy(kind="ttl", ttl=600, max_staleness=ALONE),
    "write-back": CachePolicy(mode="write_back", max_staleness=ALONE),
}


def large(number: int) -> Any:
    return {"number": number, "text": f"the same words again, number {number}. " * 250}


async def compare(folder: Path, options: Any, name: str, payload: Callable[[int], Any], **layers: Any) -> list[Figure]:
    figures: list[Figure] = []
    async with AsyncExitStack() as stack:
        stores: dict[str, Store] = {}
        for number, (side, policy) in enumerate(POLICIES.items()):
            url = f"sqlite:///{folder / f'{name[:3]}{number}.db'}"
            opened = polymem.open(url, sweep_every=None, cache=policy, **layers)
            stores[side] = await stack.enter_async_context(opened)
            await stores[side].kv.put_many({f"key:{n}": payload(n) for n in range(KEYS)})
        for operation, tasks in itertools.product(("get", "put"), options.tasks):
            calls = {side: call(store, operation, payload) for side, store in stores.items()}
            found = await interleaved(
                {side: partial(throughput, one, tasks=tasks, seconds=options.seconds) for side, one in calls.items()},
                options.rounds,
            )
            what = f"{name}, {operation}, {tasks} task{'s' * (tasks > 1)}"
            figures += [Figure(f"{what}: {side}", spread(rates), "calls/s") for side, rates in found.items()]
            figures += [
                Figure(f"{what}: {side} / plain", ratios(rates, found["plain"]), "x")
                for side, rates in found.items() if side != "plain"
            ]  # fmt: skip
        for side, store in stores.items():
            if POLICIES[side] is not None:
                assert (store.cache.statistics().hit_rate or 0) > 0.9, side
    return figures


def call(store: Store, operation: str, payload: Callable[[int], Any]) -> Callable[[int], Awaitable[Any]]:
    if operation == "get":
        return lambda number: store.kv.get(f"key:{number % KEYS}")
    fresh = itertools.count(KEYS)
    return lambda number: store.kv.put(f"key:{number % KEYS}", payload(next(fresh)))


async def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=0.2, help="of each side in each round (%(default)s)")
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 64])
    options = parser.parse_args()
    with TemporaryDirectory(dir=options.folder) as folder:
        figures = await compare(Path(folder), options, "200 bytes", value)
        figures += await compare(Path(folder), options, "10 kB compressed", large, compression=True)
    finish("Near cache over SQLite", figures, options)


if __name__ == "__main__":
    asyncio.run(main())
