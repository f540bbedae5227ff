"""What is counted of every call: plain attributes, written by the guard and read on demand (MET-1)."""

from collections import Counter, deque
from typing import Any

_HISTORY = 1000


class OperationMetrics:
    """Counts are exact; percentiles come from the latest calls."""

    __slots__ = ("cancelled", "errors", "retries", "samples", "succeeded")

    def __init__(self) -> None:
        self.succeeded = 0
        self.cancelled = 0
        self.retries = 0
        self.errors: Counter[str] = Counter()
        self.samples: deque[float] = deque(maxlen=_HISTORY)

    def snapshot(self) -> dict[str, Any]:
        """Latencies in milliseconds; no data is None, not 0 (MET-4)."""
        failed = self.errors.total()
        total = self.succeeded + failed + self.cancelled
        return {
            "total_count": total,
            "success_count": self.succeeded,
            "error_count": failed,
            "cancelled_count": self.cancelled,
            "retry_count": self.retries,
            "success_rate": self.succeeded / total if total else None,
            "errors": dict(self.errors),
            "latency_ms": _latencies(sorted(self.samples)),
        }


class Metrics:
    """All operations of one engine, by "contract.operation"."""

    def __init__(self) -> None:
        self._operations: dict[str, OperationMetrics] = {}

    def operation(self, name: str) -> OperationMetrics:
        return self._operations.setdefault(name, OperationMetrics())

    def snapshot(self) -> dict[str, Any]:
        used = {name: metrics.snapshot() for name, metrics in sorted(self._operations.items())}
        return {name: figures for name, figures in used.items() if figures["total_count"]}


def _latencies(seconds: list[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    at = {f"p{p}": seconds[min(len(seconds) - 1, len(seconds) * p // 100)] for p in (50, 95, 99)}
    figures = {"min": seconds[0], "max": seconds[-1], "avg": sum(seconds) / len(seconds), **at}
    return {name: round(value * 1000, 4) for name, value in figures.items()}
