"""A bounded pool of connections whose callers wait in order (RES-3)."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from polymem.core.breaker import PoolExhaustedError
from polymem.engines.redis._line import Command, Line
from polymem.errors import StorageConnectionError


@dataclass(frozen=True, slots=True)
class Limits:
    """How many connections there are, and how long, in seconds."""

    size: int = 50
    acquire_timeout: float = 5.0
    max_idle: float = 300.0
    """A connection that nobody needed for so long is closed."""
    max_lifetime: float = 3600.0
    """An older one is made anew before its next use, so that a change of address or load is noticed."""


class Pool:
    """Lines, made when needed. The one used last is taken first, so that those not needed grow old."""

    def __init__(self, make: Callable[[], Line], limits: Limits, now: Callable[[], float] = monotonic) -> None:
        self._make, self._limits, self._now = make, limits, now
        self._size, self._patience = limits.size, limits.acquire_timeout
        self._idle: deque[Line] = deque()
        self._used: set[Line] = set()
        self._waiting: deque[asyncio.Future[Line]] = deque()
        self._settling: dict[asyncio.Future[None], Line] = {}
        self._closed = False

    async def say(self, commands: Sequence[Command], *, finish: bool) -> list[Any]:
        """The replies, over whichever connection is free; see `Line.say`."""
        line = self._take() or await self.acquire()
        try:
            return await line.say(commands, finish=finish)
        finally:
            await self.release(line)

    async def acquire(self) -> Line:
        """`StorageTimeoutError` after `acquire_timeout` seconds in the queue."""
        if self._closed:
            raise StorageConnectionError("the connection is closed")
        if self._idle:
            line = self._idle.pop()
            if line.made_at + self._limits.max_lifetime < self._now():
                await line.close()
                line.made_at = self._now()
        elif len(self._used) < self._size:
            line = self._make()
            line.made_at = self._now()
        else:
            return await self._wait()
        self._used.add(line)
        return line

    async def release(self, line: Line) -> None:
        """Give it back; it is there for others when nothing more is to be read from it."""
        if line.rest is not None:
            task = asyncio.ensure_future(self._settle(line, line.rest))
            self._settling[task] = line
            task.add_done_callback(self._settling.pop)
            return
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(line)
                return
        self._used.discard(line)
        if self._closed:
            await line.close()
            return
        line.idle_since = self._now()
        self._idle.append(line)
        if self._idle[0].idle_since + self._limits.max_idle < line.idle_since:
            await self._idle.popleft().close()

    async def close(self) -> None:
        """Refuse new callers; a line in use is closed when it comes back."""
        self._closed = True
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(StorageConnectionError("the store was closed"))
        self._waiting.clear()
        while self._idle:
            await self._idle.pop().close()
        for task, line in list(self._settling.items()):
            await line.close()
            await asyncio.wait({task})

    def status(self) -> dict[str, int]:
        waiting = sum(not waiter.done() for waiter in self._waiting)
        size = len(self._idle) + len(self._used)
        return {"size": size, "used": len(self._used), "waiting": waiting, "max_size": self._size}

    def _take(self) -> Line | None:
        """One that is ready, as nearly always."""
        if not self._idle or self._closed or self._idle[-1].made_at + self._limits.max_lifetime < self._now():
            return None
        line = self._idle.pop()
        self._used.add(line)
        return line

    async def _settle(self, line: Line, rest: asyncio.Task[None]) -> None:
        await asyncio.wait({rest})
        line.rest = None
        await self.release(line)

    async def _wait(self) -> Line:
        waiter: asyncio.Future[Line] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(self._patience):
                return await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                await self.release(waiter.result())  # it came at the very moment of giving up
            if isinstance(error, TimeoutError):
                raise self._exhausted() from error
            raise

    def _exhausted(self) -> PoolExhaustedError:
        waiting = self.status()["waiting"]
        return PoolExhaustedError(
            f"all {self._size} connections were in use for {self._patience:g} s, with {waiting + 1} callers waiting;"
            " raise `pool` or shorten transactions"
        )
