"""What is counted (MET-1, MET-3, MET-4)."""

import asyncio
import threading

import pytest
from core.figures import figures

from polymem import MetricsCollector, OperationTimer
from polymem.errors import StorageDataError, StorageTimeoutError


class TestCounts:
    def test_an_unused_collector_has_no_data(self, collector):
        found = collector.get_metrics()
        assert found["operations"] == {}
        assert found["errors"] == {"by_type": {}, "recent_errors": []}
        assert found["connection"] == {
            "connect_count": 0, "disconnect_count": 0, "current_state": "disconnected", "last_connect_duration_ms": None,
            "total_connection_time_seconds": None, "pool": None,
        }  # fmt: skip
        assert (found["adapter_type"], found["uptime_seconds"], found["backend_specific"]) == ("fake", 0, None)
        assert found["timestamp"].endswith("+00:00")

    def test_operations(self, collector):
        for milliseconds in range(1, 101):
            collector.record_operation("get", milliseconds / 1000)
        collector.record_operation("get", 0.2, success=False)
        found = figures(collector)
        assert (found["total_count"], found["success_count"], found["error_count"]) == (101, 100, 1)
        assert found["success_rate"] == pytest.approx(100 / 101)
        assert found["latency_ms"]["max"] == 200
        assert found["latency_ms"]["p50"] == 51
        assert (found["errors"], found["in_flight"], found["bytes"]) == ({"error": 1}, 0, None)

    def test_the_histogram_is_cumulative_and_has_the_named_bounds(self, collector):
        for seconds in (0.0001, 0.00011, 0.3, 10, 11):
            collector.record_operation("get", seconds)
        histogram = figures(collector)["histogram"]
        buckets = histogram["buckets"]
        assert list(buckets)[0] == "0.0001"
        assert list(buckets)[-2:] == ["10", "+Inf"]
        assert (buckets["0.0001"], buckets["0.00025"], buckets["0.5"], buckets["10"], buckets["+Inf"]) == (
            1,
            2,
            3,
            4,
            5,
        )
        assert (histogram["count"], histogram["sum"]) == (5, pytest.approx(21.30021))

    def test_history_is_bounded_and_the_histogram_is_not(self, clock):
        collector = MetricsCollector("fake", {"max_history": 10, "percentiles": [50]}, clock=clock)
        for _ in range(100):
            collector.record_operation("get", 1.0)
        for _ in range(10):
            collector.record_operation("get", 2.0)
        found = figures(collector)
        assert found["latency_ms"] == {"min": 2000, "max": 2000, "avg": 2000, "p50": 2000}
        assert found["histogram"]["count"] == 110

    def test_names_and_types_are_bounded(self, collector):
        for number in range(600):
            collector.record_error(f"E{number}", f"op{number}")
        found = collector.get_metrics()
        assert len(found["operations"]) == 501
        assert found["operations"]["(others)"]["total_count"] == 100
        assert len(found["errors"]["by_type"]) == 101
        assert found["errors"]["by_type"]["(others)"] == 500
        assert len(found["errors"]["recent_errors"]) == 100

    def test_throughput_is_of_the_window_only(self, collector, clock):
        for _ in range(120):
            collector.record_operation("get", 0.001)
        collector.record_data_volume("get", 600)
        clock.now += 30
        assert figures(collector)["throughput"] == {"ops_per_sec": 4.0, "bytes_per_sec": 20.0}
        clock.now += 30
        for _ in range(60):
            collector.record_operation("get", 0.001)
        assert figures(collector)["throughput"]["ops_per_sec"] == 3.0
        clock.now += 45
        assert figures(collector)["throughput"] == {"ops_per_sec": 1.0, "bytes_per_sec": 0.0}

    def test_errors_are_counted_in_the_throughput(self, collector, clock):
        collector.record_error("Lost", "get")
        clock.now += 10
        assert figures(collector)["throughput"]["ops_per_sec"] == 0.1

    def test_sampling_thins_out_latencies_and_nothing_else(self, clock):
        collector = MetricsCollector("fake", {"sampling_rate": 0.1}, clock=clock)
        for _ in range(2000):
            clock.now += 0.001
            collector.record_operation("get", 0.001)
        collector.record_error("Lost", "get", seconds=5.0)
        found = figures(collector)
        assert (found["total_count"], found["success_count"]) == (2001, 2000)
        assert found["latency_ms"]["max"] == 5000  # errors are always kept
        assert len(collector.operation("get").latest) < 600
        assert 1000 < found["histogram"]["count"] < 3000  # a kept sample stands for those that were not

    def test_sampling_of_errors_too(self, clock):
        collector = MetricsCollector("fake", {"sampling_rate": 0.5, "always_sample_errors": False}, clock=clock)
        for _ in range(10):
            collector.record_operation("get", 0.001)
        assert len(collector.operation("get").pending) + len(collector.operation("get").latest) == 5
        never = MetricsCollector("fake", {"sampling_rate": 0, "always_sample_errors": False}, clock=clock)
        for _ in range(2):
            never.record_operation("get", 0.001)
        assert figures(never)["total_count"] == 2
        assert not never.operation("get").latest

    def test_nothing_is_kept_when_disabled(self, clock):
        collector = MetricsCollector("fake", False, clock=clock)
        collector.record_operation("get", 1.0)
        collector.record_operation("get", 1.0, success=False)
        collector.record_error("Lost", "get")
        collector.failed(collector.operation("get"), "get", "Lost", 1.0)
        collector.record_data_volume("get", 5)
        found = collector.get_metrics()
        assert (found["enabled"], found["operations"], found["errors"]["by_type"]) == (False, {}, {})

    def test_reset_keeps_calls_in_flight_and_the_connection(self, collector, clock):
        collector.record_connection_event("connect", 0.5)
        collector.record_operation("get", 1.0)
        collector.record_error("Lost", "get")
        collector.operation("get").begin()
        clock.now += 5
        collector.reset_metrics()
        clock.now += 1
        found = collector.get_metrics()
        assert (figures(collector)["total_count"], figures(collector)["in_flight"]) == (0, 1)
        assert found["uptime_seconds"] == 1
        assert found["errors"]["recent_errors"] == []
        assert found["connection"]["current_state"] == "connected"
        assert found["connection"]["total_connection_time_seconds"] == 1
        collector.operation("get").end(1.0, clock())
        assert figures(collector)["in_flight"] == 0
        assert figures(collector)["latency_ms"]["max"] == 1000
        collector.record_connection_event("disconnect")
        collector.reset_metrics()
        assert collector.get_metrics()["connection"]["total_connection_time_seconds"] is None

    def test_recording_from_many_threads_loses_nothing(self):
        collector = MetricsCollector("fake")

        def work():
            for _ in range(2000):
                collector.record_operation("get", 0.00001)
                collector.record_data_volume("get", 1)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            collector.get_metrics()
        for thread in threads:
            thread.join()
        found = figures(collector)
        assert (found["success_count"], found["bytes"], found["in_flight"]) == (8000, 8000, 0)


