"""Metrics as JSON, CSV, Markdown and for Prometheus (MET-4)."""

import asyncio
import csv
import io
import json

import pytest

from polymem import MetricsCollector
from polymem.errors import StorageDataError, StorageTimeoutError


@pytest.fixture
def used(clock):
    collector = MetricsCollector('fa"ke\n', pool=lambda: {"used": 2}, clock=clock)
    collector.record_operation("kv.get", 0.002)
    collector.record_operation("kv.get", 0.004)
    collector.record_error(StorageTimeoutError("slow"), "kv.put")
    collector.record_data_volume("kv.get", 10)
    collector.record_error(asyncio.CancelledError(), "kv.scan")
    return collector


def test_dict_and_json_are_the_snapshot(used):
    assert used.export_metrics()["operations"] == json.loads(used.export_metrics("json"))["operations"]


def test_csv(used):
    rows = list(csv.reader(io.StringIO(used.export_metrics("csv"))))
    assert rows[0] == ["timestamp", "adapter", "operation", "total_count", "success_count", "avg_latency_ms"]
    assert [row[1:] for row in rows[1:]] == [
        ['fa"ke\n', "kv.get", "2", "2", "3.0"],
        ['fa"ke\n', "kv.put", "1", "0", ""],
        ['fa"ke\n', "kv.scan", "1", "0", ""],
    ]


def test_markdown(used):
    assert used.export_metrics("markdown") == (
        "| Operation | Total | Success Rate | Avg Latency (ms) | P95 Latency (ms) |\n"
        "|---|---:|---:|---:|---:|\n"
        "| kv.get | 2 | 100.0% | 3.0 | 4.0 |\n"
        "| kv.put | 1 | 0.0% |  |  |\n"
        "| kv.scan | 1 |  |  |  |\n"
    )


def test_prometheus(used):
    text = used.export_metrics("prometheus")
    lines = text.splitlines()
    label = r'adapter="fa\"ke\n"'
    for line in (
        "# TYPE storage_operations_total counter",
        f'storage_operations_total{{{label},operation="kv.get",status="success"}} 2',
        f'storage_operations_total{{{label},operation="kv.put",status="error"}} 1',
        f'storage_operations_cancelled_total{{{label},operation="kv.scan"}} 1',
        f'storage_operation_bytes_total{{{label},operation="kv.get"}} 10',
        "# TYPE storage_operation_duration_seconds histogram",
        f'storage_operation_duration_seconds_bucket{{{label},operation="kv.get",le="0.0025"}} 1',
        f'storage_operation_duration_seconds_bucket{{{label},operation="kv.get",le="+Inf"}} 2',
        f'storage_operation_duration_seconds_count{{{label},operation="kv.get"}} 2',
        f'storage_errors_total{{{label},type="StorageTimeoutError"}} 1',
        f'storage_pool_connections{{{label},state="used"}} 2',
    ):
        assert line in lines
    assert text.endswith("\n")
    assert not [line for line in lines if line.startswith("storage_operation_bytes_total") and "kv.put" in line]


def test_nothing_to_tell(collector):
    assert "storage_uptime_seconds" in collector.export_metrics("prometheus")
    assert "storage_operations_total" not in collector.export_metrics("prometheus")


def test_other_formats_are_refused(collector):
    with pytest.raises(StorageDataError) as caught:
        collector.export_metrics("xml")
    assert caught.value.field == "format"
