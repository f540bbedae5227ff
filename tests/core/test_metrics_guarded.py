"""What the guard measures of each call, and what that costs (MET-1, MET-3)."""

import asyncio

import pytest
from core.figures import figures

from polymem import MetricsCollector
from polymem.core.guard import BODY_FIRST, GuardContext, guard

pytestmark = pytest.mark.anyio


class Driver:
    features = None

    def __init__(self):
        self.gate: asyncio.Event | None = None

    async def get(self, key, /):
        if self.gate is not None:
            await self.gate.wait()
        return None if key == "absent" else (b"12345", "json")

    async def put(self, key, body, /, *, version):
        return None


SIZES = {"get": BODY_FIRST, "put": lambda args, _: len(args[1])}


def guarded(driver, options=None):
    made = GuardContext("fake", lambda _: None, metrics=MetricsCollector("fake", options))
    made.opened()
    return guard(driver, "kv", made, sizes=SIZES), made.metrics


async def test_bytes_and_calls_in_flight():
    driver = Driver()
    kv, collector = guarded(driver)
    driver.gate = asyncio.Event()
    tasks = [asyncio.create_task(kv.get(key)) for key in ("a", "b", "absent")]
    await asyncio.sleep(0)
    assert figures(collector, "kv.get")["in_flight"] == 3
    driver.gate.set()
    await asyncio.gather(*tasks)
    await kv.put("a", b"123", version=1)
    found = collector.get_metrics()["operations"]
    assert (found["kv.get"]["in_flight"], found["kv.get"]["bytes"], found["kv.put"]["bytes"]) == (0, 10, 3)


async def test_bytes_are_not_counted_where_not_wanted():
    kv, collector = guarded(Driver(), {"track_data_volume": False})
    await kv.get("a")
    collector.record_data_volume("kv.get", 7)
    assert figures(collector, "kv.get")["bytes"] is None


async def test_of_quick_operations_one_in_64_is_timed_once_they_are_known():
    kv, collector = guarded(Driver())
    operation = collector.operation("kv.get")
    operation.due = float("inf")  # folded by hand
    for _ in range(1000):
        await kv.get("a")
    assert (operation.every, len(operation.pending)) == (1, 1000)
    operation.pending[:] = [1e-6] * 999 + [1.0]  # a single call that was held up changes nothing
    operation.fold(0.0)
    assert operation.every == 64
    operation.due = float("inf")
    for _ in range(640):
        await kv.get("a")
    assert len(operation.pending) == 10
    found = figures(collector, "kv.get")
    assert found["total_count"] == found["histogram"]["count"] == 1640
    operation.fail("Lost", None, 0.0)
    assert operation.every == 1


@pytest.mark.parametrize("rate", [0, 0.001, 0.3, 1])
async def test_memory_is_bounded_and_counts_are_exact_at_any_sampling_rate(rate):
    """MET-1, MET-3: what is counted is folded now and then, whether latencies are wanted or not."""
    kv, collector = guarded(Driver(), {"sampling_rate": rate, "always_sample_errors": False})
    operation, most = collector.operation("kv.get"), 0
    for _ in range(10_000):
        operation.due = 0.0
        await kv.get("a")
        most = max(most, len(operation.done) + len(operation.pending))
    assert most <= 2048
    found = figures(collector, "kv.get")
    assert (found["total_count"], found["in_flight"]) == (10_000, 0)
    if rate in (0, 1):
        assert (found["latency_ms"] is None) == (rate == 0)


async def test_nothing_is_measured_when_disabled():
    kv, collector = guarded(Driver(), False)
    await kv.get("a")
    assert collector.operation("kv.get").total == 0
