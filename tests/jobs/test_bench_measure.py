"""The statistics of the benchmarks, against figures worked out by hand."""

import asyncio
from pathlib import Path
from types import ModuleType

import pytest

from polymem.jobs.measure import Spread, estimate, interleaved, latencies, percentile, ratios, spread, throughput


def test_a_spread_is_the_median_and_the_extremes() -> None:
    assert spread([5.0, 1.0, 3.0]) == Spread(3.0, 1.0, 5.0, 3)
    assert spread([4.0, 1.0, 2.0, 9.0]) == Spread(3.0, 1.0, 9.0, 4)


def test_ratios_are_taken_round_by_round() -> None:
    """Were they taken of the medians, the slow round that hit both sides alike would count."""
    assert ratios([10.0, 1.0, 20.0], [2.0, 0.5, 10.0]) == Spread(2.0, 2.0, 5.0, 3)


def test_ratios_of_unequal_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


def test_percentiles_are_values_that_occurred() -> None:
    ordered = [float(n) for n in range(1, 101)]
    assert [percentile(ordered, share) for share in (0.0, 0.5, 0.95, 0.99, 1.0)] == [1.0, 50.0, 95.0, 99.0, 100.0]
    assert percentile([7.0], 0.99) == 7.0


def test_latencies_are_milliseconds() -> None:
    found = latencies([0.004, 0.001, 0.002, 0.003])
    assert (found.calls, found.p50, found.p95, found.max) == (4, 2.0, 4.0, 4.0)
    assert (found.min, found.mean) == (1.0, 2.5)


def test_bootstrap_bounds_enclose_the_mean_and_narrow_with_the_sample() -> None:
    few, many = estimate([0.0, 1.0] * 10), estimate([0.0, 1.0] * 1000)
    assert few.value == many.value == 0.5
    assert few.low < 0.5 < few.high
    assert many.high - many.low < (few.high - few.low) / 3
    assert many.high - many.low == pytest.approx(2 * 1.96 * 0.5 / 2000**0.5, rel=0.1)  # the normal approximation


def test_bootstrap_bounds_are_the_same_for_the_same_seed() -> None:
    sample = [n / 97 % 1 for n in range(0, 3000, 41)]
    assert estimate(sample, seed=3) == estimate(sample, seed=3)
    assert estimate(sample, seed=3) != estimate(sample, seed=4)


def test_a_constant_sample_has_no_width() -> None:
    found = estimate([0.25, 0.25])
    assert (found.value, found.low, found.high) == (0.25, 0.25, 0.25)


def test_sides_take_turns_and_another_one_begins_each_round() -> None:
    order: list[str] = []

    async def a() -> float:
        order.append("a")
        return float(len(order))

    async def b() -> float:
        order.append("b")
        return float(len(order))

    found = asyncio.run(interleaved({"a": a, "b": b}, 3))
    assert "".join(order) == "abbaab"
    assert found == {"a": [1.0, 4.0, 5.0], "b": [2.0, 3.0, 6.0]}


def test_throughput_numbers_the_calls_of_all_tasks() -> None:
    numbers: list[int] = []
    took: list[float] = []

    async def call(number: int) -> None:
        numbers.append(number)
        await asyncio.sleep(0)

    rate = asyncio.run(throughput(call, tasks=3, seconds=0.02, took=took))
    assert sorted(numbers) == list(range(len(numbers)))
    assert len(took) == len(numbers) > 3
    assert rate > 0


def test_each_task_makes_a_call_however_short_the_time() -> None:
    took: list[float] = []
    asyncio.run(throughput(lambda _: asyncio.sleep(0), tasks=3, seconds=0, took=took))
    assert len(took) == 3


@pytest.fixture(scope="module")
def report() -> ModuleType:
    import sys
    from importlib.util import module_from_spec, spec_from_file_location

    path = Path(__file__).parents[2] / "benchmarks" / "report.py"
    spec = spec_from_file_location("benchmark_report", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_a_bar_is_judged_by_the_median(report: ModuleType) -> None:
    rounds = Spread(10.0, 1.0, 99.0, 7)
    assert report.Figure("x", rounds, at_most=10).met is True
    assert report.Figure("x", rounds, at_most=9.99).met is False
    assert report.Figure("x", rounds, at_least=10.01).met is False
    assert report.Figure("x", 10.0, at_least=10).met is True
    assert report.Figure("x", rounds).met is None


def test_a_bar_of_zero_is_a_bar(report: ModuleType) -> None:
    assert report.Figure("errors", 0, at_most=0).cells() == ("errors", "0", "", "", "", "<= 0", "yes")
    assert report.Figure("errors", 1, at_most=0).met is False


def test_numbers_are_shown_with_three_digits(report: ModuleType) -> None:
    assert [report.shown(value) for value in (0.01234, 1.5, 99.96, 1234.5, 1e6)] == [
        "0.0123", "1.50", "100.", "1,234", "1,000,000",
    ]  # fmt: skip
