"""The circuit breaker: which failures open it, and what closes it (RES-1)."""

import pytest
from core.guarded import Driver, Lost, context

from polymem.core.breaker import (
    Breaker,
    LimitReachedError,
    PoolExhaustedError,
    TransactionOverError,
    TransactionTimeoutError,
)
from polymem.core.guard import guard
from polymem.core.retry import RetryPolicy
from polymem.errors import Outcome, StorageConflictError, StorageConnectionError, StorageTimeoutError

pytestmark = pytest.mark.anyio


def test_opens_after_failures_in_a_row_and_lets_one_probe_through():
    now = [0.0]
    breaker = Breaker(failures=2, pause=30, monotonic=lambda: now[0])
    for _ in range(2):
        breaker.admit()
        breaker.failed(StorageTimeoutError("slow"))
    assert breaker.state == "open"
    with pytest.raises(StorageConnectionError, match="circuit breaker") as caught:
        breaker.admit()
    assert caught.value.retry_after == 30
    now[0] = 30.0
    breaker.admit()  # the probe
    assert breaker.state == "half-open"
    with pytest.raises(StorageConnectionError):
        breaker.admit()
    breaker.failed(StorageTimeoutError("still slow"))
    assert breaker.state == "open"
    now[0] = 60.0
    breaker.admit()
    breaker.succeeded()
    assert (breaker.state, breaker.disturbed) == ("closed", False)


def test_a_cancelled_probe_lets_another_try():
    now = [0.0]
    breaker = Breaker(failures=1, pause=1, monotonic=lambda: now[0])
    breaker.failed(StorageTimeoutError("slow"))
    now[0] = 1.0
    breaker.admit()
    breaker.abandoned()
    breaker.admit()
    breaker.failed(PoolExhaustedError("all connections are in use"))
    breaker.admit()


def test_much_to_do_is_no_failure_of_the_engine():
    breaker = Breaker(failures=1)
    breaker.failed(PoolExhaustedError("all connections are in use"))
    assert (breaker.state, breaker.disturbed) == ("closed", False)


@pytest.mark.parametrize("answer", [StorageConflictError("taken"), LimitReachedError("too slow a statement")])
def test_an_answer_of_the_engine_is_no_failure(answer):
    breaker = Breaker(failures=2)
    breaker.failed(StorageTimeoutError("slow"))
    breaker.failed(answer)
    breaker.failed(StorageTimeoutError("slow"))
    assert breaker.state == "closed"


@pytest.mark.parametrize("error", [TransactionOverError("ended"), TransactionTimeoutError("open for too long")])
def test_what_callers_do_with_their_transactions_says_nothing(error):
    breaker = Breaker(failures=2)
    breaker.failed(StorageTimeoutError("slow"))
    breaker.failed(error)
    assert breaker.state == "closed"
    breaker.failed(StorageTimeoutError("slow"))
    assert breaker.state == "open"


def test_one_failure_that_many_calls_share_counts_once():
    breaker = Breaker(failures=2)
    cause = Lost()
    for _ in range(64):
        failure = StorageConnectionError("cut")
        failure.__cause__ = cause
        breaker.failed(failure)
    assert breaker.state == "closed"


async def test_the_guard_asks_it():
    breaker = Breaker(failures=3)
    made = context(breaker=breaker)
    driver = Driver(*[StorageTimeoutError("slow") for _ in range(3)], "value")
    with pytest.raises(StorageTimeoutError):
        await guard(driver, "kv", made).get("k")
    assert breaker.state == "open"
    with pytest.raises(StorageConnectionError, match="asked again in 30 s") as caught:
        await guard(driver, "kv", made).get("k")
    assert driver.calls == 3
    assert (caught.value.retryable, caught.value.outcome) == (True, Outcome.NOT_APPLIED)


async def test_refused_calls_do_not_keep_it_open():
    now = [0.0]
    breaker = Breaker(failures=1, pause=30, monotonic=lambda: now[0])
    made = context(breaker=breaker)
    made.retry = RetryPolicy(attempts=1)
    guarded = guard(Driver(StorageTimeoutError("slow"), "value"), "kv", made)
    with pytest.raises(StorageTimeoutError):
        await guarded.get("k")
    now[0] = 29.0
    with pytest.raises(StorageConnectionError, match="circuit breaker"):
        await guarded.get("k")
    now[0] = 30.0
    assert await guarded.get("k") == "value"


async def test_success_closes_it():
    breaker = Breaker()
    made = context(breaker=breaker)
    assert await guard(Driver(StorageTimeoutError("slow"), "value"), "kv", made).get("k") == "value"
    assert not breaker.disturbed
    breaker.failed(StorageTimeoutError("slow"))
    assert await guard(Driver("value"), "kv", made).get("k") == "value"
    assert not breaker.disturbed
