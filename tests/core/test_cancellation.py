"""Work that must not be cut off ends before its caller does (G-8)."""

import asyncio

import pytest

from polymem.core.cancellation import to_the_end

pytestmark = pytest.mark.anyio


async def test_it_ends_however_often_the_caller_is_cancelled() -> None:
    may_end, ended = asyncio.Event(), False

    async def work() -> None:
        nonlocal ended
        await may_end.wait()
        ended = True
        raise ValueError("nobody hears of it")  # and asyncio does not complain either

    caller = asyncio.create_task(to_the_end(work()))
    for _ in range(3):
        await asyncio.sleep(0)
        caller.cancel()
    await asyncio.sleep(0)
    assert not caller.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended


async def test_results_and_errors_are_the_works_own() -> None:
    async def divide(by: int) -> float:
        return 1 / by

    assert await to_the_end(divide(2)) == 0.5
    with pytest.raises(ZeroDivisionError):
        await to_the_end(divide(0))


async def test_work_that_is_cancelled_itself_says_so() -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    waiting = asyncio.create_task(to_the_end(task))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_work_that_is_cancelled_itself() -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        raise asyncio.CancelledError

    caller = asyncio.create_task(to_the_end(work()))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
