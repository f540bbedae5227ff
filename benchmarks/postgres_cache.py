"""What a near cache over PostgreSQL saves those who read, and what it costs those who write.

"noted" is a database whose writes are noted because somebody has a cache there, "plain" one where nobody has. Eight stores
put one value after the other, each with commits of its own: where these waited for each other, it would show. Starts a
server itself, which syncs each commit, unless --url is given.
"""

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from report import Figure, arguments, finish
from server_kv import Calls, given_or, measure, own_postgres

import polymem
from polymem.jobs.bench_kv import value
from polymem.jobs.measure import ratios, spread
from polymem.store import Store

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from servers.postgres import run_sql

KEYS, MANY, STORES = 1000, 1000, 8
WORK = {
    "get": (1, 64),
    "put": (1, 64),
    "put, each task with a store of its own": (STORES,),
    "put_many of 1000": (1,),
}


async def compare(url: str, options: Any) -> list[Figure]:
    figures: list[Figure] = []
    async with AsyncExitStack() as stack:
        sides = {side: await opened(stack, url, side) for side in ("noted", "plain")}
        for operation, crowds in WORK.items():
            for tasks in crowds:
                found = await measure(sides, operation, tasks, options)
                what = f"{operation}, {tasks} task{'s' * (tasks > 1)}"
                figures += [Figure(f"{what}: {side}", spread(rates), "calls/s") for side, rates in found.items()]
                figures.append(Figure(f"{what}: noted / plain", ratios(found["noted"], found["plain"]), "x"))
    return figures


async def opened(stack: AsyncExitStack, url: str, side: str) -> Calls:
    """Those who write have no cache themselves."""
    where = database(url, f"bench_cache_{side}")
    stores = [await stack.enter_async_context(polymem.open(where, sweep_every=None)) for _ in range(STORES)]
    reader = stores[0]
    if side == "noted":
        reader = await stack.enter_async_context(polymem.open(where, sweep_every=None, cache=True))
    await reader.kv.put_many({f"key:{number}": value(number) for number in range(KEYS)})
    return calls(stores, reader)


def calls(stores: list[Store], reader: Store) -> Calls:
    many = {f"many:{number}": value(number) for number in range(MANY)}
    first = stores[0]
    return {
        "get": lambda number: reader.kv.get(f"key:{number % KEYS}"),
        "put": lambda number: first.kv.put(f"put:{number % KEYS}", value(number)),
        "put, each task with a store of its own": lambda number: stores[number % STORES].kv.put(
            f"own:{number % KEYS}", value(number)
        ),
        "put_many of 1000": lambda _: first.kv.put_many(many),
    }


def database(url: str, name: str) -> str:
    for statement in (f"drop database if exists {name} with (force)", f"create database {name}"):
        run_sql(url, statement)
    return urlsplit(url)._replace(path=f"/{name}").geturl()


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each side in each round (%(default)s)")
    parser.add_argument("--url", help="a PostgreSQL server; its databases bench_cache_... are made anew")
    options = parser.parse_args()
    with given_or(options.url, lambda: own_postgres("bench-cache", "fsync=on", "synchronous_commit=on")) as url:
        figures = asyncio.run(compare(url, options))
    finish("PostgreSQL near cache", figures, options)


if __name__ == "__main__":
    main()
