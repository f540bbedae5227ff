"""The batcher of network engines against a fake server (G-8, G-9, RES-1)."""

import asyncio
import gc
import threading
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass, field
from operator import itemgetter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polymem.core.batch import Batcher
from polymem.core.breaker import Breaker
from polymem.core.guard import GuardContext, guard
from polymem.core.retry import RetryPolicy
from polymem.errors import (
    Outcome,
    StorageConnectionError,
    StorageDataError,
    StorageError,
    StorageQueryError,
    StorageTimeoutError,
)


class Lost(Exception):
    """A driver's own exception."""


class Server:
    """Remembers what it was sent; `gate` holds answers back, `script` has a failure for each driver call to come.

    An item of the form ("bad", ...) is refused, in a batch together with all the others.
    """

    def __init__(self):
        self.sent = []  # one entry for each driver call: ("one", item) or ("many", items)
        self.script = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.tasks = []
        self.ticks = 1

    async def _call(self, kind, what):
        self.sent.append((kind, what))
        self.tasks.append(asyncio.current_task())
        await ticks(self.ticks)
        await self.gate.wait()
        if self.script and (failure := self.script.pop(0)) is not None:
            raise failure

    async def one(self, item):
        await self._call("one", item)
        return self.answer(item)

    async def many(self, items):
        await self._call("many", list(items))
        return [self.answer(item) for item in items]

    def answer(self, item):
        if item[0] == "bad":
            raise StorageDataError("refused", field="value")
        return f"did {item}"

    def batcher(self, **options):
        return Batcher(self.one, self.many, size=len, **options)


def run(work):
    """Run `work`; afterwards no task of ours may be left and asyncio may have nothing to complain of."""
    complaints = []

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
        result = await work()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    result = asyncio.run(main())
    assert complaints == []
    return result


async def ticks(number=5):
    for _ in range(number):
        await asyncio.sleep(0)


async def started(*calls):
    tasks = [asyncio.create_task(call) for call in calls]
    await ticks()
    return tasks


async def outcomes(tasks):
    return await asyncio.gather(*tasks, return_exceptions=True)


async def behind_a_held_call(server, batcher, *items):
    """Tasks for `items`, all queued while a direct call is held at the gate."""
    server.gate.clear()
    return await started(batcher.submit("direct"), *(batcher.submit(item) for item in items))


# When calls go direct and when they gather


def test_an_idle_batcher_lets_the_caller_await_the_driver_itself():
    async def work():
        server = Server()
        batcher = server.batcher()
        assert [await batcher.submit(item) for item in "abc"] == ["did a", "did b", "did c"]
        assert server.sent == [("one", "a"), ("one", "b"), ("one", "c")]
        assert set(server.tasks) == {asyncio.current_task()}

    run(work)


def test_calls_gather_while_one_is_under_way_and_crowds_stay_together():
    async def work():
        server = Server()
        batcher = server.batcher()

        async def caller(name):
            return [await batcher.submit(f"{name}{turn}") for turn in range(3)]

        answers = await asyncio.gather(*(caller(name) for name in "abcd"))
        assert answers == [[f"did {name}{turn}" for turn in range(3)] for name in "abcd"]
        assert server.sent == [
            ("one", "a0"),
            ("many", ["b0", "c0", "d0", "a1"]),
            ("many", ["b1", "c1", "d1", "a2"]),
            ("many", ["b2", "c2", "d2"]),
        ]

    run(work)


def test_after_a_crowd_one_single_flush_leads_back_to_direct_calls():
    async def work():
        server = Server()
        batcher = server.batcher()
        await asyncio.gather(*(batcher.submit(item) for item in "abc"))
        server.tasks.clear()
        for item in "xyz":
            await batcher.submit(item)
        assert server.sent[-3:] == [("one", "x"), ("one", "y"), ("one", "z")]
        assert server.tasks[0] is not asyncio.current_task()
        assert server.tasks[1:] == [asyncio.current_task()] * 2

    run(work)


def test_a_batch_runs_in_the_context_of_none_of_its_callers():
    async def work():
        who = ContextVar("who", default="nobody")
        seen = []

        async def many(items):
            seen.append(who.get())
            return items

        async def one(item):
            await asyncio.sleep(0)

        async def caller(name):
            who.set(name)
            await batcher.submit(name)

        batcher = Batcher(one, many, size=len)
        for _ in range(2):
            await asyncio.gather(*(caller(name) for name in "abc"))
        assert seen == ["nobody", "nobody"]

    run(work)


# Limits


