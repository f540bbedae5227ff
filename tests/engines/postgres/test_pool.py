"""The pool by itself: bounded, fair, nothing lost (RES-3, G-8)."""

import asyncio
from typing import Any

import pytest

from polymem.engines.postgres import _pool
from polymem.engines.postgres._pool import Link, Pool
from polymem.errors import StorageConnectionError, StorageTimeoutError

pytestmark = pytest.mark.anyio


class Connection:
    def __init__(self) -> None:
        self.closed = False

    def is_closed(self) -> bool:
        return self.closed

    def is_in_transaction(self) -> bool:
        return False

    def terminate(self) -> None:
        self.closed = True

    async def execute(self, statement: str, timeout: float | None = None) -> str:
        return statement


class Server:
    """Hands out connections, when it is allowed to."""

    def __init__(self) -> None:
        self.open: list[Link] = []
        self.opened, self.failures = 0, 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def connect(self) -> Link:
        await self.gate.wait()
        if self.failures:
            self.failures -= 1
            raise StorageConnectionError("away")
        self.opened += 1
        self.open.append(Link(Connection(), prepares=True, timeout=30.0))
        return self.open[-1]

    async def disconnect(self, link: Link) -> None:
        self.open.remove(link)

    def pool(self, **options: Any) -> Pool:
        given = {
            "min_size": 0, "max_size": 2, "acquire_timeout": 30.0, "max_idle": 60.0, "max_lifetime": 600.0, **options
        }  # fmt: skip
        return Pool(self.connect, self.disconnect, **given)


async def ticks() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture(name="server")
async def give_server() -> Server:
    return Server()


@pytest.fixture(name="clock")
def give_clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(_pool, "monotonic", lambda: now[0])
    return now


async def test_no_more_than_allowed_and_first_come_first_served(server: Server) -> None:
    pool, order = server.pool(), []

    async def use(number: int) -> None:
        link = await pool.acquire()
        order.append(number)
        await ticks()
        pool.release(link)

    await asyncio.gather(*map(use, range(20)))
    assert order == list(range(20))
    assert server.opened == 2
    assert pool.figures() == {"size": 2, "used": 0, "waiting": 0, "max_size": 2}
    await pool.close()
    assert server.open == []


async def test_who_waits_too_long_is_told_and_holds_up_nobody(server: Server) -> None:
    pool = server.pool(max_size=1, acquire_timeout=0.01)
    link = await pool.acquire()
    with pytest.raises(StorageTimeoutError, match="all 1 connections are in use and 1 calls wait"):
        await pool.acquire()
    pool.release(link)
    assert await pool.acquire() is link


async def test_a_cancelled_waiter_passes_on_what_it_was_given(server: Server) -> None:
    pool = server.pool(max_size=1)
    link = await pool.acquire()
    first, second = asyncio.create_task(pool.acquire()), asyncio.create_task(pool.acquire())
    await ticks()
    pool.release(link)
    first.cancel()  # has been given it, but not run yet
    assert await second is link
    assert first.cancelled() or await asyncio.gather(first, return_exceptions=True)
    third = asyncio.create_task(pool.acquire())
    await ticks()
    third.cancel()
    await ticks()
    pool.release(link)
    assert pool.figures()["waiting"] == 0
    assert pool.take() is link


async def test_a_connection_that_could_not_be_made_leaves_room(server: Server) -> None:
    pool = server.pool(max_size=1)
    server.gate.clear()
    server.failures = 1
    tasks = [asyncio.create_task(pool.acquire()) for _ in range(2)]
    await ticks()
    server.gate.set()
    first, second = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(first, StorageConnectionError)
    assert isinstance(second, Link)


async def test_a_connection_whose_caller_is_gone_is_kept(server: Server) -> None:
    pool = server.pool(max_size=1)
    server.gate.clear()
    gone = asyncio.create_task(pool.acquire())
    await ticks()
    gone.cancel()
    await ticks()
    server.gate.set()
    link = await pool.acquire()
    assert server.opened == 1
    pool.release(link)
    await pool.close()
    assert server.open == []


async def test_broken_connections_are_replaced(server: Server) -> None:
    pool = server.pool(max_size=1)
    link = await pool.acquire()
    link.raw.closed = True
    waiting = asyncio.create_task(pool.acquire())
    await ticks()
    pool.release(link)
    other = await waiting
    assert other is not link
    pool.release(other)
    other.raw.closed = True
    assert await pool.acquire() not in (link, other)


async def test_old_and_idle_connections_are_given_up(server: Server, clock: list[float]) -> None:
    pool = server.pool(min_size=1, max_size=3)
    links = [await pool.acquire() for _ in range(3)]
    for link in links:
        pool.release(link)
    clock[0] += 61
    used = await pool.acquire()
    pool.release(used)
    pool.prune()
    assert pool.figures()["size"] == 1
    assert pool.take() is used
    clock[0] += 600
    pool.release(used)
    assert pool.figures()["size"] == 0
    await pool.close()
    assert server.open == []


async def test_a_call_that_never_ends_is_cut(server: Server, clock: list[float]) -> None:
    pool = server.pool()
    link = await pool.acquire()
    link._prepared["x"] = Connection()  # a prepared statement
    link._prepared["x"].fetch = lambda: asyncio.sleep(0)
    await link.point("x")
    clock[0] += 29
    pool.watch()
    assert not link.closed
    clock[0] += 2
    pool.watch()
    assert link.closed
    with pytest.raises(StorageTimeoutError):
        await pool.settle(link, ConnectionResetError())
    assert pool.figures()["size"] == 0


async def test_closing_waits_for_calls_and_refuses_new_ones(server: Server) -> None:
    pool = server.pool(max_size=1)
    link = await pool.acquire()
    waiting = asyncio.create_task(pool.acquire())
    await ticks()
    closing = asyncio.create_task(pool.close())
    await ticks()
    with pytest.raises(StorageConnectionError):
        await waiting
    with pytest.raises(StorageConnectionError):
        await pool.acquire()
    assert not closing.done()
    pool.release(link)
    await closing
    assert server.open == []


async def test_a_connection_holds_a_bounded_number_of_statements() -> None:
    class Prepared:
        async def fetch(self) -> list[int]:
            return [1]

    class Preparing(Connection):
        async def prepare(self, _: str, timeout: float) -> Prepared:  # noqa: ASYNC109 - asyncpg's
            return Prepared()

        async def fetch(self, _: str, timeout: float) -> list[int]:  # noqa: ASYNC109
            return [1]

    link = Link(Preparing(), prepares=True, timeout=30.0)
    for number in range(3 * _pool._HELD):
        assert await link.point(f"select {number}") == [1]
    assert 0 < len(link._prepared) <= _pool._HELD
