"""What may be set of metrics, and how figures are made of samples (MET-3)."""

import pytest

from polymem import MetricsAggregator, MetricsCollector
from polymem.core.metrics_options import MetricsOptions
from polymem.errors import StorageDataError


def test_percentiles_are_nearest_ranks():
    assert MetricsAggregator.percentiles(range(1, 101)) == {"p50": 50, "p95": 95, "p99": 99}
    assert MetricsAggregator.percentiles([3, 1, 2], [50, 99.9, 100]) == {"p50": 2, "p99.9": 3, "p100": 3}


def test_no_data_is_none():
    assert MetricsAggregator.percentiles([]) is None
    assert MetricsAggregator.latency_statistics([]) is None
    assert MetricsAggregator.rates(5, 0) == {"ops_per_sec": None, "bytes_per_sec": None}


def test_rates_and_latencies():
    assert MetricsAggregator.rates(5, 2, 10) == {"ops_per_sec": 2.5, "bytes_per_sec": 5}
    assert MetricsAggregator.rates(5, 2) == {"ops_per_sec": 2.5, "bytes_per_sec": None}
    found = MetricsAggregator.latency_statistics([0.001, 0.003])
    assert found == {"min": 1, "max": 3, "avg": 2, "p50": 1, "p95": 3, "p99": 3}


def test_defaults():
    found = MetricsOptions.of(None)
    assert found == MetricsOptions.of(True) == MetricsOptions.of({}) == MetricsOptions.of(found)
    assert (found.enabled, found.max_history, found.max_errors, found.sampling_rate) == (True, 1000, 100, 1.0)
    assert (list(found.percentiles), found.aggregation_window) == ([50, 95, 99], 60)
    assert not MetricsOptions.of(False).enabled


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("enabled", 1), ("track_errors", "yes"), ("track_data_volume", None), ("always_sample_errors", 0),
        ("max_history", 0), ("max_history", True), ("max_history", 10**9), ("max_errors", 1.5),
        ("percentiles", []), ("percentiles", [0]), ("percentiles", [101]), ("percentiles", "50"), ("percentiles", [True]),
        ("aggregation_window", 0), ("aggregation_window", float("nan")), ("aggregation_window", 10**9),
        ("sampling_rate", -0.1), ("sampling_rate", 1.1), ("sampling_rate", "1"), ("unknown", 1), (1, 1),
    ],
)  # fmt: skip
def test_bad_ones_are_named(name, value):
    with pytest.raises(StorageDataError, match="expected") as caught:
        MetricsCollector("fake", {name: value})
    assert caught.value.field == f"metrics.{name}"


def test_anything_else_is_refused():
    with pytest.raises(StorageDataError) as caught:
        MetricsCollector("fake", [1])
    assert caught.value.field == "metrics"
