"""The choke point: what is translated, tried again, counted and told (G-9, RES-1)."""

import asyncio
import logging
from functools import partial

import pytest
from core.guarded import Driver, Lost, context, lost

from polymem.core.breaker import Breaker, PoolExhaustedError
from polymem.core.guard import guard, in_transaction
from polymem.core.retry import RetryPolicy
from polymem.errors import (
    Outcome,
    StorageConnectionError,
    StorageDataError,
    StorageError,
    StorageQueryError,
    StorageTimeoutError,
)

pytestmark = pytest.mark.anyio


async def test_a_call_passes_and_is_counted():
    made = context()
    guarded = guard(Driver("value"), "kv", made)
    assert guarded.features == "features"
    assert await guarded.get("k") == "value"
    figures = made.metrics.get_metrics()["operations"]["kv.get"]
    assert (figures["total_count"], figures["success_count"], figures["success_rate"]) == (1, 1, 1.0)
    assert figures["latency_ms"]["p50"] >= 0


async def test_a_driver_error_is_translated_and_keeps_its_cause():
    made = context()
    made.retry = RetryPolicy(attempts=1)
    error = Lost("secret password")
    with pytest.raises(StorageConnectionError) as caught:
        await guard(Driver(error), "kv", made).get("k")
    assert caught.value.__cause__ is error
    assert (caught.value.engine, caught.value.operation) == ("fake", "kv.get")
    assert "secret" not in str(caught.value)
    assert made.metrics.get_metrics()["operations"]["kv.get"]["errors"] == {"StorageConnectionError": 1}


async def test_a_gap_in_the_error_map_is_an_unknown_outcome():
    with pytest.raises(StorageError, match="unexpected KeyError") as caught:
        await guard(Driver(KeyError("x")), "kv", context()).get("k")
    assert type(caught.value) is StorageError
    assert caught.value.outcome is Outcome.UNKNOWN


@pytest.mark.parametrize(
    ("operation", "outcome", "retry_writes", "tried"),
    [
        ("get", Outcome.UNKNOWN, False, 3),  # reads are always safe
        ("put", Outcome.UNKNOWN, True, 3),  # documented at-least-once
        ("put", Outcome.UNKNOWN, False, 1),
        ("put", Outcome.NOT_APPLIED, False, 3),
        ("delete", Outcome.UNKNOWN, True, 1),  # its answer would no longer be truthful
        ("delete", Outcome.NOT_APPLIED, True, 3),
    ],
)
async def test_only_what_is_safe_is_tried_again(operation, outcome, retry_writes, tried):
    driver = Driver(*[lost(outcome) for _ in range(5)])
    made = context()
    made.retry = RetryPolicy(first_delay=0.0001, retry_writes=retry_writes)
    options = {"value": 1} if operation == "put" else {}
    with pytest.raises(StorageConnectionError):
        await getattr(guard(driver, "kv", made), operation)("k", **options)
    assert driver.calls == tried


async def test_a_retry_that_succeeds_gives_the_value():
    made = context()
    driver = Driver(lost(Outcome.UNKNOWN), lost(Outcome.UNKNOWN), "value")
    assert await guard(driver, "kv", made).get("k") == "value"
    assert made.metrics.get_metrics()["operations"]["kv.get"]["retry_count"] == 2


async def test_nothing_is_retried_inside_a_transaction():
    driver = Driver(lost(Outcome.NOT_APPLIED), "value")
    with pytest.raises(StorageConnectionError):
        await guard(driver, "kv", context(), inside=True).get("k")
    assert driver.calls == 1


async def test_an_attempt_that_did_nothing_does_not_make_up_for_one_that_may_have():
    """G-1: the first may have been applied, so of the call nothing is known."""
    script = lost(Outcome.UNKNOWN), lost(Outcome.NOT_APPLIED), lost(Outcome.NOT_APPLIED)
    with pytest.raises(StorageConnectionError) as caught:
        await guard(Driver(*script), "kv", context()).put("k", value=1)
    assert caught.value.outcome is Outcome.UNKNOWN


