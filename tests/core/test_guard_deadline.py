"""Calls with a timeout of their own (G-9, RES-3)."""

import asyncio

import pytest
from core.guarded import Driver, context, translate

from polymem.core.breaker import Breaker
from polymem.core.guard import GuardContext, guard, within
from polymem.core.retry import RetryPolicy
from polymem.errors import Outcome, StorageDataError, StorageTimeoutError

pytestmark = pytest.mark.anyio


async def test_a_call_that_is_late_is_a_timeout_and_not_cancelled(caplog):
    made = context(breaker=Breaker())
    driver = Driver(lambda: asyncio.sleep(9), lambda: asyncio.sleep(9))
    hurried = within(guard(driver, "kv", made), 0.001)
    for call, outcome in (
        (hurried.get("k"), Outcome.NOT_APPLIED),
        (hurried.put("k", value=1), Outcome.UNKNOWN),
    ):
        with pytest.raises(TimeoutError, match="no answer within 0.001 s") as caught:
            await call
        assert isinstance(caught.value, StorageTimeoutError)
        assert (caught.value.outcome, caught.value.engine) == (outcome, "fake")
    for figures in made.metrics.get_metrics()["operations"].values():
        assert figures["errors"] == {"StorageTimeoutError": 1}
        assert (figures["cancelled_count"], figures["in_flight"], figures["latency_ms"]["max"] >= 1) == (
            0,
            0,
            True,
        )
    assert driver.calls == 2
    assert not made.breaker.disturbed  # a caller in a hurry says nothing of the engine
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]


async def test_it_holds_for_all_attempts_together():
    made = context()
    made.retry = RetryPolicy(first_delay=30, max_delay=30)
    driver = Driver(StorageTimeoutError("slow", retry_after=30), "value")
    with pytest.raises(StorageTimeoutError, match="no answer within"):
        await within(guard(driver, "kv", made), 0.001).get("k")
    assert driver.calls == 1


async def test_the_engines_own_timeout_stays_what_it_is():
    made = context()
    made.retry = RetryPolicy(attempts=1)
    error = StorageTimeoutError("the pool is full")
    with pytest.raises(StorageTimeoutError) as caught:
        await within(guard(Driver(error), "kv", made), 60).get("k")
    assert caught.value is error


async def test_cancelling_is_no_timeout():
    made = context()
    task = asyncio.create_task(within(guard(Driver(lambda: asyncio.sleep(9)), "kv", made), 60).get("k"))
    await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    figures = made.metrics.get_metrics()["operations"]["kv.get"]
    assert (figures["cancelled_count"], figures["error_count"], figures["in_flight"]) == (1, 0, 0)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), True, "1", None])
def test_seconds_that_are_none(seconds):
    with pytest.raises(StorageDataError) as caught:
        within(guard(Driver(), "kv", context_unopened()), seconds)
    assert caught.value.field == "timeout"


def context_unopened():
    return GuardContext("fake", translate)