def test_a_batch_keeps_to_the_number_of_calls():
    async def work():
        server = Server()
        batcher = server.batcher(max_calls=3)
        tasks = await behind_a_held_call(server, batcher, *"abcdefg")
        server.gate.set()
        assert await outcomes(tasks[1:]) == [f"did {item}" for item in "abcdefg"]
        assert server.sent[1:] == [("many", ["a", "b", "c"]), ("many", ["d", "e", "f"]), ("one", "g")]

    run(work)


def test_a_batch_keeps_to_the_bytes_and_what_is_larger_travels_alone():
    async def work():
        server = Server()
        batcher = server.batcher(max_bytes=4)
        tasks = await behind_a_held_call(server, batcher, "aa", "bb", "c", "dddddd", "", "eee", "f", "g")
        server.gate.set()
        await outcomes(tasks)
        assert server.sent[1:] == [
            ("many", ["aa", "bb"]),
            ("one", "c"),
            ("one", "dddddd"),
            ("many", ["", "eee", "f"]),
            ("one", "g"),
        ]

    run(work)


def test_an_item_that_cannot_be_measured_fails_its_caller_alone():
    async def work():
        server = Server()
        batcher = server.batcher()
        tasks = await behind_a_held_call(server, batcher, "a", 7, "b")
        server.gate.set()
        _, a, broken, b = await outcomes(tasks)
        assert (a, b) == ("did a", "did b")
        assert isinstance(broken, TypeError)

    run(work)


# Failures


def test_each_call_of_a_batch_has_its_own_outcome():
    async def work():
        refused = StorageDataError("no", field="value")

        async def many(items):
            return [refused if item == "b" else item.upper() for item in items]

        async def one(item):
            await asyncio.sleep(0)
            return item

        batcher = Batcher(one, many, size=len)
        assert await outcomes([batcher.submit(item) for item in "abc"]) == ["a", refused, "C"]

    run(work)


def test_a_batch_that_was_not_applied_is_sent_one_by_one_in_order():
    async def work():
        server = Server()
        batcher = server.batcher()
        tasks = await behind_a_held_call(server, batcher, "a", ("bad", 1), "b", ("bad", 2))
        server.gate.set()
        _, a, bad1, b, bad2 = await outcomes(tasks)
        assert (a, b) == ("did a", "did b")
        assert isinstance(bad1, StorageDataError)
        assert isinstance(bad2, StorageDataError)
        assert bad1.__context__ is None
        everything = ["a", ("bad", 1), "b", ("bad", 2)]
        assert server.sent[1:] == [("many", everything), *(("one", item) for item in everything)]

    run(work)


@pytest.mark.parametrize(
    "failure",
    [
        StorageConnectionError("cut", outcome=Outcome.UNKNOWN),
        StorageQueryError("half done", outcome=Outcome.UNKNOWN),
        StorageTimeoutError("slow", outcome=Outcome.UNKNOWN),
        StorageTimeoutError("slow"),  # not applied, but no call is to blame: the guard repeats each
        StorageConnectionError("refused"),
    ],
)
def test_nothing_is_sent_again_unless_nothing_was_applied_and_a_call_is_to_blame(failure):
    async def work():
        server = Server()
        batcher = server.batcher()
        server.script = [None, failure]
        tasks = await behind_a_held_call(server, batcher, *"abc")
        server.gate.set()
        errors = (await outcomes(tasks))[1:]
        assert server.sent[1:] == [("many", ["a", "b", "c"])]
        for error in errors:
            assert type(error) is type(failure)
            assert (str(error), error.outcome, error.retryable) == (str(failure), failure.outcome, failure.retryable)
            assert error.__cause__ is failure
        errors[0].operation = "kv.get"
        assert errors[1].operation is None, "each caller has an error of its own"
        assert await batcher.submit("later") == "did later"

    run(work)


def test_the_driver_exception_stays_the_cause_of_every_callers_error():
    async def work():
        server = Server()
        batcher = server.batcher()
        failure = StorageConnectionError("cut", engine="fake", outcome=Outcome.UNKNOWN)
        failure.__cause__ = Lost()
        server.script = [None, failure]
        tasks = await behind_a_held_call(server, batcher, *"ab")
        server.gate.set()
        _, first, second = await outcomes(tasks)
        assert first.__cause__ is second.__cause__ is failure.__cause__
        assert first.engine == "fake"

    run(work)


