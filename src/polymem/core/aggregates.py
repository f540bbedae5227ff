"""Arithmetic on what was measured: percentiles, rates, latency statistics (MET-3)."""

import math
from collections.abc import Iterable, Sequence
from typing import Final

PERCENTILES: Final = (50.0, 95.0, 99.0)


class MetricsAggregator:
    """Pure functions. No data is None, not 0."""

    @staticmethod
    def percentiles(values: Iterable[float], at: Sequence[float] = PERCENTILES) -> dict[str, float] | None:
        """`{"p50": ...}` by nearest rank: the least value that so many per cent of the values do not exceed."""
        ordered = sorted(values)
        if not ordered:
            return None
        return {f"p{one:g}": ordered[max(0, math.ceil(one / 100 * len(ordered)) - 1)] for one in at}

    @staticmethod
    def rates(operations: int, seconds: float, data_bytes: int | None = None) -> dict[str, float | None]:
        """Operations and bytes per second; both None where no time has passed."""
        if seconds <= 0:
            return {"ops_per_sec": None, "bytes_per_sec": None}
        volume = None if data_bytes is None else round(data_bytes / seconds, 3)
        return {"ops_per_sec": round(operations / seconds, 3), "bytes_per_sec": volume}

    @staticmethod
    def latency_statistics(seconds: Sequence[float], at: Sequence[float] = PERCENTILES) -> dict[str, float] | None:
        """Least, greatest, mean and percentiles of durations in seconds, as milliseconds."""
        found = MetricsAggregator.percentiles(seconds, at)
        if found is None:
            return None
        figures = {"min": min(seconds), "max": max(seconds), "avg": sum(seconds) / len(seconds), **found}
        return {name: round(value * 1000, 4) for name, value in figures.items()}
