"""Callers and batches that are cancelled, and a batcher that is closed: nobody waits for ever (G-8)."""

import asyncio
import gc
import threading

import pytest
from core.batch_server import Server, behind_a_held_call, outcomes, run, settled, started, ticks

from polymem.errors import Outcome, StorageConnectionError, StorageDataError


@settled
async def test_a_cancelled_caller_leaves_its_call_in_the_queue():
    server = Server()
    batcher = server.batcher()
    tasks = await behind_a_held_call(server, batcher, *"abc")
    tasks[2].cancel()
    await ticks()
    assert tasks[2].cancelled(), "a cancelled caller need not wait for the server"
    server.gate.set()
    assert await outcomes([tasks[0], tasks[1], tasks[3]]) == ["did direct", "did a", "did c"]
    assert server.sent[1:] == [("many", ["a", "b", "c"])]


@pytest.mark.parametrize(
    "failure", [None, StorageConnectionError("cut", outcome=Outcome.UNKNOWN), StorageDataError("")]
)
@settled
async def test_cancelling_a_caller_of_the_batch_under_way_disturbs_no_other(failure):
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


@settled
async def test_cancelling_a_direct_caller_lets_the_queue_go_on():
    server = Server()
    batcher = server.batcher()
    tasks = await behind_a_held_call(server, batcher, *"ab")
    tasks[0].cancel()
    await ticks(1)
    server.gate.set()
    assert await outcomes(tasks[1:]) == ["did a", "did b"]
    assert tasks[0].cancelled()


@settled
async def test_a_caller_cancelled_at_the_moment_of_failure_leaves_no_complaint():
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
    assert isinstance(answers[1], asyncio.CancelledError)  # fails if asyncio logs an exception never retrieved


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


@settled
async def test_close_carries_out_what_was_submitted_and_refuses_the_rest():
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


@settled
async def test_close_waits_for_a_direct_call_and_can_be_cancelled_and_repeated():
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


@settled
async def test_close_flushes_calls_that_still_gather():
    server = Server()
    batcher = server.batcher()
    await asyncio.gather(*(batcher.submit(item) for item in "abc"))
    gathering = asyncio.create_task(batcher.submit("d"))
    await asyncio.sleep(0)
    await batcher.close()
    assert await gathering == "did d"


@settled
async def test_closing_an_idle_batcher_is_immediate():
    server = Server()
    batcher = server.batcher()
    await batcher.close()
    with pytest.raises(StorageConnectionError):
        await batcher.submit("a")
    assert server.sent == []


@settled
async def test_a_batcher_belongs_to_its_loop():
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