@pytest.mark.parametrize(
    ("translated", "one_by_one"),
    [
        (None, False),
        (StorageQueryError("bad"), True),
        (StorageQueryError("bad", outcome=Outcome.UNKNOWN), False),
    ],
)
def test_the_error_map_judges_a_driver_exception(translated, one_by_one):
    async def work():
        server = Server()
        batcher = server.batcher(translate=lambda error: translated)
        lost = Lost()
        server.script = [None, lost]
        tasks = await behind_a_held_call(server, batcher, *"ab")
        server.gate.set()
        answers = (await outcomes(tasks))[1:]
        assert answers == (["did a", "did b"] if one_by_one else [lost, lost])

    run(work)


def test_a_server_lost_during_one_by_one_is_not_asked_once_per_call():
    async def work():
        server = Server()
        batcher = server.batcher()
        away = StorageConnectionError("refused")
        server.script = [None, StorageDataError("which?"), None, away, away]
        tasks = await behind_a_held_call(server, batcher, *"abcd")
        server.gate.set()
        _, a, b, c, d = await outcomes(tasks)
        assert a == "did a"
        assert b is away
        assert c.__cause__ is d.__cause__ is away
        assert server.sent[1:] == [("many", [*"abcd"]), ("one", "a"), ("one", "b"), ("many", [*"cd"])]

    run(work)


def test_a_driver_that_answers_too_few_calls_leaves_all_unknown():
    async def work():
        async def many(items):
            return items[1:]

        async def one(item):
            await asyncio.sleep(0)

        batcher = Batcher(one, many, size=len)
        errors = (await outcomes([batcher.submit(item) for item in "abc"]))[1:]
        assert [(type(error), error.outcome) for error in errors] == [(StorageError, Outcome.UNKNOWN)] * 2

    run(work)


def test_a_broken_error_map_leaves_nobody_waiting():
    async def work():
        def translate(error):
            raise KeyError

        server = Server()
        batcher = server.batcher(translate=translate)
        server.script = [None, Lost()]
        tasks = await behind_a_held_call(server, batcher, *"ab")
        server.gate.set()
        errors = (await outcomes(tasks))[1:]
        assert [error.outcome for error in errors] == [Outcome.UNKNOWN] * 2
        assert isinstance(errors[0].__cause__, KeyError)
        assert errors[0].__cause__ is errors[1].__cause__

    run(work)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Lost(), Lost()),
        (
            StorageConnectionError("cut", outcome=Outcome.UNKNOWN),
            StorageConnectionError("cut", outcome=Outcome.UNKNOWN),
        ),
        (StorageConnectionError("refused"), StorageTimeoutError("slow")),
    ],
)
def test_the_breaker_counts_a_lost_batch_once(first, second):
    async def work():
        class Driver:
            features = None

            def __init__(self, failure):
                self.server = Server()
                self.server.script = [None, failure]
                self.batcher = self.server.batcher(translate=translate)

            async def delete(self, key, /):
                return await self.batcher.submit(key)

        def translate(error):
            return StorageConnectionError("cut", outcome=Outcome.UNKNOWN) if isinstance(error, Lost) else None

        breaker = Breaker(failures=2)
        context = GuardContext("fake", translate, breaker=breaker, retry=RetryPolicy(attempts=1))
        context.opened()
        for failure, expected in ((first, "closed"), (second, "open")):
            driver = Driver(failure)
            guarded = guard(driver, "kv", context)
            driver.server.gate.clear()
            tasks = await started(driver.batcher.submit("direct"), *(guarded.delete(str(i)) for i in range(64)))
            driver.server.gate.set()
            errors = (await outcomes(tasks))[1:]
            expected_error = StorageConnectionError if isinstance(failure, Lost) else type(failure)
            assert {(type(error), error.operation) for error in errors} == {(expected_error, "kv.delete")}
            assert breaker.state == expected

    run(work)


# Cancellation


def test_a_cancelled_caller_leaves_its_call_in_the_queue():
    async def work():
        server = Server()
        batcher = server.batcher()
        tasks = await behind_a_held_call(server, batcher, *"abc")
        tasks[2].cancel()
        await ticks()
        assert tasks[2].cancelled(), "a cancelled caller need not wait for the server"
        server.gate.set()
        assert await outcomes([tasks[0], tasks[1], tasks[3]]) == ["did direct", "did a", "did c"]
        assert server.sent[1:] == [("many", ["a", "b", "c"])]

    run(work)


