"""A bounded pool of connections: first come, first served, at next to no cost where one is idle (RES-3).

asyncpg's own pool asks the server to reset the session at every release, which costs as much as the call itself. Ours
needs no reset because nothing here changes a session; what users run (`store.sql`) is followed by one.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, Final

from polymem.core.breaker import PoolExhaustedError
from polymem.core.cancellation import to_the_end
from polymem.engines.postgres._errors import breaks_connection
from polymem.errors import Outcome, StorageConnectionError, StorageTimeoutError

_SETTLE: Final = "rollback"
_CLOSING: Final = 5.0
"""Seconds that closing waits for calls under way."""
_HELD: Final = 50
"""Statements that a connection keeps prepared for `point`."""


class Link:
    """One connection. `timeout` is in seconds and holds for each statement, as the client's clock has it."""

    __slots__ = ("_patience", "_prepared", "_prepares", "_since", "late", "opened_at", "raw", "timeout", "used_at")

    def __init__(self, raw: Any, *, prepares: bool, timeout: float) -> None:
        self.raw = raw
        self.timeout = self._patience = timeout
        self.opened_at = self.used_at = monotonic()
        self.late = False
        """Whether it was cut because a statement took too long."""
        self._prepares, self._since = prepares, 0.0
        self._prepared: dict[str, Any] = {}

    @property
    def closed(self) -> bool:
        return bool(self.raw.is_closed())

    async def fetch(self, statement: str, *values: Any) -> list[Any]:
        """Run one statement; its rows."""
        rows: list[Any] = await self.raw.fetch(statement, *values, timeout=self.timeout)
        return rows

    def point(self, statement: str, *values: Any) -> Awaitable[list[Any]]:
        """The same at the least cost, for the few statements worth it: held prepared, without a timer of its own."""
        prepared = self._prepared.get(statement)
        if prepared is None:
            return self._first(statement, values)
        self._since = monotonic()
        rows: Awaitable[list[Any]] = prepared.fetch(*values)
        return rows

    async def _first(self, statement: str, values: tuple[Any, ...]) -> list[Any]:
        if self._prepares:
            if len(self._prepared) >= _HELD:
                self._prepared.clear()
            self._prepared[statement] = await self.raw.prepare(statement, timeout=self.timeout)
        return await self.fetch(statement, *values)

    def rest(self, now: float) -> None:
        """Nothing is under way any more."""
        self.used_at, self._since, self.timeout = now, 0.0, self._patience

    def watch(self, now: float) -> None:
        """Cut a call of `point` that takes too long."""
        if self._since and now - self._since > self._patience:
            self.late = True
            self.raw.terminate()

    async def run(self, script: str) -> str:
        """Run statements without values in one round trip; what the server says of the last."""
        return str(await self.raw.execute(script, timeout=self.timeout))

    async def reset(self) -> None:
        """Undo what a statement of the user may have done to the session."""
        if self._prepares:
            await self.raw.reset(timeout=_CLOSING)

    async def settle(self, error: BaseException) -> None:
        """After a failed call: be sure that the server is done with it, or close."""
        self._prepared.clear()  # one of them may be what failed
        self._since = 0.0
        try:
            if breaks_connection(error):
                self.raw.terminate()
            elif not isinstance(error, Exception) or self.raw.is_in_transaction():
                # a cancelled statement may have been carried out: waiting for this one tells
                async with asyncio.timeout(_CLOSING):  # older drivers wait for the cancelled call without a limit
                    await self.raw.execute(_SETTLE)
        except Exception:  # noqa: BLE001 - whatever it is, the connection is not to be used again
            self.raw.terminate()


