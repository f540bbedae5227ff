"""Which records are written, by whomever, heard from the servers: CLIENT TRACKING in its broadcast mode (CCH-2).

The server names each key that is written, expired or evicted, by scripts and by other programs too, before it
acknowledges the write, so writers need do nothing for it. A connection that listens also sends PING: what was acknowledged
before a PING was sent has been told when its PONG is there.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from polymem.core.engine import Hearer
from polymem.engines.redis._errors import translate
from polymem.engines.redis._link import Link
from polymem.errors import Outcome, StorageConnectionError, StorageTimeoutError, StorageUnsupportedError

_log = logging.getLogger("polymem.engines.redis")
_CHANNEL: Final = b"__redis__:invalidate"
_BETWEEN: Final = b"}:kv:"
"""Between the namespace and the key of a record."""
_LONGEST_PAUSE: Final = 1.0
_FIRST_PAUSE: Final = 0.05


class Ear:
    """Listens to one server."""

    def __init__(
        self, connection: AbstractConnection, prefix: bytes, hearer: Hearer, every: float, limit: float
    ) -> None:
        """It asks `every` so many seconds, and gives up when no answer came within `limit`."""
        connection.socket_timeout = None  # the limit is ours: redis-py's may keep a cancellation to itself
        self._connection, self._prefix, self._hearer = connection, prefix, hearer
        self._every, self._limit = every, limit
        self._asked: deque[float] = deque()
        self.proven = -math.inf
        """What was acknowledged before this moment has been told."""

    async def begin(self) -> None:
        """Return when everything that is written from now on will be told."""
        await self._connection.connect()  # type: ignore[no-untyped-call]
        await self._say("HELLO", 2)  # whatever the settings of a client that was given
        own = await self._say("CLIENT", "ID")
        await self._say("CLIENT", "TRACKING", "ON", "REDIRECT", own, "BCAST", "PREFIX", self._prefix)
        await self._say("SUBSCRIBE", _CHANNEL)

    async def follow(self) -> None:
        """Tell until the connection is lost, which raises."""
        await _together(self._ask(), self._listen())

    async def close(self) -> None:
        await self._connection.disconnect(nowait=True)

    async def _ask(self) -> None:
        while not self._asked or self._asked[0] > monotonic() - self._limit:
            self._asked.append(monotonic())
            async with asyncio.timeout(self._limit):
                await self._connection.send_command("PING")
            await asyncio.sleep(self._every)
        raise StorageTimeoutError(f"no answer within {self._limit:g} s")

    async def _listen(self) -> None:
        while True:
            kind, *rest = await self._read()
            if kind == b"pong":
                self.proven = self._asked.popleft()
            elif kind == b"message":
                self._tell(rest[1])

    def _tell(self, keys: Sequence[bytes] | None) -> None:
        if keys is None:  # a database was emptied
            self._hearer.drop()
            return
        for key in keys:
            for namespace, name in records(self._prefix, key):
                self._hearer.changed(namespace, name)

    async def _say(self, *words: Any) -> Any:
        await self._connection.send_command(*words)
        return await self._read()

    async def _read(self) -> Any:
        return await self._connection.read_response(disable_decoding=True, disconnect_on_error=False)


class Layout:
    """Sees to it that the servers of a Cluster that are listened to are those that hold its data."""

    def __init__(self, link: Link, every: float, limit: float) -> None:
        """It asks `every` so many seconds, and gives up when no answer came within `limit`."""
        self._link, self._every, self._limit = link, every, limit
        self._first: object = None
        self.proven = -math.inf
        """It was so at this moment."""

    async def begin(self) -> None:
        self._first = await self._link.layout()

    async def follow(self) -> None:
        while True:
            asked = monotonic()
            async with asyncio.timeout(self._limit):
                if await self._link.layout() != self._first:
                    raise StorageConnectionError("the slots of the cluster were moved", retryable=True)
            self.proven = asked
            await asyncio.sleep(self._every)

    async def close(self) -> None: ...


class Tracking:
    """Listens to every server that holds data; when one is lost, what was heard counts for nothing, and all begins anew."""

    def __init__(self, link: Link, prefix: str, hearer: Hearer, within: float, limit: float) -> None:
        """`within` is how late a write may be told, `limit` what a connection may take to begin, both in seconds."""
        self._link, self._prefix, self._hearer = link, f"{prefix}:{{/".encode(), hearer
        self._within, self._limit = within, limit
        self._every = min(within, _LONGEST_PAUSE, limit) / 3
        self._parts: list[Ear | Layout] = []
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def current(self) -> bool:
        return min((part.proven for part in self._parts), default=-math.inf) >= monotonic() - self._within

    async def open(self) -> "Tracking":
        """`StorageUnsupportedError` where a server doesn't tell."""
        await self._begin()
        self._task = asyncio.create_task(self._follow())
        return self

    async def close(self) -> None:
        """Within `limit` seconds, whatever becomes of a cancellation."""
        self._closed = True  # a group of tasks that fails at this very moment forgets that it was cancelled
        try:
            if self._task is not None:
                self._task.cancel()
                await asyncio.wait({self._task}, timeout=self._limit)
        finally:
            await self._end()

    async def _begin(self) -> None:
        try:
            async with asyncio.timeout(self._limit):
                self._parts = await self._made()
                await _together(*(part.begin() for part in self._parts))
        except BaseException as error:
            await self._end()
            if isinstance(error, ResponseError):
                raise StorageUnsupportedError("the server refuses CLIENT TRACKING") from error
            if isinstance(error, Exception) and (failure := translate(error, Outcome.NOT_APPLIED)) is not None:
                raise failure from error
            raise
        self._hearer.drop()  # of what was written before nobody heard

    async def _end(self) -> None:
        parts, self._parts = self._parts, []
        self._hearer.drop()
        for part in parts:  # not in tasks of their own: a cancellation would keep them from beginning
            with suppress(Exception):
                await part.close()

    async def _made(self) -> list[Ear | Layout]:
        settings = self._prefix, self._hearer, self._every, self._limit
        ears = [Ear(connection, *settings) for connection in await self._link.ears()]
        return [*ears, Layout(self._link, self._every, self._limit)] if self._link.spreads else [*ears]

    async def _follow(self) -> None:
        pause = _FIRST_PAUSE
        while not self._closed:
            try:
                if not self._parts:
                    await self._begin()
                    pause = _FIRST_PAUSE
                    continue  # unless it was closed meanwhile
                await _together(*(part.follow() for part in self._parts))
            except Exception as error:  # noqa: BLE001 - whatever it is, listen again
                _log.debug("not listening for changes: %s", type(error).__name__)
            await self._end()
            await asyncio.sleep(0 if self._closed else pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


async def _together(*works: Coroutine[Any, Any, None]) -> None:
    """When one fails, none goes on: it would connect anew."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from failed


def records(prefix: bytes, key: bytes) -> Iterator[tuple[str, str]]:
    """Namespace and key of the record that a Redis key holds, if any. Both may hold what separates them: then all that
    it could be.
    """
    at = key.find(_BETWEEN, len(prefix))
    while at >= 0:
        yield key[len(prefix) : at].decode(errors="replace"), key[at + len(_BETWEEN) :].decode(errors="replace")
        at = key.find(_BETWEEN, at + 1)