@pytest.mark.parametrize(
    "failure", [None, StorageConnectionError("cut", outcome=Outcome.UNKNOWN), StorageDataError("")]
)
def test_cancelling_a_caller_of_the_batch_under_way_disturbs_no_other(failure):
    async def work():
        server = Server()
        batcher = server.batcher()
        server.script = [None, failure]
        tasks = await behind_a_held_call(server, batcher, *"abc")
        server.gate.set()
        while len(server.sent) < 2:
            await asyncio.sleep(0)
        tasks[2].cancel()
        answers = await outcomes([tasks[1], tasks[3]])
        if isinstance(failure, StorageConnectionError):
            assert [error.__cause__ for error in answers] == [failure, failure]
        else:
            assert answers == ["did a", "did c"]
        assert tasks[2].cancelled()
        if isinstance(failure, StorageDataError):
            assert server.sent[2:] == [("one", "a"), ("one", "b"), ("one", "c")], "carried out one by one as well"

    run(work)


def test_cancelling_a_direct_caller_lets_the_queue_go_on():
    async def work():
        server = Server()
        batcher = server.batcher()
        tasks = await behind_a_held_call(server, batcher, *"ab")
        tasks[0].cancel()
        await ticks(1)
        server.gate.set()
        assert await outcomes(tasks[1:]) == ["did a", "did b"]
        assert tasks[0].cancelled()

    run(work)


def test_a_caller_cancelled_at_the_moment_of_failure_leaves_no_complaint():
    async def work():
        server = Server()
        batcher = server.batcher()
        waiting = []
        real = batcher._one_by_one

        async def cancel_after_failing(batch):
            await real(batch)
            waiting[1].cancel()  # its error is set, but it hasn't looked yet

        batcher._one_by_one = cancel_after_failing
        waiting += await behind_a_held_call(server, batcher, ("bad",))
        server.gate.set()
        answers = await outcomes(waiting)
        assert isinstance(answers[1], asyncio.CancelledError)

    run(work)  # fails if asyncio logs an exception never retrieved


def test_a_batch_cancelled_before_or_after_its_start_leaves_nobody_waiting():
    """As at the end of asyncio.run, which cancels every task it finds."""

    async def work(before_start):
        server = Server()
        batcher = server.batcher(max_calls=2)
        tasks = await behind_a_held_call(server, batcher, *"abc")
        known = asyncio.all_tasks()
        server.gate.set()
        while not (extra := asyncio.all_tasks() - known):
            await asyncio.sleep(0)
        if not before_start:
            await ticks(1)
        assert len(server.sent) == (1 if before_start else 2)
        extra.pop().cancel()
        errors = (await outcomes(tasks))[1:]
        assert [(type(e), e.outcome, e.retryable) for e in errors] == [
            (StorageConnectionError, Outcome.UNKNOWN, True)
        ] * 3
        assert await batcher.submit("later") == "did later"
        await batcher.close()
        assert ("one", "c") not in server.sent, "its caller was told already"

    run(lambda: work(before_start=True))
    run(lambda: work(before_start=False))


@pytest.mark.parametrize("ends_after", range(12))
def test_asyncio_run_ends_cleanly_with_calls_under_way(ends_after):
    """Every task is cancelled at once, the batch's too, and each closes what it used: nobody may wait for ever."""
    closed = []

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
        server = Server()
        server.ticks = 4
        batcher = server.batcher(max_calls=2)

        async def worker(item):
            try:
                await batcher.submit(item)
            finally:
                await batcher.close()
                closed.append(item)

        tasks.extend(asyncio.create_task(worker(item)) for item in "abcd")
        await ticks(ends_after + 1)

    tasks, complaints = [], []
    asyncio.run(main())
    gc.collect()
    assert complaints == [], "a task was destroyed while pending"
    assert all(task.done() for task in tasks)
    if ends_after < 3:  # later, a worker may be cancelled while it closes
        assert sorted(closed) == ["a", "b", "c", "d"]


# Order


def test_a_key_keeps_its_order_behind_a_direct_call():
    async def work():
        stored = {}

        async def one(item):
            await ticks(3)
            stored[item[0]] = item[1]

        async def many(items):
            for item in items:
                stored[item[0]] = item[1]
            return [None] * len(items)

        batcher = Batcher(one, many, size=len)
        first, second = await started(batcher.submit(("k", 1)), batcher.submit(("k", 2)))
        await asyncio.gather(first, second)
        assert stored == {"k": 2}

    run(work)


def test_a_cancelled_put_cannot_land_after_a_later_delete_of_the_same_batcher():
    """Why put and delete of an engine share one batcher."""

    async def work():
        server = Server()
        writes = server.batcher()
        tasks = await behind_a_held_call(server, writes, "put k")
        tasks[1].cancel()
        later = await started(writes.submit("delete k"))
        server.gate.set()
        await outcomes([tasks[0], *later])
        assert server.sent[1:] == [("many", ["put k", "delete k"])]

    run(work)


