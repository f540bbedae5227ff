"""`polymem bench kv`: how fast key-value calls are on any engine."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from polymem.config import open as open_store
from polymem.contracts.kv import KeyValue
from polymem.core.ids import uuid7
from polymem.jobs.measure import Latencies, latencies, throughput
from polymem.store import Store

TASKS: Final = (1, 16, 64)
_SHOWN: Final = ("mean", "min", "max", "p50", "p95", "p99")
COLUMNS: Final = ("operation", "tasks", "calls/s", "records/s", *_SHOWN, "target", "met")
"""Latencies are in milliseconds."""
OPERATIONS: Final = ("put", "get", "put_many", "get_many")
_KEYS: Final = 2000
Call = Callable[[int], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Target:
    """What an operation is held to: most of its calls take less than `p95` milliseconds."""

    p95: float
    calls_per_second: float | None
    """Of the most tasks: one alone waits for each answer, and its rate says how far away the server is."""

    def __str__(self) -> str:
        return f"p95 < {self.p95:g}" + (f", > {self.calls_per_second:,.0f}/s" if self.calls_per_second else "")


_TARGETS: Final = {
    ("redis", "get"): Target(1, 10_000),
    ("redis", "put"): Target(2, 10_000),
    ("postgres", "get"): Target(10, 1_000),
    ("postgres", "put"): Target(20, 1_000),
}


@dataclass(frozen=True, slots=True)
class KVFigures:
    """One operation at one concurrency."""

    operation: str
    tasks: int
    calls_per_second: float
    records_per_second: float
    latency: Latencies
    target: Target | None = None
    met: bool | None = None
    """None without a target."""

    def judged(self, target: Target | None) -> "KVFigures":
        if target is None:
            return self
        met = self.latency.p95 < target.p95 and self.calls_per_second > (target.calls_per_second or 0)
        return replace(self, target=target, met=met)


@dataclass(frozen=True, slots=True)
class KVReport:
    """What `bench_kv` measured."""

    engine: str
    batch: int
    figures: tuple[KVFigures, ...]

    def rows(self) -> list[tuple[str, ...]]:
        """The cells under `COLUMNS`."""
        return [
            (
                f.operation, str(f.tasks), f"{f.calls_per_second:,.0f}", f"{f.records_per_second:,.0f}",
                *(f"{getattr(f.latency, name):.3f}" for name in _SHOWN),
                str(f.target or ""), {None: "", True: "yes", False: "NO"}[f.met],
            )
            for f in self.figures
        ]  # fmt: skip


async def bench_kv(
    url: str | None = None,
    *,
    tasks: Sequence[int] = TASKS,
    seconds: float = 1.0,
    batch: int = 100,
    on_figures: Callable[[KVFigures], object] = lambda _: None,
) -> KVReport:
    """`OPERATIONS` for `seconds` each at every number of tasks, values of about 200 bytes; PostgreSQL and Redis have targets.

    `on_figures` is told each as soon as it is measured. Works in a namespace of its own, dropped at the end; without a URL in a temporary SQLite file.
    """
    async with workspace(url) as store:
        calls = _calls(store.kv, batch)
        await store.kv.put_many({_key(number): value(number) for number in range(_KEYS)})
        figures: list[KVFigures] = []
        for operation, count in itertools.product(OPERATIONS, tasks):
            found = await _measure(operation, *calls[operation], count, seconds)
            figures.append(found.judged(_target(store.engine.name, operation, busiest=count == max(tasks))))
            on_figures(figures[-1])
        return KVReport(store.engine.name, batch, tuple(figures))


def _target(engine: str, operation: str, *, busiest: bool) -> Target | None:
    target = _TARGETS.get((engine, operation))
    return target if target is None or busiest else replace(target, calls_per_second=None)


def value(number: int) -> dict[str, Any]:
    """A value of about 200 bytes that differs from every other one, lest the database skip the write."""
    words = " ".join(f"{(number * 7919 + step) % (1 << 32):08x}" for step in range(12))
    return {"number": number, "text": words, "tags": ["a", "b"], "score": number / 7, "dark": True}


@asynccontextmanager
async def workspace(url: str | None) -> AsyncIterator[Store]:
    """A namespace of its own in the store of `url`, dropped at the end; without one a temporary SQLite file."""
    with TemporaryDirectory(prefix="polymem-bench-") as folder:
        where = url or f"sqlite:///{Path(folder, 'bench.db')}"
        async with open_store(where) as root:
            name = f"bench {uuid7()}"
            try:
                yield root.namespace(name)
            finally:
                await root.drop_namespace(name)


def _calls(kv: KeyValue[Any], batch: int) -> dict[str, tuple[Call, int]]:
    """Each operation, and how many records a call of it concerns."""

    def some(number: int) -> range:
        return range(number * batch, (number + 1) * batch)

    return {
        "put": (lambda n: kv.put(_key(n), value(n)), 1),
        "get": (lambda n: kv.get(_key(n)), 1),
        "put_many": (lambda n: kv.put_many({_key(one): value(one) for one in some(n)}), batch),
        "get_many": (lambda n: kv.get_many([_key(one) for one in some(n)]), batch),
    }


async def _measure(operation: str, call: Call, records: int, tasks: int, seconds: float) -> KVFigures:
    took: list[float] = []
    rate = await throughput(call, tasks=tasks, seconds=seconds, took=took)
    return KVFigures(operation, tasks, rate, rate * records, latencies(took))


def _key(number: int) -> str:
    return f"key:{number % _KEYS}"
