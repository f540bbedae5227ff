"""What the benchmarks of key-value servers share: servers of their own, one task against a held connection, and 64
against the best pool.
"""

import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from report import Figure

from polymem.jobs.measure import interleaved, ratios, spread, throughput

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from servers._process import cache_folder, free_ports
from servers.postgres import PostgresServer, remove
from servers.redis import RedisCluster, RedisServer

SLACK = 3e-6  # seconds that one call may take beyond a tenth
TURNS = 1.2
Call = Callable[[int], Awaitable[Any]]
Calls = dict[str, Call]


async def alone(operation: str, mine: Calls, rivals: dict[str, Calls], options: Any) -> list[Figure]:
    """Seconds a call, so that the bar, which the first rival has, can say what they may be beyond the driver's."""
    found = await measure({"polymem": mine, **rivals}, operation, 1, options)
    times = {side: [1 / rate for rate in rates] for side, rates in found.items()}
    slack, less, bar = (0.0, "", TURNS) if operation == "turn" else (SLACK, " less 3 us", 1.1)
    figures = [
        Figure(f"{operation}, 1 task: {side}", spread(t * 1e6 for t in some), "us") for side, some in times.items()
    ]
    for side in rivals:
        share = spread((ours - slack) / raw for ours, raw in zip(times["polymem"], times[side], strict=True))
        figures.append(Figure(f"{operation}, 1 task: polymem{less} / {side}", share, "x", at_most=bar))
        bar = None
    return figures


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


def given_or(url: str | None, own: Callable[[], AbstractContextManager[str]]) -> AbstractContextManager[str]:
    """The server that the caller names, or else one of its own."""
    return nullcontext(url) if url else own()


@contextmanager
def own_postgres(name: str, *settings: str) -> Iterator[str]:
    """The URL of a server that stops at the end; `servers.Absent` where this machine cannot have one."""
    with _kept(name, lambda folder: PostgresServer(folder, *settings)) as server:
        yield server.url


@contextmanager
def own_replicated(name: str, *settings: str) -> Iterator[tuple[str, str]]:
    """The URLs of a primary and of its replica, both with these settings."""
    with (
        _kept(name, lambda folder: PostgresServer(folder, *settings)) as primary,
        _kept(f"{name}-replica", lambda folder: primary.replica(folder, *settings)) as replica,
    ):
        yield primary.url, replica.url


@contextmanager
def _kept(name: str, start: Callable[[Path], PostgresServer]) -> Iterator[PostgresServer]:
    folder = cache_folder() / name
    remove(folder)
    server = start(folder)
    try:
        yield server
    finally:
        server.stop()
        remove(folder)


@contextmanager
def own_redis(*, cluster: bool = False) -> Iterator[str]:
    """The same, without persistence; a Cluster has an append-only file, and a replica of each of three primaries."""
    with TemporaryDirectory() as folder:
        server = RedisCluster(Path(folder)) if cluster else RedisServer(Path(folder), free_ports()[0])
        try:
            yield server.url
        finally:
            server.kill()