def test_a_read_may_overtake_a_cancelled_write_but_never_an_acknowledged_one():
    """The price of separate batchers for reads and writes: documented, and legal for an unknown outcome."""

    async def work():
        stored, gate = {}, asyncio.Event()

        async def put(item):
            await gate.wait()
            stored[item[0]] = item[1]

        async def get(key):
            await asyncio.sleep(0)
            return stored.get(key)

        async def put_many(items):
            return [await put(item) for item in items]

        async def get_many(keys):
            return [await get(key) for key in keys]

        writes, reads = Batcher(put, put_many, size=len), Batcher(get, get_many, size=len)
        held, cancelled = await started(writes.submit(("j", 0)), writes.submit(("k", 1)))
        cancelled.cancel()
        assert await reads.submit("k") is None, "the write is still under way"
        gate.set()
        await writes.submit(("k", 2))
        assert await reads.submit("k") == 2, "acknowledged, and the cancelled one came before it"
        await held
        await asyncio.gather(writes.close(), reads.close())
        assert stored == {"j": 0, "k": 2}

    run(work)


# Two flights


def first(item):
    return item[0]


async def in_two_flights(server, batcher, *items):
    """Calls for `items`, sent as soon as a direct call has ended, and held at the gate."""
    tasks = await behind_a_held_call(server, batcher, *items)
    server.gate.set()
    await tasks.pop(0)
    server.gate.clear()
    await ticks()
    server.sent.pop(0)
    return tasks


def test_a_crowd_divides_between_two_flights_and_stays_divided():
    async def work():
        server = Server()
        batcher = server.batcher(flights=2)
        numbers = [str(number) for number in range(50)]
        tasks = await in_two_flights(server, batcher, *numbers)
        assert server.sent == [("many", numbers[:25]), ("many", numbers[25:])], "both are under way"
        waiting = await started(*(batcher.submit(number) for number in numbers))
        assert len(server.sent) == 2
        server.gate.set()
        assert await outcomes([*tasks, *waiting]) == [f"did {number}" for number in numbers * 2]
        assert [len(items) for _, items in server.sent] == [25] * 4

    run(work)


def test_few_calls_are_not_divided():
    async def work():
        server = Server()
        batcher = server.batcher(flights=2)
        tasks = await in_two_flights(server, batcher, *"abcdefghijklmnop")
        server.gate.set()
        await outcomes(tasks)
        assert server.sent == [("many", [*"abcdefghijklmnop"])]
        await batcher.submit("q")
        await batcher.submit("r")
        assert server.sent[1:] == [("one", "q"), ("one", "r")], "then calls go direct again"

    run(work)


def test_flights_of_different_sizes_become_alike():
    async def work():
        server = Server()
        batcher = server.batcher(flights=2)
        await in_two_flights(server, batcher, *"abcdefghijklmnop")
        few = await started(*(batcher.submit(item) for item in "xy"))
        many = await started(*(batcher.submit(str(number)) for number in range(46)))
        server.gate.set()
        await outcomes([*few, *many])
        sizes = [len(items) for _, items in server.sent]
        assert sizes[:2] == [16, 2]
        assert min(sizes[2:]) > 20

    run(work)


def test_no_call_leaves_while_another_of_its_key_is_under_way():
    async def work():
        server = Server()
        batcher = server.batcher(flights=2, keys=first)
        tasks = await in_two_flights(server, batcher, "a1", "b1")
        tasks += await started(*(batcher.submit(item) for item in ("a2", "c1", "a3", "d1")))
        assert server.sent == [("many", ["a1", "b1"]), ("many", ["c1", "d1"])]
        server.gate.set()
        await outcomes(tasks)
        assert server.sent[2:] == [("many", ["a2", "a3"])]

    run(work)


def test_what_waits_for_its_key_stays_before_what_a_full_batch_leaves():
    async def work():
        server = Server()
        batcher = server.batcher(flights=2, keys=first, max_calls=2)
        tasks = await in_two_flights(server, batcher, "a1", "b1")
        tasks += await started(*(batcher.submit(item) for item in ("a2", "c1", "d1", "a3")))
        server.gate.set()
        await outcomes(tasks)
        assert server.sent == [("many", ["a1", "b1"]), ("many", ["c1", "d1"]), ("many", ["a2", "a3"])]

    run(work)