class TestErrors:
    def test_recent_errors_tell_no_stored_values(self, collector):
        collector.record_error(ValueError("stored secret"), "get", seconds=0.5)
        collector.record_error(StorageTimeoutError("slow" * 100), "put")
        collector.record_error("Odd", "put", "what a caller says")
        errors = collector.get_metrics()["errors"]
        assert errors["by_type"] == {"ValueError": 1, "StorageTimeoutError": 1, "Odd": 1}
        first, second, third = errors["recent_errors"]
        assert (first["type"], first["operation"], first["message"], first["duration_ms"]) == (
            "ValueError",
            "get",
            None,
            500,
        )
        assert (len(second["message"]), second["duration_ms"]) == (200, None)
        assert third["message"] == "what a caller says"
        assert first["timestamp"].endswith("+00:00")

    def test_only_the_types_where_messages_are_not_wanted(self, clock):
        collector = MetricsCollector("fake", {"track_errors": False}, clock=clock)
        collector.record_error("Lost", "get")
        assert collector.get_metrics()["errors"] == {"by_type": {"Lost": 1}, "recent_errors": []}


class TestConnection:
    def test_events(self, clock):
        collector = MetricsCollector("fake", pool=lambda: {"size": 3, "used": 1, "waiting": 0}, clock=clock)
        collector.record_connection_event("connect", 0.25)
        clock.now += 4
        collector.record_connection_event("disconnect")
        clock.now += 100
        collector.record_connection_event("connect", 0.5)
        clock.now += 2
        assert collector.get_metrics()["connection"] == {
            "connect_count": 2, "disconnect_count": 1, "current_state": "connected", "last_connect_duration_ms": 500,
            "total_connection_time_seconds": 6, "pool": {"size": 3, "used": 1, "waiting": 0},
        }  # fmt: skip

    def test_other_events_are_refused(self, collector):
        with pytest.raises(StorageDataError) as caught:
            collector.record_connection_event("explode")
        assert caught.value.field == "event"


class TestTimer:
    def test_a_block(self, collector):
        with OperationTimer(collector, "load", {"bytes": 5}) as timer:
            timer.metadata["bytes"] += 2
        found = figures(collector, "load")
        assert (found["success_count"], found["bytes"]) == (1, 7)

    def test_an_async_block_that_fails_or_is_cancelled(self, collector):
        async def work(error):
            async with OperationTimer(collector, "load"):
                raise error

        with pytest.raises(ValueError, match="secret"):
            asyncio.run(work(ValueError("secret")))
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(work(asyncio.CancelledError()))
        found = figures(collector, "load")
        assert (found["errors"], found["cancelled_count"], found["in_flight"], found["bytes"]) == (
            {"ValueError": 1},
            1,
            0,
            None,
        )
        assert found["success_rate"] == 0.0
