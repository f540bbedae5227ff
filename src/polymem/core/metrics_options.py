"""What is measured and how much of it is kept: `polymem.open(url, metrics={...})` (MET-3)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any, Final

from polymem.core.aggregates import PERCENTILES
from polymem.errors import StorageDataError

_MOST: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class MetricsOptions:
    """Counts and rates are exact whatever is chosen; only latency samples and errors are limited."""

    enabled: bool = True
    """False: nothing is measured, and a call pays nothing."""
    max_history: int = 1000
    """Latencies kept of each operation, for its percentiles."""
    max_errors: int = 100
    """Recent errors kept."""
    track_errors: bool = True
    """Keep recent errors with their messages; errors are counted by type either way."""
    track_data_volume: bool = True
    """Count the bytes of encoded values and blobs."""
    percentiles: Sequence[float] = PERCENTILES
    aggregation_window: float = 60.0
    """Seconds that throughput is an average of."""
    sampling_rate: float = 1.0
    """The share of successful calls whose latency is kept."""
    always_sample_errors: bool = True
    """Keep the latency of failed calls whatever the sampling rate. False saves reading the clock for the others."""

    def __post_init__(self) -> None:
        for name in ("enabled", "track_errors", "track_data_volume", "always_sample_errors"):
            _check(isinstance(getattr(self, name), bool), name, "true or false")
        for name in ("max_history", "max_errors"):
            value = getattr(self, name)
            _check(type(value) is int and 1 <= value <= _MOST, name, f"a whole number from 1 to {_MOST}")
        _check(_number(self.aggregation_window, 1, 3600), "aggregation_window", "seconds from 1 to 3600")
        _check(_number(self.sampling_rate, 0, 1), "sampling_rate", "a share from 0 to 1")
        _check(_percents(self.percentiles), "percentiles", "a list of numbers above 0, up to 100")

    @classmethod
    def of(cls, given: "MetricsOptions | Mapping[str, Any] | bool | None") -> "MetricsOptions":
        """The options a caller gave: True or None are the defaults, False is off."""
        if isinstance(given, cls):
            return given
        if given is None or isinstance(given, bool):
            return cls(enabled=given is not False)
        if not isinstance(given, Mapping):
            raise StorageDataError("expected a mapping of options, True or False", field="metrics")
        known = [field.name for field in fields(cls)]
        for name in given:
            _check(name in known, str(name), f"one of {', '.join(known)}")
        return cls(**given)


def _number(value: object, least: float, most: float) -> bool:
    return type(value) in (int, float) and isfinite(value) and least <= value <= most  # type: ignore[arg-type,operator]


def _percents(values: object) -> bool:
    return isinstance(values, (list, tuple)) and bool(values) and all(_number(one, 1e-9, 100) for one in values)


def _check(right: bool, option: str, expected: str) -> None:
    if not right:
        raise StorageDataError(f"expected {expected}", field=f"metrics.{option}")