def test_a_call_of_several_keys_waits_for_each_and_those_behind_it_wait_too():
    async def work():
        server = Server()
        batcher = server.batcher(flights=2, keys=lambda item: item)
        tasks = await in_two_flights(server, batcher, "a", "b")
        tasks += await started(*(batcher.submit(item) for item in ("bc", "cd", "e")))
        assert server.sent == [("many", ["a", "b"]), ("one", "e")]
        server.gate.set()
        await outcomes(tasks)
        assert server.sent[2:] == [("many", ["bc", "cd"])]

    run(work)


def test_calls_of_one_key_alone_go_one_batch_after_the_other():
    async def work():
        server = Server()
        batcher = server.batcher(flights=2, keys=first)
        tasks = await in_two_flights(server, batcher, "a1", "a2")
        tasks += await started(batcher.submit("a3"), batcher.submit("a4"))
        tasks += await started(batcher.submit("b1"))
        assert server.sent == [("many", ["a1", "a2"]), ("one", "b1")], "the others pass by"
        server.gate.set()
        await outcomes(tasks)
        assert server.sent[2:] == [("many", ["a3", "a4"])]
        await batcher.close()

    run(work)


def test_a_cancelled_put_in_one_flight_cannot_land_after_a_delete_in_the_other():
    async def work():
        server = Server()
        batcher = server.batcher(flights=2, keys=first)
        tasks = await in_two_flights(server, batcher, "k put", "j put")
        tasks[0].cancel()
        later = await started(batcher.submit("k delete"))
        assert server.sent == [("many", ["k put", "j put"])]
        server.gate.set()
        await outcomes([tasks[1], *later])
        assert server.sent[1:] == [("one", "k delete")]

    run(work)


def test_one_flight_cancelled_leaves_nobody_waiting_and_the_other_goes_on():
    async def work():
        server = Server()
        batcher = server.batcher(flights=2, max_calls=2)
        tasks = await in_two_flights(server, batcher, *"abcde")
        server.tasks[1].cancel()
        await ticks()
        server.gate.set()
        a, b, c, d, e = await outcomes(tasks)
        assert [error.outcome for error in (a, b, e)] == [Outcome.UNKNOWN] * 3
        assert [c, d] == ["did c", "did d"]
        assert await batcher.submit("later") == "did later"
        await batcher.close()

    run(work)


def test_large_calls_go_by_themselves_beside_the_batches():
    async def work():
        server = Server()
        batcher = server.batcher(large=3, singles=2)
        tasks = await in_two_flights(server, batcher, "a", "b", "large1", "large2", "large3", "c")
        assert server.sent == [("many", ["a", "b"]), ("one", "large1"), ("one", "large2")]
        server.gate.set()
        assert await outcomes(tasks) == [f"did {item}" for item in ("a", "b", "large1", "large2", "large3", "c")]
        assert server.sent[3:] == [("one", "large3"), ("one", "c")]
        assert await batcher.submit("large4") == "did large4", "then calls go direct again"

    run(work)


def test_a_large_call_keeps_its_place_among_those_of_its_key():
    async def work():
        server = Server()
        batcher = server.batcher(keys=first, large=3, singles=2)
        items = ["a1", "a2 large", "b1 large", "a3", "c1"]
        tasks = await in_two_flights(server, batcher, *items)
        assert server.sent == [("one", "a1"), ("one", "b1 large")]
        server.gate.set()
        await outcomes(tasks)
        assert server.sent[2:] == [("one", "a2 large"), ("one", "c1"), ("one", "a3")]

    run(work)


def test_a_call_that_waits_for_its_key_lets_no_more_large_ones_by_than_may_go():
    async def work():
        server = Server()
        batcher = server.batcher(flights=2, keys=first, large=3, singles=2)
        tasks = await in_two_flights(server, batcher, "a1", "a2")
        tasks += await started(*(batcher.submit(item) for item in ("a3", *(f"{n} large" for n in range(9)))))
        assert len(server.sent) <= 4
        server.gate.set()
        assert len(set(await outcomes(tasks))) == 12

    run(work)


def test_close_waits_for_both_flights():
    async def work():
        server = Server()
        batcher = server.batcher(flights=2, max_calls=2)
        tasks = await in_two_flights(server, batcher, *"abcd")
        (closing,) = await started(batcher.close())
        server.tasks[1].cancel()
        await ticks()
        assert not closing.done()
        server.gate.set()
        await closing
        assert len(await outcomes(tasks)) == 4

    run(work)


