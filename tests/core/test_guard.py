"""The choke point (G-9, RES-1)."""

import asyncio
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from polymem.core.breaker import (
    Breaker,
    LimitReachedError,
    PoolExhaustedError,
    TransactionOverError,
    TransactionTimeoutError,
)
from polymem.core.guard import GuardContext, _forked, guard, in_transaction, within
from polymem.core.retry import RetryPolicy
from polymem.errors import (
    Outcome,
    StorageConflictError,
    StorageConnectionError,
    StorageDataError,
    StorageError,
    StorageQueryError,
    StorageTimeoutError,
)


class Lost(Exception):
    """A driver's own exception."""


class Driver:
    """Answers from a script: exceptions are raised, all else is returned."""

    features = "features"

    def __init__(self, *script):
        self.script = list(script)
        self.calls = 0

    async def _next(self):
        self.calls += 1
        answer = self.script.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        if callable(answer):
            return await answer()
        return answer

    async def get(self, key, /):
        return await self._next()

    async def put(self, key, /, *, value):
        return await self._next()

    async def delete(self, key, /):
        return await self._next()


def translate(error):
    return (
        StorageConnectionError("cut off", retryable=True, outcome=Outcome.UNKNOWN) if isinstance(error, Lost) else None
    )


def context(**options):
    made = GuardContext("fake", translate, retry=RetryPolicy(first_delay=0.0001), **options)
    made.opened()
    return made


def lost(outcome):
    return StorageConnectionError("cut", retryable=True, outcome=outcome)


def run(work):
    return asyncio.run(work())


def test_a_call_passes_and_is_counted():
    async def work():
        made = context()
        guarded = guard(Driver("value"), "kv", made)
        assert guarded.features == "features"
        assert await guarded.get("k") == "value"
        figures = made.metrics.get_metrics()["operations"]["kv.get"]
        assert (figures["total_count"], figures["success_count"], figures["success_rate"]) == (1, 1, 1.0)
        assert figures["latency_ms"]["p50"] >= 0

    run(work)


def test_a_driver_error_is_translated_and_keeps_its_cause():
    async def work():
        made = context()
        made.retry = RetryPolicy(attempts=1)
        error = Lost("secret password")
        with pytest.raises(StorageConnectionError) as caught:
            await guard(Driver(error), "kv", made).get("k")
        assert caught.value.__cause__ is error
        assert (caught.value.engine, caught.value.operation) == ("fake", "kv.get")
        assert "secret" not in str(caught.value)
        assert made.metrics.get_metrics()["operations"]["kv.get"]["errors"] == {"StorageConnectionError": 1}

    run(work)


def test_a_gap_in_the_error_map_is_an_unknown_outcome():
    async def work():
        with pytest.raises(StorageError, match="unexpected KeyError") as caught:
            await guard(Driver(KeyError("x")), "kv", context()).get("k")
        assert type(caught.value) is StorageError
        assert caught.value.outcome is Outcome.UNKNOWN

    run(work)


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
def test_only_what_is_safe_is_tried_again(operation, outcome, retry_writes, tried):
    async def work():
        driver = Driver(*[lost(outcome) for _ in range(5)])
        made = context()
        made.retry = RetryPolicy(first_delay=0.0001, retry_writes=retry_writes)
        options = {"value": 1} if operation == "put" else {}
        with pytest.raises(StorageConnectionError):
            await getattr(guard(driver, "kv", made), operation)("k", **options)
        assert driver.calls == tried

    run(work)


def test_a_retry_that_succeeds_gives_the_value():
    async def work():
        made = context()
        driver = Driver(lost(Outcome.UNKNOWN), lost(Outcome.UNKNOWN), "value")
        assert await guard(driver, "kv", made).get("k") == "value"
        assert made.metrics.get_metrics()["operations"]["kv.get"]["retry_count"] == 2

    run(work)


def test_nothing_is_retried_inside_a_transaction():
    async def work():
        driver = Driver(lost(Outcome.NOT_APPLIED), "value")
        with pytest.raises(StorageConnectionError):
            await guard(driver, "kv", context(), inside=True).get("k")
        assert driver.calls == 1

    run(work)


def test_an_attempt_that_did_nothing_does_not_make_up_for_one_that_may_have():
    """G-1: the first may have been applied, so of the call nothing is known."""

    async def work():
        script = lost(Outcome.UNKNOWN), lost(Outcome.NOT_APPLIED), lost(Outcome.NOT_APPLIED)
        with pytest.raises(StorageConnectionError) as caught:
            await guard(Driver(*script), "kv", context()).put("k", value=1)
        assert caught.value.outcome is Outcome.UNKNOWN

    run(work)


