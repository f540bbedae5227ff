"""What the benchmarks of key-value servers share: servers of their own, one task against a held connection, and 64
against the best pool.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from report import Figure

from polymem.jobs.measure import interleaved, ratios, spread, throughput

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
SLACK = 3e-6  # seconds that one call may take beyond a tenth
TURNS = 1.2
Call = Callable[[int], Awaitable[Any]]
Calls = dict[str, Call]


async def alone(operation: str, mine: Calls, theirs: Calls, options: Any) -> list[Figure]:
    """Seconds a call, so that the bar can say what they may be beyond the driver's."""
    found = await measure({"polymem": mine, "held": theirs}, operation, 1, options)
    times = {side: [1 / rate for rate in rates] for side, rates in found.items()}
    slack = 0.0 if operation == "turn" else SLACK
    share = spread((ours - slack) / raw for ours, raw in zip(times["polymem"], times["held"], strict=True))
    bar = TURNS if operation == "turn" else 1.1
    lines = [
        Figure(f"{operation}, 1 task: {side}", spread(t * 1e6 for t in some), "us") for side, some in times.items()
    ]
    less = "" if operation == "turn" else " less 3 us"
    return [*lines, Figure(f"{operation}, 1 task: polymem{less} / held", share, "x", at_most=bar)]


async def crowded(
    operation: str, mine: Calls, rivals: dict[str, Calls], options: Any, *, at_least: float | None
) -> list[Figure]:
    found = await measure({"polymem": mine, **rivals}, operation, 64, options)
    lines = [Figure(f"{operation}, 64 tasks: {side}", spread(rates), "calls/s") for side, rates in found.items()]
    best = [max(rates) for rates in zip(*(found[side] for side in rivals), strict=True)]
    ratio = ratios(found["polymem"], best)
    return [*lines, Figure(f"{operation}, 64 tasks: polymem / the better of them", ratio, "x", at_least=at_least)]


async def measure(sides: dict[str, Calls], operation: str, tasks: int, options: Any) -> dict[str, list[float]]:
    calls = {
        side: partial(throughput, calls[operation], tasks=tasks, seconds=options.seconds)
        for side, calls in sides.items()
    }
    return await interleaved(calls, options.rounds)


def on_own_postgres(name: str, measured: Callable[[str, Any], Any], options: Any, *settings: str) -> list[Figure]:
    """The figures that `measured` takes on a server of its own, which has the settings given."""
    with own_postgres(name, *settings) as url:
        figures: list[Figure] = asyncio.run(measured(url, options))
    return figures


@contextmanager
def own_postgres(name: str, *settings: str) -> Iterator[str]:
    """The URL of a server that stops at the end; `servers.Absent` where this machine cannot have one."""
    from servers._process import cache_folder
    from servers.postgres import PostgresServer, remove

    folder = cache_folder() / name
    remove(folder)
    server = PostgresServer(folder, *settings)
    try:
        yield server.url
    finally:
        server.stop()
        remove(folder)


@contextmanager
def own_redis(*, cluster: bool = False) -> Iterator[str]:
    """The same, without persistence; a Cluster has an append-only file, and a replica of each of three primaries."""
    from servers._process import free_ports
    from servers.redis import RedisCluster, RedisServer

    with TemporaryDirectory() as folder:
        server = RedisCluster(Path(folder)) if cluster else RedisServer(Path(folder), free_ports()[0])
        try:
            yield server.url
        finally:
            server.kill()