class Pool:
    """`connect` opens a connection, `disconnect` gives one up."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Link]],
        disconnect: Callable[[Link], Coroutine[Any, Any, None]],
        *,
        min_size: int,
        max_size: int,
        acquire_timeout: float,
        max_idle: float,
        max_lifetime: float,
    ) -> None:
        self._connect, self._disconnect = connect, disconnect
        self._min, self._max, self._patience = min_size, max_size, acquire_timeout
        self._max_idle, self._max_lifetime = max_idle, max_lifetime
        self._idle: deque[Link] = deque()
        self._links: set[Link] = set()
        self._waiters: deque[asyncio.Future[Link | None]] = deque()
        self._size = 0
        self._closed = False
        self._empty = asyncio.Event()
        self._tasks: set[asyncio.Future[Any]] = set()
        self.connects = 0
        """Connections opened so far."""

    def figures(self) -> dict[str, int]:
        """How full it is (MET-1)."""
        used = self._size - len(self._idle)
        return {"size": self._size, "used": used, "waiting": len(self._waiters), "max_size": self._max}

    async def open(self) -> None:
        """Connect as many as are always wanted, one at least so that a wrong URL shows now."""
        links = await asyncio.gather(*(self.acquire() for _ in range(max(self._min, 1))), return_exceptions=True)
        for link in links:
            if isinstance(link, Link):
                self.release(link)
        for link in links:
            if isinstance(link, BaseException):
                await self.close()
                raise link

    def take(self) -> Link | None:
        """An idle connection, if there is one and nobody waits for it."""
        while self._idle and not self._waiters:
            link = self._idle.pop()
            if not link.raw.is_closed():
                return link
            self._discard(link)
        return None

    async def acquire(self) -> Link:
        """A connection for the caller alone; `StorageTimeoutError` if all stay in use for too long."""
        return self.take() or await self._open_or_wait()

    def release(self, link: Link) -> None:
        """Hand it to the one who waits longest, or keep it; one that is closed or too old makes room for another."""
        now = monotonic()
        link.rest(now)
        if not (self._waiters or self._closed or now - link.opened_at > self._max_lifetime):
            self._idle.append(link)  # whoever takes it looks whether it is still open
        elif link.closed or self._closed or now - link.opened_at > self._max_lifetime:
            self._discard(link)
        elif not self._hand(link):
            self._idle.append(link)

    async def settle(self, link: Link, error: BaseException) -> None:
        """Release a connection on which a call failed or was cancelled, when the server is done with it."""
        await to_the_end(self._settle(link, error))
        if link.late and isinstance(error, Exception):
            raise StorageTimeoutError("the server did not answer in time", outcome=Outcome.UNKNOWN) from error

    async def _settle(self, link: Link, error: BaseException) -> None:
        await link.settle(error)
        if link.closed:
            self._discard(link)
        else:
            self.release(link)

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Link]:
        link = await self.acquire()
        try:
            yield link
        except BaseException as error:
            await self.settle(link, error)
            raise
        self.release(link)

    def watch(self) -> None:
        """Cut what takes too long; to be called every second or so."""
        now = monotonic()
        for link in self._links:
            link.watch(now)

    def cut(self) -> None:
        """End every connection at once; the calls under way fail."""
        for link in self._links:
            link.raw.terminate()

    def prune(self) -> None:
        """Give up what was idle or open for too long, but for the few always wanted."""
        now = monotonic()
        for link in [*self._idle]:  # the least recently used first
            old = now - link.opened_at > self._max_lifetime
            if old or (now - link.used_at > self._max_idle and self._size > self._min):
                self._idle.remove(link)
                self._discard(link)

    async def close(self) -> None:
        """Refuse new calls, wait a while for those under way, disconnect."""
        self._closed = True
        while self._waiters:
            _settle(self._waiters.popleft(), StorageConnectionError("the store was closed"))
        while self._idle:
            self._discard(self._idle.pop())
        self._empty.clear()
        if self._size:
            with_patience = asyncio.wait_for(self._empty.wait(), _CLOSING)
            await asyncio.gather(with_patience, return_exceptions=True)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _open_or_wait(self) -> Link:
        if self._closed:
            raise StorageConnectionError("the store is not open")
        if self._size < self._max and not self._waiters:
            self._size += 1
            return await self._opened()
        return await self._wait() or await self._opened()

    async def _opened(self) -> Link:
        """Use the room that is already counted in `_size`. A connection whose caller is cancelled is kept for others."""
        task = asyncio.ensure_future(self._connect())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            link = await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._adopt)
            raise
        except BaseException:
            self._make_room()
            raise
        return self._noted(link)

    def _adopt(self, task: "asyncio.Future[Link]") -> None:
        if task.cancelled() or task.exception() is not None:
            self._make_room()
        else:
            self.release(self._noted(task.result()))

    def _noted(self, link: Link) -> Link:
        self.connects += 1
        self._links.add(link)
        return link

    async def _wait(self) -> Link | None:
        """A connection, or None: there is room for a new one."""
        waiter: asyncio.Future[Link | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        timer = asyncio.get_running_loop().call_later(self._patience, self._give_up, waiter)
        try:
            return await waiter
        except BaseException:
            if waiter in self._waiters:
                self._waiters.remove(waiter)  # else nobody behind it would be served
            elif waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._pass_on(waiter.result())
            raise
        finally:
            timer.cancel()

    def _give_up(self, waiter: "asyncio.Future[Link | None]") -> None:
        waiting = len(self._waiters)
        message = f"all {self._max} connections are in use and {waiting} calls wait; raise max_size or do less at once"
        _settle(waiter, PoolExhaustedError(message))

    def _pass_on(self, given: Link | None) -> None:
        if given is None:
            self._make_room()
        else:
            self.release(given)

    def _hand(self, given: Link | None) -> bool:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(given)
                return True
        return False

    def _discard(self, link: Link) -> None:
        self._links.discard(link)
        task = asyncio.get_running_loop().create_task(self._disconnect(link))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._make_room()

    def _make_room(self) -> None:
        if self._closed or not self._hand(None):
            self._size -= 1
        if not self._size:
            self._empty.set()


def _settle(waiter: "asyncio.Future[Link | None]", error: Exception) -> None:
    if not waiter.done():
        waiter.set_exception(error)