@pytest.mark.parametrize(("away", "between", "largest"), [(0.1, 0.01, 101), (0.1, 0.09, 51), (0.001, 60, 51)])
def test_a_crowd_divides_where_the_disk_is_synced_only_if_the_loop_is_busy_too(away, between, largest, monkeypatch):
    """Two batches would wait for each other's sync: one that is larger is acknowledged as soon."""

    async def work():
        now = 0.0
        monkeypatch.setattr("polymem.core.batch.perf_counter", lambda: now)

        async def many(items):
            nonlocal now
            now += away
            sizes.append(len(items))
            await asyncio.sleep(0)
            return items

        async def one(item):
            await asyncio.sleep(0)

        sizes = []
        batcher = Batcher(one, many, size=len, flights=2, keys=first, syncs=True)
        for pause in [60] * 5 + [between] * 13:  # the first are the callers' affair
            sizes.clear()
            await asyncio.gather(*(batcher.submit(str(number)) for number in range(101)))
            now += pause
        assert max(sizes) == largest

    run(work)


# Life


def test_close_carries_out_what_was_submitted_and_refuses_the_rest():
    async def work():
        server = Server()
        batcher = server.batcher(max_calls=2)
        tasks = await behind_a_held_call(server, batcher, *"abc")
        tasks[2].cancel()
        closing = await started(batcher.close(), batcher.close())
        assert not any(task.done() for task in closing)
        with pytest.raises(StorageConnectionError) as refused:
            await batcher.submit("late")
        assert refused.value.outcome is Outcome.NOT_APPLIED
        server.gate.set()
        await asyncio.gather(*closing)
        assert server.sent == [("one", "direct"), ("many", ["a", "b"]), ("one", "c")]
        assert await outcomes([tasks[0], tasks[1], tasks[3]]) == ["did direct", "did a", "did c"]
        await batcher.close()

    run(work)


def test_close_waits_for_a_direct_call_and_can_be_cancelled_and_repeated():
    async def work():
        server = Server()
        batcher = server.batcher()
        (direct,) = await behind_a_held_call(server, batcher)
        (closing,) = await started(batcher.close())
        closing.cancel()
        await ticks()
        (closing,) = await started(batcher.close())
        assert not closing.done()
        server.gate.set()
        await closing
        assert await direct == "did direct"

    run(work)


def test_close_flushes_calls_that_still_gather():
    async def work():
        server = Server()
        batcher = server.batcher()
        await asyncio.gather(*(batcher.submit(item) for item in "abc"))
        gathering = asyncio.create_task(batcher.submit("d"))
        await asyncio.sleep(0)
        await batcher.close()
        assert await gathering == "did d"

    run(work)


def test_closing_an_idle_batcher_is_immediate():
    async def work():
        server = Server()
        batcher = server.batcher()
        await batcher.close()
        with pytest.raises(StorageConnectionError):
            await batcher.submit("a")
        assert server.sent == []

    run(work)


def test_a_batcher_belongs_to_its_loop():
    async def work():
        server = Server()
        batcher = server.batcher()
        refused = []

        def elsewhere():
            with pytest.raises(StorageConnectionError, match="another event loop"):
                asyncio.run(batcher.submit("a"))
            refused.append(True)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert refused
        assert server.sent == []
        assert await batcher.submit("b") == "did b"

    run(work)


# Random interleavings against a model: logical time only, so a failing example replays exactly


def lost(outcome, kind=StorageConnectionError):
    return kind("lost", outcome=outcome)


FATES = ("ok", "ok", "ok", "refused", "away", "lost before", "lost after", "each")