def test_a_transaction_is_ended_whatever_the_breaker_says():
    """G-8: its rollback frees a connection."""

    async def work():
        context_ = context(breaker=Breaker(failures=1))
        with pytest.raises(StorageConnectionError):
            await guard(Driver(lost(Outcome.UNKNOWN)), "kv", context_).delete("k")
        assert context_.breaker.state == "open"
        assert await guard(Driver("done"), "transactions", context_, inside=True).delete("k") == "done"

    run(work)


def test_who_waited_in_vain_for_a_connection_does_not_queue_again():
    """RES-3: `acquire_timeout` is how long a call waits, not a third of it."""

    async def work():
        driver = Driver(PoolExhaustedError("all connections are in use", retryable=True), "value")
        with pytest.raises(StorageTimeoutError):
            await guard(driver, "kv", context()).get("k")
        assert driver.calls == 1

    run(work)


def test_data_errors_are_not_retried():
    async def work():
        driver = Driver(StorageDataError("bad", field="key"), "value")
        with pytest.raises(StorageDataError) as caught:
            await guard(driver, "kv", context()).get("k")
        assert (driver.calls, caught.value.field) == (1, "key")

    run(work)


def test_cancellation_passes_untouched_and_is_counted():
    async def work():
        made = context(breaker=Breaker())
        task = asyncio.create_task(guard(Driver(lambda: asyncio.sleep(9)), "kv", made).get("k"))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        figures = made.metrics.get_metrics()["operations"]["kv.get"]
        assert (figures["cancelled_count"], figures["error_count"]) == (1, 0)

    run(work)


def test_cancellation_during_a_retry_pause_ends_the_call():
    async def work():
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

    run(work)


