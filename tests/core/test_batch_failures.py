"""Calls of a batch that fails: each has its own outcome, and nothing is sent twice (G-1, G-8, RES-1)."""

import asyncio

import pytest
from core.batch_server import Lost, Server, behind_a_held_call, outcomes, settled, started

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


@settled
async def test_each_call_of_a_batch_has_its_own_outcome():
    refused = StorageDataError("no", field="value")

    async def many(items):
        return [refused if item == "b" else item.upper() for item in items]

    async def one(item):
        await asyncio.sleep(0)
        return item

    batcher = Batcher(one, many, size=len)
    assert await outcomes([batcher.submit(item) for item in "abc"]) == ["a", refused, "C"]


@settled
async def test_a_batch_that_was_not_applied_is_sent_one_by_one_in_order():
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
@settled
async def test_nothing_is_sent_again_unless_nothing_was_applied_and_a_call_is_to_blame(failure):
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


@settled
async def test_the_driver_exception_stays_the_cause_of_every_callers_error():
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


@pytest.mark.parametrize(
    ("translated", "one_by_one"),
    [
        (None, False),
        (StorageQueryError("bad"), True),
        (StorageQueryError("bad", outcome=Outcome.UNKNOWN), False),
    ],
)
@settled
async def test_the_error_map_judges_a_driver_exception(translated, one_by_one):
    server = Server()
    batcher = server.batcher(translate=lambda error: translated)
    lost = Lost()
    server.script = [None, lost]
    tasks = await behind_a_held_call(server, batcher, *"ab")
    server.gate.set()
    answers = (await outcomes(tasks))[1:]
    assert answers == (["did a", "did b"] if one_by_one else [lost, lost])


@settled
async def test_a_server_lost_during_one_by_one_is_not_asked_once_per_call():
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


@settled
async def test_a_driver_that_answers_too_few_calls_leaves_all_unknown():
    async def many(items):
        return items[1:]

    async def one(item):
        await asyncio.sleep(0)

    batcher = Batcher(one, many, size=len)
    errors = (await outcomes([batcher.submit(item) for item in "abc"]))[1:]
    assert [(type(error), error.outcome) for error in errors] == [(StorageError, Outcome.UNKNOWN)] * 2


@settled
async def test_a_broken_error_map_leaves_nobody_waiting():
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
@settled
async def test_the_breaker_counts_a_lost_batch_once(first, second):
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
