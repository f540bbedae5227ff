"""The pool of connections by itself (RES-3)."""

import asyncio
from typing import Any

import pytest

from polymem.engines.redis._line import Line
from polymem.engines.redis._pool import Limits, Pool
from polymem.errors import StorageConnectionError, StorageTimeoutError

pytestmark = pytest.mark.anyio


class Connection:
    """Counts how often it was closed; nothing is ever said over it."""

    closed = 0

    async def disconnect(self, **_: Any) -> None:
        self.closed += 1


class Bench:
    """A pool whose clock is moved by hand."""

    def __init__(self, **limits: Any) -> None:
        self.connections: list[Connection] = []
        self.time = 1000.0
        self.pool = Pool(self._make, Limits(**limits), lambda: self.time)

    def _make(self) -> Line:
        self.connections.append(Connection())
        return Line(self.connections[-1], 1.0)  # type: ignore[arg-type]


async def test_what_is_not_needed_is_closed() -> None:
    bench = Bench(max_idle=10)
    lines = [await bench.pool.acquire() for _ in range(3)]
    for line in lines:
        await bench.pool.release(line)
    for _ in range(4):
        bench.time += 6
        await bench.pool.release(await bench.pool.acquire())
    assert [connection.closed for connection in bench.connections] == [1, 1, 0]
    assert bench.pool.status() == {"size": 1, "used": 0, "waiting": 0, "max_size": 50}


async def test_an_old_connection_is_made_anew() -> None:
    bench = Bench(max_lifetime=100, max_idle=1000)
    for passed, closed in ((0, 0), (100, 0), (1, 1), (100, 1), (1, 2)):
        bench.time += passed
        await bench.pool.release(await bench.pool.acquire())
        assert bench.connections[0].closed == closed
    assert len(bench.connections) == 1


async def test_waiters_are_served_in_order_and_may_leave() -> None:
    bench = Bench(size=1)
    line = await bench.pool.acquire()
    served: list[int] = []

    async def take(number: int) -> None:
        await bench.pool.release(await bench.pool.acquire())
        served.append(number)

    tasks = [asyncio.create_task(take(number)) for number in range(6)]
    await asyncio.sleep(0)
    assert bench.pool.status()["waiting"] == 6
    for number in (0, 3):
        tasks[number].cancel()
    await bench.pool.release(line)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert served == [1, 2, 4, 5]
    assert bench.pool.status() == {"size": 1, "used": 0, "waiting": 0, "max_size": 1}


async def test_cancelled_in_the_very_moment_of_being_served() -> None:
    bench = Bench(size=1)
    line = await bench.pool.acquire()
    task = asyncio.create_task(bench.pool.acquire())
    await asyncio.sleep(0)
    await bench.pool.release(line)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert bench.pool.status()["used"] == 0
    assert await bench.pool.acquire() is line


async def test_patience_ends() -> None:
    bench = Bench(size=1, acquire_timeout=0.001)
    await bench.pool.acquire()
    with pytest.raises(StorageTimeoutError, match="all 1 connections .* 1 callers"):
        await bench.pool.acquire()
    assert bench.pool.status()["waiting"] == 0


async def test_closing_sends_waiters_away() -> None:
    bench = Bench(size=1)
    line = await bench.pool.acquire()
    task = asyncio.create_task(bench.pool.acquire())
    await asyncio.sleep(0)
    await bench.pool.close()
    with pytest.raises(StorageConnectionError):
        await task
    await bench.pool.release(line)
    assert bench.connections[0].closed == 1
    with pytest.raises(StorageConnectionError):
        await bench.pool.acquire()
