"""What is counted of one operation.

The guard appends the bytes of every call to `done`, and the durations of those it times to `pending`; every few
milliseconds they are folded into counts, histogram and rates, all of bounded size, which costs a call a fraction of
keeping these up to date.

Reading the clock twice would cost a call that takes two microseconds, such as a read by key from an embedded engine,
more than all the rest. Once such an operation is known well, one call in 64 is timed and stands for all of them.
"""

import random
from bisect import bisect_left
from collections import Counter, deque
from itertools import accumulate
from threading import Lock
from typing import Any, Final

from polymem.core.aggregates import MetricsAggregator
from polymem.core.metrics_options import MetricsOptions

BUCKETS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Upper bounds of the histogram in seconds; one more bucket has none."""
_FOLD_EVERY: Final = 0.01
_KNOWN_WELL: Final = 1000
_FAST: Final = 20e-6
_ONE_IN: Final = 64
_LONGEST: Final = 1024
"""Calls after which one is timed in any case, since only then what is done is folded: that bounds the memory."""


class OperationMetrics:
    """Counts are exact, the histogram too unless samples are thinned out; percentiles come from the latest samples."""

    __slots__ = (
        "_kept", "_lock", "_options", "_rated", "_since", "_stood_for", "_window", "buckets", "bytes", "cancelled", "done",
        "due", "errors", "every", "latest", "left", "pending", "retries", "seconds", "succeeded", "timed_at", "weighed",
    )  # fmt: skip

    def __init__(self, options: MetricsOptions, now: float) -> None:
        self._options, self._lock = options, Lock()
        self.done: list[int] = []
        """The bytes of each call that succeeded since the last fold: one append counts both."""
        self.pending: list[float] = []
        """Seconds that the calls timed since the last fold took."""
        self.left = self.timed_at = 0
        """Calls until the next that is timed, and how many will have begun by then: a small number is counted quickest."""
        self.weighed = False
        """Whether the bytes of its data are counted."""
        self._clear(now)

    def _clear(self, now: float) -> None:
        self.due, self._since = 0.0, now
        self._pace(fast=False)
        self.succeeded = self.cancelled = self.retries = 0
        self.bytes = 0
        self.errors: Counter[str] = Counter()
        self.latest: deque[float] = deque(maxlen=self._options.max_history)
        self.buckets, self.seconds = [0] * (len(BUCKETS) + 1), 0.0
        self._rated, self._stood_for = (0, 0), 0
        self._window: deque[tuple[int, int, int]] = deque(maxlen=max(1, round(self._options.aggregation_window)))

    @property
    def begun(self) -> int:
        """Calls begun, so that those in flight are the ones that have not ended."""
        return self.timed_at - self.left

    @property
    def total(self) -> int:
        """Calls that have ended."""
        return self.succeeded + len(self.done) + self.errors.total() + self.cancelled

    def begin(self) -> bool:
        """A call begins; whether to time it, as the guard decides it for itself."""
        with self._lock:
            if self.left:
                self.left -= 1
                return False
            self.timed_at += self.every
            self.left = self.every - 1
            return True

    def end(self, seconds: float | None, now: float) -> None:
        """A call succeeded, after so many seconds if it was timed; `now` is by the clock that `fold` is given."""
        self.done.append(0)
        if seconds is not None:
            self.pending.append(seconds)
        if now >= self.due:
            self.fold(now)

    def fail(self, error_type: str, seconds: float | None, now: float) -> None:
        """A call failed, after so many seconds if that is known; the next calls are all timed."""
        self.fold(now)
        with self._lock:
            self.errors[error_type] += 1
            self._rate(int(now))
            self._pace(fast=False)
            self.timed_at, self.left = self.begun, 0
            if seconds is not None:
                self._observe([seconds], 1)

    def weigh(self, data_bytes: int) -> None:
        """Count bytes beside those of calls."""
        with self._lock:
            self.weighed = True
            self.bytes += data_bytes

    def fold(self, now: float) -> None:
        """Take in what is pending; calls may go on adding to it meanwhile."""
        with self._lock:
            fresh, done = self.pending[:], self.done[:]
            del self.pending[: len(fresh)], self.done[: len(done)]
            self.succeeded += len(done)
            self.bytes += sum(done)
            self.due = now + _FOLD_EVERY
            self._rate(int(now))
            if self._kept < 1:
                fresh = [seconds for seconds in fresh if random.random() < self._kept]  # noqa: S311 - statistics
            if fresh:
                self._observe(fresh, max(1, round((self.succeeded - self._stood_for) / len(fresh))))
                self._stood_for = self.succeeded
                self._pace(fast=self.succeeded >= _KNOWN_WELL and sorted(fresh)[len(fresh) // 2] < _FAST)

    def reset(self, now: float) -> None:
        """Forget all but the calls in flight."""
        with self._lock:
            self.timed_at, self.left = self.begun - self.total, 0
            self.pending.clear()
            self.done.clear()
            self._clear(now)

    def snapshot(self, now: float) -> dict[str, Any]:
        """MET-4; latencies in milliseconds of the latest calls, the histogram in seconds of all of them."""
        self.fold(now)
        with self._lock:  # another thread may be folding again
            total, succeeded, failed = self.total, self.succeeded + len(self.done), self.errors.total()
        judged = succeeded + failed
        return {
            "total_count": total,
            "success_count": succeeded,
            "error_count": failed,
            "cancelled_count": self.cancelled,
            "retry_count": self.retries,
            "in_flight": max(0, self.begun - total),
            "success_rate": succeeded / judged if judged else None,
            "errors": dict(self.errors),
            "bytes": self.bytes if self.weighed else None,
            "latency_ms": MetricsAggregator.latency_statistics(list(self.latest), self._options.percentiles),
            "histogram": self._histogram(),
            "throughput": self._throughput(now),
        }

    def _pace(self, *, fast: bool) -> None:
        """How many calls apart one is timed, and the share of these that is kept, as the sampling rate wants it."""
        rate, one_in = self._options.sampling_rate, _ONE_IN if fast else 1
        sparse = 1 if self._options.always_sample_errors else 1 / max(rate, 1 / _LONGEST)
        self.every = min(round(sparse) * one_in, _LONGEST)
        self._kept = min(1.0, rate * self.every / one_in)

    def _observe(self, seconds: list[float], weight: int) -> None:
        self.latest.extend(seconds)
        self.seconds += sum(seconds) * weight
        if max(seconds) <= BUCKETS[0]:  # nearly always so for an embedded engine, and five times as quick
            self.buckets[0] += len(seconds) * weight
            return
        for one in seconds:
            self.buckets[bisect_left(BUCKETS, one)] += weight

    def _rate(self, second: int) -> None:
        """Add what is new to the current second; the window forgets the oldest one by itself."""
        total, volume = self.total, self.bytes
        calls, data = total - self._rated[0], volume - self._rated[1]
        self._rated = (total, volume)
        if self._window and self._window[-1][0] == second:
            _, before, data_before = self._window.pop()
            calls, data = calls + before, data + data_before
        if calls or data:
            self._window.append((second, calls, data))

    def _throughput(self, now: float) -> dict[str, float | None]:
        window = self._options.aggregation_window
        recent = [(calls, data) for second, calls, data in list(self._window) if second >= now - window]
        data = sum(volume for _, volume in recent) if self.weighed else None
        return MetricsAggregator.rates(sum(calls for calls, _ in recent), min(window, now - self._since), data)

    def _histogram(self) -> dict[str, Any]:
        upper = [*(f"{bound:g}" for bound in BUCKETS), "+Inf"]
        cumulative = list(accumulate(self.buckets))
        return {"buckets": dict(zip(upper, cumulative, strict=True)), "sum": self.seconds, "count": cumulative[-1]}
