"""One connection and what is said over it: commands out, as many replies back."""

import asyncio
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, Final, TypeVar, cast

from hiredis import Reader, pack_command
from redis._parsers.base import BaseParser
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import InvalidResponse, ReadOnlyError, ResponseError

from polymem.core.cancellation import to_the_end
from polymem.engines.redis._errors import translate
from polymem.errors import Outcome, StorageConnectionError, StorageError, StorageTimeoutError

Result = TypeVar("Result")
Word = bytes | str | int
Command = tuple[Word, ...]
_pack: Final = cast("Callable[[Command], bytes]", pack_command)
"""Its stub speaks of tuples of one word."""
_CHUNK: Final = 65_536
_MORE: Final = object()
"""In place of a reply that has not come whole."""
_AT_ONCE: Final = 32_768
"""Bytes that a connection takes without a pause, in which a caller could be cancelled."""


class Line:
    """A connection of redis-py, spoken to without its client: that costs more than the rest of a call.

    It connects when it must. After any failure it is closed, so that no reply is taken for another's.
    """

    __slots__ = (
        "_connection", "_demoted", "_due", "_late", "_limit", "_replies", "_sent", "_stream", "_timer", "_unread", "_writer",
        "idle_since", "made_at", "rest",
    )  # fmt: skip

    def __init__(self, connection: AbstractConnection, limit: float) -> None:
        connection.socket_timeout = None  # the limit is ours: redis-py's may keep a cancellation to itself
        self._connection, self._limit = connection, limit
        self._stream: asyncio.StreamReader | None = None
        self._replies: Any = None
        """Takes what was read apart."""
        self._writer: Any = None
        self._unread = 0
        self._sent = self._demoted = self._late = False
        self._due = inf
        self._timer: asyncio.TimerHandle | None = None
        self.made_at = self.idle_since = 0.0
        """For the pool."""
        self.rest: asyncio.Task[None] | None = None
        """Replies still being read for a caller who was cancelled: nothing can be said until it is done."""

    async def say(self, commands: Sequence[Command], *, finish: bool, same: bool = False) -> list[Any]:
        """The reply to each command; one that is an error is in the list, not raised. `same` demands the connection
        of the last time, for what it remembers.

        A caller who is cancelled while a write is on its way (`finish`) gets its cancellation when the server has
        answered: what comes later must not overtake it.
        """
        pieces = [_pack(commands[0])] if len(commands) == 1 else _pieces(commands)
        if finish and _is_long(pieces):
            return await to_the_end(self._say(pieces, len(commands), finish=finish, same=same))
        return await self._say(pieces, len(commands), finish=finish, same=same)

    async def _say(self, pieces: Sequence[bytes], count: int, *, finish: bool, same: bool) -> list[Any]:
        self._sent, self._demoted, self._unread = False, False, count
        replies: list[Any] = []
        try:
            if self._stream is None or self._stream.at_eof() or self._stream.exception() is not None:
                await self._connect(same=same)
            self._wait()
            self._sent = True
            for piece in pieces:
                self._writer.write(piece)
            if _is_long(pieces):
                await self._writer.drain()
            while self._unread:
                replies.append(await self._reply())
        except BaseException as error:
            failure = await self._failed(error, finish)
            if failure is error:
                raise
            raise failure from error
        self._due = inf
        if self._demoted:
            await self.close()  # a primary that was replaced: the next connection may lead to the new one
        return replies

    async def close(self) -> None:
        self._stream = None
        await self._connection.disconnect(nowait=True)

    async def _connect(self, *, same: bool) -> None:
        """A connection that the server has closed meanwhile is replaced before anything is sent over it."""
        if self._stream is not None:
            await self.close()
        if same:
            raise StorageConnectionError("the connection was lost", retryable=True)
        async with asyncio.timeout(self._limit):
            await self._connection.connect()  # type: ignore[no-untyped-call]
        streams: Any = self._connection
        self._stream, self._writer = streams._reader, streams._writer  # noqa: SLF001 - reading by redis-py costs more
        self._replies = Reader(protocolError=InvalidResponse, replyError=BaseParser.parse_error, notEnoughData=_MORE)

    def _wait(self) -> None:
        """From now on replies are due within the limit. A timer for each call would cost as much as its parsing."""
        loop = asyncio.get_running_loop()
        self._due, self._late = loop.time() + self._limit, False
        if self._timer is None:
            self._timer = loop.call_at(self._due, self._look)

    def _look(self) -> None:
        loop, self._timer = asyncio.get_running_loop(), None
        if self._due <= loop.time():
            self._late = True
            self._writer.transport.abort()
        elif self._due < inf:
            self._timer = loop.call_at(self._due, self._look)

    async def _reply(self) -> Any:
        reply = self._replies.gets(False)
        while reply is _MORE:
            chunk = await self._stream.read(_CHUNK)  # type: ignore[union-attr]
            if not chunk:
                raise ConnectionResetError("the server closed the connection")
            self._replies.feed(chunk)
            reply = self._replies.gets(False)
        if isinstance(reply, Exception):
            if not isinstance(reply, ResponseError):
                raise reply
            self._demoted |= isinstance(reply, ReadOnlyError)
        self._unread -= 1
        return reply

    async def _failed(self, error: BaseException, finish: bool) -> BaseException:
        self._due = inf
        if isinstance(error, asyncio.CancelledError) and self._sent:
            self.rest = asyncio.ensure_future(self._rest())
            if finish:
                await waited(self.rest)
                self.rest = None
        else:
            await self.close()
        if not isinstance(error, Exception):
            return error
        if self._late or (isinstance(error, TimeoutError) and not isinstance(error, StorageError)):
            return StorageTimeoutError(f"no answer within {self._limit:g} s", outcome=self._outcome())
        return translate(error, self._outcome()) or error

    def _outcome(self) -> Outcome:
        return Outcome.UNKNOWN if self._sent else Outcome.NOT_APPLIED

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(self._limit):
                while self._unread:
                    await self._reply()
        except Exception:  # noqa: BLE001 - nobody waits for the reply any more
            await self.close()


def _is_long(pieces: Sequence[bytes]) -> bool:
    return len(pieces) > 1 or len(pieces[0]) > _AT_ONCE


def _pieces(commands: Sequence[Command]) -> list[bytes]:
    """What to write one after the other. A large value of a SET stands by itself: copying it costs more than a call."""
    pieces: list[bytes] = []
    small: list[bytes] = []
    for command in commands:
        if command[0] == "SET" and isinstance(value := command[2], bytes) and len(value) > _AT_ONCE:
            before, _, after = _pack((*command[:2], b"", *command[3:])).rpartition(b"$0\r\n\r\n")
            pieces += (b"".join([*small, before, b"$%d\r\n" % len(value)]), value)
            small = [b"\r\n", after]
        else:
            small.append(_pack(command))
    return [*pieces, b"".join(small)]


async def waited(task: asyncio.Future[Any]) -> None:
    """Wait for its end, whatever happens to the caller meanwhile."""
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            continue
