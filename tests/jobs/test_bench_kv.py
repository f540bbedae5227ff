"""`polymem bench kv` (CLI-1): its report, not its speed."""

import asyncio
from pathlib import Path

import msgspec

from polymem.config import open as open_store
from polymem.jobs.bench_kv import COLUMNS, bench_kv, value


def test_every_operation_is_measured_at_every_concurrency() -> None:
    report = asyncio.run(bench_kv("memory:", tasks=(1, 3), seconds=0.01, batch=10))
    assert report.engine == "memory"
    cases = [(figures.operation, figures.tasks) for figures in report.figures]
    assert cases == [(name, tasks) for name in ("put", "get", "put_many", "get_many") for tasks in (1, 3)]
    for figures in report.figures:
        records = 10 if figures.operation.endswith("many") else 1
        assert figures.records_per_second == figures.calls_per_second * records
        assert 0 < figures.latency.p50 <= figures.latency.p95 <= figures.latency.p99 <= figures.latency.max
    assert all(len(row) == len(COLUMNS) for row in report.rows())
    assert msgspec.json.decode(msgspec.json.encode(report))["figures"][0]["operation"] == "put"


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