@dataclass
class Model:
    """A server with a store, told by `fates` how each driver call goes; it takes so many calls at a time."""

    fates: list
    delays: list
    log: list = field(default_factory=list)  # writes as they were applied: (key, serial)
    stored: dict = field(default_factory=dict)
    calls: int = 0
    flights: int = 1
    busy: list = field(default_factory=list)  # the keys of the calls under way

    def apply(self, item):
        operation, key, serial = item
        if operation == "put":
            self.stored[key] = serial
            self.log.append((key, serial))
        return self.stored.get(key, -1)

    async def call(self, items):
        keys = {key for _, key, _ in items}
        assert len(self.busy) < self.flights, "too many driver calls at a time"
        assert self.flights == 1 or all(map(keys.isdisjoint, self.busy)), "a key in two calls at a time"
        self.busy.append(keys)
        fate = self.fates[self.calls % len(self.fates)] if self.fates else "ok"
        delay = self.delays[self.calls % len(self.delays)] if self.delays else 0
        self.calls += 1
        try:
            await ticks(delay // 2)
            return self.carry_out(fate, items)
        finally:
            self.busy.remove(keys)

    def carry_out(self, fate, items):
        if fate == "refused":
            raise StorageQueryError("refused")
        if fate == "away":
            raise lost(Outcome.NOT_APPLIED)
        if fate == "lost before":
            raise lost(Outcome.UNKNOWN)
        each = [StorageDataError("") if fate == "each" and i % 3 == 1 else self.apply(x) for i, x in enumerate(items)]
        if fate == "lost after":
            raise lost(Outcome.UNKNOWN, StorageQueryError)
        return each

    async def one(self, item):
        return (await self.call([item]))[0]

    async def many(self, items):
        assert 1 < len(items) <= 4
        return await self.call(items)


@dataclass
class History:
    submitted: list = field(default_factory=list)
    acknowledged: list = field(default_factory=list)
    refused: list = field(default_factory=list)
    reads: list = field(default_factory=list)

    async def step(self, batcher, operation, key):
        serial = len(self.submitted)
        floor = max((s for k, s in self.acknowledged if k == key), default=-1)
        self.submitted.append((key, serial))
        try:
            value = await batcher.submit((operation, key, serial))
        except StorageError as error:
            if error.outcome is Outcome.NOT_APPLIED:
                self.refused.append((key, serial))
            return
        if operation == "put":
            self.acknowledged.append((key, serial))
        else:
            self.reads.append((key, serial, floor, value))


async def client(history, batchers, script):
    for operation, key, pause in script:
        await ticks(pause)
        await history.step(batchers[operation], operation, key)


def size(item):
    """Some are large."""
    return 1 + (item[2] % 3 == 0)


operations = st.tuples(st.sampled_from(["put", "put", "get"]), st.sampled_from("jkl"), st.integers(0, 3))
scripts = st.lists(st.lists(operations, min_size=1, max_size=5), min_size=1, max_size=8)
servers = st.builds(Model, st.lists(st.sampled_from(FATES), max_size=12), st.lists(st.integers(0, 8), max_size=5))
cancellations = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 7)), max_size=6)


@settings(deadline=None, max_examples=300)
@given(scripts, servers, cancellations, st.booleans(), st.integers(0, 60), st.integers(1, 2), st.integers(0, 2))
def test_any_interleaving_keeps_the_promises(scripts, server, cancellations, shared, close_at, flights, singles):
    async def work():
        history = History()
        server.flights = flights + singles
        alone = {"large": 1, "singles": singles} if singles else {}
        writes = Batcher(
            server.one, server.many, size=size, max_calls=4, flights=flights, keys=itemgetter(1), **alone
        )  # fmt: skip
        reader = server if shared else Model(server.fates[::-1], server.delays[::-1], stored=server.stored)
        reads = writes if shared else Batcher(reader.one, reader.many, size=len, max_calls=4)
        tasks = [asyncio.create_task(client(history, {"put": writes, "get": reads}, script)) for script in scripts]
        closing = None
        for now in range(3000):
            for when, whom in cancellations:
                if when == now:
                    tasks[whom % len(tasks)].cancel()
            if now >= close_at and closing is None:
                closing = asyncio.gather(writes.close(), reads.close())
            if closing is not None and closing.done() and all(task.done() for task in tasks):
                break
            await asyncio.sleep(0)
        else:
            pytest.fail("somebody hangs")
        for task in tasks:
            assert task.cancelled() or task.exception() is None
        return history

    history = run(work)
    written = Counter(server.log)
    assert all(count == 1 for count in written.values()), "a write was applied twice"
    assert set(history.acknowledged) <= set(written), "an acknowledged write is missing"
    assert not set(history.refused) & set(written), "a write was called not applied, but it was"
    for key in "jkl":
        serials = [serial for k, serial in server.log if k == key]
        assert serials == sorted(serials), "a key lost its order"
    for key, serial, floor, value in history.reads:
        assert value >= floor, "a read missed a write acknowledged before it"
        if shared:
            before = [s for k, s in server.log if k == key and s < serial]
            assert value == max(before, default=-1), "with one batcher for all, reads keep their place too"


def test_its_loop_may_move_to_another_thread():
    """It knows its loop by the thread, which is quicker; a loop may be run by one thread after the other."""
    loop, server, answers = asyncio.new_event_loop(), Server(), []

    async def begin():
        return server.batcher()

    batcher = loop.run_until_complete(begin())
    elsewhere = threading.Thread(target=lambda: answers.append(loop.run_until_complete(batcher.submit(("get", "a")))))
    elsewhere.start()
    elsewhere.join()
    loop.close()
    assert answers == [server.answer(("get", "a"))]
