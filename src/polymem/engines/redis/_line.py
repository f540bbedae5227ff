"""One connection and what is said over it: commands out, as many replies back."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar, cast

from hiredis import pack_command
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ReadOnlyError, ResponseError

from polymem.core.cancellation import to_the_end
from polymem.engines.redis._errors import translate
from polymem.errors import Outcome, StorageConnectionError, StorageError, StorageTimeoutError

Result = TypeVar("Result")
Word = bytes | str | int
Command = tuple[Word, ...]
_pack: Final = cast("Callable[[Command], bytes]", pack_command)
"""Its stub speaks of tuples of one word."""
_AT_ONCE: Final = 32_768
"""Bytes that a connection takes without a pause, in which a caller could be cancelled."""


class Line:
    """A connection of redis-py, spoken to without its client: that costs more than the rest of a call.

    It connects when it must. After any failure it is closed, so that no reply is taken for another's.
    """

    __slots__ = ("_connection", "_demoted", "_limit", "_sent", "_unread", "idle_since", "made_at", "rest")

    def __init__(self, connection: AbstractConnection, limit: float) -> None:
        self._connection, self._limit = connection, limit
        self._unread = 0
        self._sent = self._demoted = False
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
        packed = _packed(commands)
        if finish and len(packed) > _AT_ONCE:
            return await to_the_end(self._say(packed, len(commands), finish=finish, same=same))
        return await self._say(packed, len(commands), finish=finish, same=same)

    async def _say(self, packed: bytes, count: int, *, finish: bool, same: bool) -> list[Any]:
        self._sent, self._demoted, self._unread = False, False, count
        replies: list[Any] = []
        try:
            async with asyncio.timeout(self._limit):
                await self._ready(same=same)
                self._sent = True
                await self._connection.send_packed_command(packed, check_health=False)
                while self._unread:
                    replies.append(await self._reply())
        except BaseException as error:
            failure = await self._failed(error, finish)
            if failure is error:
                raise
            raise failure from error
        if self._demoted:
            await self.close()  # a primary that was replaced: the next connection may lead to the new one
        return replies

    async def close(self) -> None:
        await self._connection.disconnect(nowait=True)

    async def _ready(self, *, same: bool) -> None:
        """A connection that the server has closed meanwhile is replaced before anything is sent over it."""
        reader: asyncio.StreamReader | None = getattr(self._connection, "_reader", None)
        if reader is not None and reader.at_eof():
            await self.close()
        if not self._connection.is_connected:
            if same:
                raise StorageConnectionError("the connection was lost", retryable=True)
            await self._connection.connect()  # type: ignore[no-untyped-call]

    async def _reply(self) -> Any:
        try:
            reply = await self._connection.read_response(disable_decoding=True, disconnect_on_error=False)
        except ResponseError as error:
            reply = error
            self._demoted |= isinstance(error, ReadOnlyError)
        self._unread -= 1
        return reply

    async def _failed(self, error: BaseException, finish: bool) -> BaseException:
        if isinstance(error, asyncio.CancelledError) and self._sent:
            self.rest = asyncio.ensure_future(self._rest())
            if finish:
                await waited(self.rest)
                self.rest = None
        else:
            await self.close()
        if not isinstance(error, Exception):
            return error
        if isinstance(error, TimeoutError) and not isinstance(error, StorageError):
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


async def waited(task: asyncio.Future[Any]) -> None:
    """Wait for its end, whatever happens to the caller meanwhile."""
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            continue


def _packed(commands: Sequence[Command]) -> bytes:
    if len(commands) == 1:
        return _pack(commands[0])
    return b"".join([_pack(command) for command in commands])
