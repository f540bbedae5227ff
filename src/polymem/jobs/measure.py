"""Timing and statistics that the benchmarks share."""

import asyncio
import itertools
import math
import statistics
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

ROUNDS = 7
"""Rounds of a comparison; fewer say little about its spread."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of several rounds, and the least and the greatest of them."""

    median: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True, slots=True)
class Latencies:
    """How long calls took, in milliseconds."""

    calls: int
    p50: float
    p95: float
    p99: float
    max: float
    min: float
    mean: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """The mean of a sample and the bounds within which another sample's would lie 95 % of the time."""

    value: float
    low: float
    high: float


def spread(values: Iterable[float]) -> Spread:
    """The spread of one or more rounds."""
    found = sorted(values)
    return Spread(statistics.median(found), found[0], found[-1], len(found))


def ratios(over: Sequence[float], under: Sequence[float]) -> Spread:
    """The spread of the ratios of two sides, each round by itself: what slows both at once cancels out."""
    return spread(a / b for a, b in zip(over, under, strict=True))


def percentile(ordered: Sequence[float], share: float) -> float:
    """The least value that `share` of the ascending values do not exceed (nearest rank)."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def latencies(seconds: Iterable[float]) -> Latencies:
    """Percentiles of one or more durations given in seconds."""
    ordered = sorted(1000 * one for one in seconds)
    p50, p95, p99 = (percentile(ordered, share) for share in (0.5, 0.95, 0.99))
    return Latencies(len(ordered), p50, p95, p99, ordered[-1], ordered[0], statistics.fmean(ordered))


def estimate(values: Sequence[float], *, resamples: int = 2000, seed: int = 0) -> Estimate:
    """The mean with its 95 % bootstrap bounds (percentile method), the same for the same `seed`."""
    sample = np.asarray(values, np.float64)
    chance = np.random.default_rng(seed)
    means = [sample[chance.integers(0, len(sample), len(sample))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, (0.025, 0.975))
    return Estimate(float(sample.mean()), float(low), float(high))


async def interleaved(
    sides: Mapping[str, Callable[[], Awaitable[float]]], rounds: int = ROUNDS
) -> dict[str, list[float]]:
    """What each side measured in each round. Sides take turns, and another one begins each round."""
    measured: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            measured[name].append(await sides[name]())
    return measured


async def throughput(
    call: Callable[[int], Awaitable[object]], *, tasks: int, seconds: float, took: list[float] | None = None
) -> float:
    """Calls per second of `tasks` tasks that each await one call after the other for `seconds`, at least one.

    `call` is given the number of the call, counted from 0 over all tasks. `took` is given the seconds of each.
    """
    numbers = itertools.count()
    started = perf_counter()

    async def work() -> None:
        now = perf_counter()
        while True:
            before = now
            await call(next(numbers))
            now = perf_counter()
            if took is not None:
                took.append(now - before)
            if now - started >= seconds:
                return

    await asyncio.gather(*(work() for _ in range(tasks)))
    return next(numbers) / (perf_counter() - started)
