"""`polymem bench kv` (CLI-1): its report, not its speed."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from polymem.config import open as open_store
from polymem.jobs import bench_kv as bench_kv_module
from polymem.jobs.bench_kv import COLUMNS, KVFigures, Target, bench_kv, value
from polymem.jobs.measure import latencies


def test_every_operation_is_measured_at_every_concurrency() -> None:
    report = asyncio.run(bench_kv("memory:", tasks=(1, 3), seconds=0.01, batch=10))
    assert report.engine == "memory"
    cases = [(figures.operation, figures.tasks) for figures in report.figures]
    assert cases == [(name, tasks) for name in ("put", "get", "put_many", "get_many") for tasks in (1, 3)]
    for figures in report.figures:
        records = 10 if figures.operation.endswith("many") else 1
        assert figures.records_per_second == figures.calls_per_second * records
        assert 0 < figures.latency.p50 <= figures.latency.p95 <= figures.latency.p99 <= figures.latency.max
        assert 0 < figures.latency.min <= figures.latency.mean <= figures.latency.max
    assert all(len(row) == len(COLUMNS) for row in report.rows())
    assert {"mean", "min", "max", "p50", "p95", "p99"} <= {*COLUMNS}
    assert msgspec.json.decode(msgspec.json.encode(report))["figures"][0]["operation"] == "put"


def test_each_is_told_when_it_is_measured() -> None:
    told: list[KVFigures] = []
    report = asyncio.run(bench_kv("memory:", tasks=(1, 2), seconds=0.001, batch=2, on_figures=told.append))
    assert tuple(told) == report.figures


def test_a_target_is_of_the_operation_and_its_rate_of_the_most_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures of requirement 'Speed' are of single reads and writes, by 1 to 64 callers."""
    targets = {("memory", "get"): Target(1e9, 0.001), ("memory", "put"): Target(1e9, 1e12)}
    monkeypatch.setattr(bench_kv_module, "_TARGETS", targets)
    report = asyncio.run(bench_kv("memory:", tasks=(2, 1), seconds=0.001, batch=2))
    met = {(one.operation, one.tasks): one.met for one in report.figures}
    assert (met["get", 2], met["get", 1], met["put", 2], met["put", 1]) == (True, True, False, True)
    assert met["put_many", 2] is None
    assert [row[-2:] for row in report.rows()][:2] == [
        ("p95 < 1e+09, > 1,000,000,000,000/s", "NO"),
        ("p95 < 1e+09", "yes"),
    ]


def test_a_target_is_met_by_the_95th_percentile_and_the_rate() -> None:
    figures = KVFigures("get", 64, 100.0, 100.0, latencies([0.001] * 95 + [9.0] * 5))
    cases = {Target(1.01, 99): True, Target(1.0, 99): False, Target(1.01, 100): False, Target(1.01, None): True}
    assert {target: figures.judged(target).met for target in cases} == cases


def test_it_leaves_nothing_in_a_database_that_others_use(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"

    async def scenario() -> tuple[object, list[tuple[str, ...]]]:
        async with open_store(url) as store:
            await store.kv.put("key:1", "mine")
        await bench_kv(url, tasks=(1,), seconds=0.01, batch=2)
        async with open_store(url) as store:
            return await store.kv.get("key:1"), [name async for name in store.namespaces()]

    assert asyncio.run(scenario()) == ("mine", [])


def test_without_a_url_it_works_in_a_file_of_its_own() -> None:
    report = asyncio.run(bench_kv(tasks=(2,), seconds=0.01, batch=2))
    assert report.engine == "sqlite"


def test_values_differ_and_have_about_200_bytes() -> None:
    """SQLite skips a write that changes nothing, which would make it look fast."""
    encoded = {msgspec.json.encode(value(number)) for number in range(5000)}
    assert len(encoded) == 5000
    assert all(150 < len(one) < 250 for one in encoded)