def test_use_before_open_after_close_and_on_another_loop_is_refused():
    made = context_unopened = GuardContext("fake", translate)
    guarded = guard(Driver(1, 2, 3), "kv", made)
    with pytest.raises(StorageConnectionError, match="not open yet"):
        asyncio.run(guarded.get("k"))

    async def opened():
        context_unopened.opened()
        assert await guarded.get("k") == 1

    asyncio.run(opened())
    with pytest.raises(StorageConnectionError, match="another event loop"):
        asyncio.run(guarded.get("k"))
    made.closed()
    with pytest.raises(StorageConnectionError, match="closed"):
        asyncio.run(guarded.get("k"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # forking a threaded process is what is tested
def test_a_forked_child_is_refused():
    async def work():
        made = context()
        child = os.fork()
        if child == 0:
            os._exit(0 if made.loop is None and "the process that forked" in made.state else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert made.loop is asyncio.get_running_loop()

    run(work)


def test_the_child_of_a_fork_knows_it(monkeypatch):
    async def work():
        ours, unopened = context(), GuardContext("fake", translate)
        monkeypatch.setattr("polymem.core.guard._contexts", {ours, unopened})
        _forked()
        with pytest.raises(StorageConnectionError, match="fork before opening"):
            await guard(Driver("value"), "kv", ours).get("k")
        with pytest.raises(StorageConnectionError, match="not open yet"):
            await guard(Driver("value"), "kv", unopened).get("k")

    run(work)


def test_a_write_beside_the_tasks_own_transaction_is_refused():
    async def work():
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

    run(work)


class TestBreaker:
    def test_opens_after_failures_in_a_row_and_lets_one_probe_through(self):
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

    def test_a_cancelled_probe_lets_another_try(self):
        now = [0.0]
        breaker = Breaker(failures=1, pause=1, monotonic=lambda: now[0])
        breaker.failed(StorageTimeoutError("slow"))
        now[0] = 1.0
        breaker.admit()
        breaker.abandoned()
        breaker.admit()
        breaker.failed(PoolExhaustedError("all connections are in use"))
        breaker.admit()

    def test_much_to_do_is_no_failure_of_the_engine(self):
        breaker = Breaker(failures=1)
        breaker.failed(PoolExhaustedError("all connections are in use"))
        assert (breaker.state, breaker.disturbed) == ("closed", False)

    @pytest.mark.parametrize("answer", [StorageConflictError("taken"), LimitReachedError("too slow a statement")])
    def test_an_answer_of_the_engine_is_no_failure(self, answer):
        breaker = Breaker(failures=2)
        breaker.failed(StorageTimeoutError("slow"))
        breaker.failed(answer)
        breaker.failed(StorageTimeoutError("slow"))
        assert breaker.state == "closed"

    @pytest.mark.parametrize("error", [TransactionOverError("ended"), TransactionTimeoutError("open for too long")])
    def test_what_callers_do_with_their_transactions_says_nothing(self, error):
        breaker = Breaker(failures=2)
        breaker.failed(StorageTimeoutError("slow"))
        breaker.failed(error)
        assert breaker.state == "closed"
        breaker.failed(StorageTimeoutError("slow"))
        assert breaker.state == "open"

    def test_one_failure_that_many_calls_share_counts_once(self):
        breaker = Breaker(failures=2)
        cause = Lost()
        for _ in range(64):
            failure = StorageConnectionError("cut")
            failure.__cause__ = cause
            breaker.failed(failure)
        assert breaker.state == "closed"

    def test_the_guard_asks_it(self):
        async def work():
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

        run(work)

    def test_refused_calls_do_not_keep_it_open(self):
        async def work():
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

        run(work)

    def test_success_closes_it(self):
        async def work():
            breaker = Breaker()
            made = context(breaker=breaker)
            assert await guard(Driver(StorageTimeoutError("slow"), "value"), "kv", made).get("k") == "value"
            assert not breaker.disturbed
            breaker.failed(StorageTimeoutError("slow"))
            assert await guard(Driver("value"), "kv", made).get("k") == "value"
            assert not breaker.disturbed

        run(work)


def test_one_record_per_call_at_debug_and_one_per_failure(caplog):
    async def work():
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

    run(work)


def test_calls_from_another_thread_are_refused_and_a_loop_that_moved_is_followed():
    loop, made = asyncio.new_event_loop(), GuardContext("fake", translate)
    guarded = guard(Driver(*range(9)), "kv", made)

    async def opened():
        made.opened()
        assert await guarded.get("k") == 0

    def elsewhere(work):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(work).result()

    try:
        loop.run_until_complete(opened())
        with pytest.raises(StorageConnectionError, match="another event loop"):
            elsewhere(lambda: asyncio.run(guarded.get("k")))
        assert elsewhere(lambda: loop.run_until_complete(guarded.get("k"))) == 1
        with pytest.raises(StorageConnectionError, match="another event loop"):
            asyncio.run(guarded.get("k"))
        assert loop.run_until_complete(guarded.get("k")) == 2
        with ThreadPoolExecutor(1) as pool:  # while it runs there, this thread's own loop is still another one
            running = pool.submit(loop.run_forever)
            assert asyncio.run_coroutine_threadsafe(guarded.get("k"), loop).result() == 3
            with pytest.raises(StorageConnectionError, match="another event loop"):
                asyncio.run(guarded.get("k"))
            loop.call_soon_threadsafe(loop.stop)
            running.result()
    finally:
        loop.close()


class TestOptions:
    """Whatever way a driver takes its arguments, it gets them."""

    class Loose:
        features = None

        async def named(self, key, value=None):
            return key, value

        async def any(self, *keys, **options):
            return keys, options

        defaults = staticmethod(partial(named, None))

    def test_all_ways_of_passing_them(self):
        async def work():
            guarded = guard(self.Loose(), "kv", context())
            assert await guarded.named("a", value=1) == await guarded.named(key="a", value=1) == ("a", 1)
            assert await guarded.any("a", "b", c=1) == (("a", "b"), {"c": 1})
            assert await guarded.defaults("a", value=2) == ("a", 2)

        run(work)


class TestDeadline:
    def test_a_call_that_is_late_is_a_timeout_and_not_cancelled(self, caplog):
        async def work():
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

        run(work)
        assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]

    def test_it_holds_for_all_attempts_together(self):
        async def work():
            made = context()
            made.retry = RetryPolicy(first_delay=30, max_delay=30)
            driver = Driver(StorageTimeoutError("slow", retry_after=30), "value")
            with pytest.raises(StorageTimeoutError, match="no answer within"):
                await within(guard(driver, "kv", made), 0.001).get("k")
            assert driver.calls == 1

        run(work)

    def test_the_engines_own_timeout_stays_what_it_is(self):
        async def work():
            made = context()
            made.retry = RetryPolicy(attempts=1)
            error = StorageTimeoutError("the pool is full")
            with pytest.raises(StorageTimeoutError) as caught:
                await within(guard(Driver(error), "kv", made), 60).get("k")
            assert caught.value is error

        run(work)

    def test_cancelling_is_no_timeout(self):
        async def work():
            made = context()
            task = asyncio.create_task(within(guard(Driver(lambda: asyncio.sleep(9)), "kv", made), 60).get("k"))
            await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            figures = made.metrics.get_metrics()["operations"]["kv.get"]
            assert (figures["cancelled_count"], figures["error_count"], figures["in_flight"]) == (1, 0, 0)

        run(work)

    @pytest.mark.parametrize("seconds", [0, -1, float("nan"), True, "1", None])
    def test_seconds_that_are_none(self, seconds):
        with pytest.raises(StorageDataError) as caught:
            within(guard(Driver(), "kv", context_unopened()), seconds)
        assert caught.value.field == "timeout"


def context_unopened():
    return GuardContext("fake", translate)


def test_the_log_level_may_change_at_any_time(caplog):
    async def work():
        guarded = guard(Driver(*range(9)), "kv", context())
        for logger in ("polymem.calls", "polymem", None):
            await guarded.get("k")
            with caplog.at_level(logging.DEBUG, logger):
                await guarded.get("k")
            assert [record.levelname for record in caplog.records] == ["DEBUG"]
            assert caplog.records[0].duration_ms >= 0
            caplog.clear()

    run(work)