async def test_a_transaction_is_ended_whatever_the_breaker_says():
    """G-8: its rollback frees a connection."""
    context_ = context(breaker=Breaker(failures=1))
    with pytest.raises(StorageConnectionError):
        await guard(Driver(lost(Outcome.UNKNOWN)), "kv", context_).delete("k")
    assert context_.breaker.state == "open"
    assert await guard(Driver("done"), "transactions", context_, inside=True).delete("k") == "done"


async def test_who_waited_in_vain_for_a_connection_does_not_queue_again():
    """RES-3: `acquire_timeout` is how long a call waits, not a third of it."""
    driver = Driver(PoolExhaustedError("all connections are in use", retryable=True), "value")
    with pytest.raises(StorageTimeoutError):
        await guard(driver, "kv", context()).get("k")
    assert driver.calls == 1


async def test_data_errors_are_not_retried():
    driver = Driver(StorageDataError("bad", field="key"), "value")
    with pytest.raises(StorageDataError) as caught:
        await guard(driver, "kv", context()).get("k")
    assert (driver.calls, caught.value.field) == (1, "key")


async def test_cancellation_passes_untouched_and_is_counted():
    made = context(breaker=Breaker())
    task = asyncio.create_task(guard(Driver(lambda: asyncio.sleep(9)), "kv", made).get("k"))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    figures = made.metrics.get_metrics()["operations"]["kv.get"]
    assert (figures["cancelled_count"], figures["error_count"]) == (1, 0)


async def test_cancellation_during_a_retry_pause_ends_the_call():
    made = context()
    made.retry = RetryPolicy(first_delay=30, max_delay=30)
    driver = Driver(StorageTimeoutError("slow", retry_after=30), "value")
    task = asyncio.create_task(guard(driver, "kv", made).get("k"))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert driver.calls == 1
    figures = made.metrics.get_metrics()["operations"]["kv.get"]
    assert (figures["cancelled_count"], figures["in_flight"]) == (1, 0)


async def test_a_write_beside_the_tasks_own_transaction_is_refused():
    made = context()
    driver = Driver("value", "value")
    token = in_transaction.set(made)
    try:
        with pytest.raises(StorageQueryError, match="transaction is open"):
            await guard(driver, "kv", made).put("k", value=1)
        assert await guard(driver, "kv", made).get("k") == "value"  # reads see the committed state
        assert await guard(driver, "kv", made, inside=True).put("k", value=1) == "value"
    finally:
        in_transaction.reset(token)


async def test_one_record_per_call_at_debug_and_one_per_failure(caplog):
    made = context()
    with caplog.at_level(logging.DEBUG, "polymem.calls"):
        await guard(Driver("secret value"), "kv", made).get("secret key")
        with pytest.raises(StorageDataError):
            await guard(Driver(StorageDataError("bad")), "kv", made).get("secret key")
        await guard(Driver(lost(Outcome.UNKNOWN), 1), "kv", made).get("k")
    levels = [record.levelname for record in caplog.records]
    assert levels == ["DEBUG", "ERROR", "WARNING"]
    assert caplog.records[1].error_type == "StorageDataError"
    assert "secret" not in caplog.text


class Loose:
    features = None

    async def named(self, key, value=None):
        return key, value

    async def any(self, *keys, **options):
        return keys, options

    defaults = staticmethod(partial(named, None))  # type: ignore[arg-type]


async def test_all_ways_of_passing_them():
    guarded = guard(Loose(), "kv", context())
    assert await guarded.named("a", value=1) == await guarded.named(key="a", value=1) == ("a", 1)
    assert await guarded.any("a", "b", c=1) == (("a", "b"), {"c": 1})
    assert await guarded.defaults("a", value=2) == ("a", 2)


async def test_the_log_level_may_change_at_any_time(caplog):
    guarded = guard(Driver(*range(9)), "kv", context())
    for logger in ("polymem.calls", "polymem", None):
        await guarded.get("k")
        with caplog.at_level(logging.DEBUG, logger):
            await guarded.get("k")
        assert [record.levelname for record in caplog.records] == ["DEBUG"]
        assert caplog.records[0].duration_ms >= 0
        caplog.clear()
