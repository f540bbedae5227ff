"""Commands to wherever their keys are: one server, or the nodes of a Cluster."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from redis.asyncio import RedisCluster
from redis.client import NEVER_DECODE
from redis.exceptions import ResponseError

from polymem.core.cancellation import to_the_end
from polymem.engines.redis._errors import translate
from polymem.engines.redis._line import Command, Line, Word
from polymem.engines.redis._pool import Pool
from polymem.errors import Outcome, StorageTimeoutError, StorageUnsupportedError


class Link(Protocol):
    """The keys of a command are in one slot. A reply that is an error is in the list, not raised."""

    spreads: bool
    """Whether keys are in several slots."""

    async def calls(self, commands: Sequence[Command], *, finish: bool) -> list[Any]:
        """Send commands at once; with `finish` a cancelled caller waits until the server is done."""
        ...

    async def everywhere(self, *words: Word) -> list[Any]:
        """The reply of each server that holds data."""
        ...

    async def acquire(self) -> Line:
        """A connection for one caller, whose commands follow each other; to be given back by `release`."""
        ...

    async def release(self, line: Line) -> None: ...

    def status(self) -> Mapping[str, int]: ...

    async def close(self) -> None: ...


class ServerLink:
    """One server, or the primary that a Sentinel names."""

    spreads = False

    def __init__(self, pool: Pool, owned: Sequence[Any]) -> None:
        """`owned` is what redis-py has to close in the end."""
        self._pool, self._owned = pool, owned
        self.acquire, self.release, self.status = pool.acquire, pool.release, pool.status

    async def calls(self, commands: Sequence[Command], *, finish: bool) -> list[Any]:
        line = await self._pool.acquire()
        try:
            return await line.say(commands, finish=finish)
        finally:
            await self._pool.release(line)

    async def everywhere(self, *words: Word) -> list[Any]:
        return await self.calls([words], finish=False)

    async def close(self) -> None:
        await self._pool.close()
        for one in self._owned:
            await one.aclose()


class ClusterLink:
    """A Cluster through redis-py's client, which knows the slots and follows MOVED and ASK.

    It is told not to repeat anything after a lost connection: only the guard knows what may be done twice.
    """

    spreads = True

    def __init__(self, client: RedisCluster, size: int, acquire_timeout: float, *, owned: bool) -> None:
        self._client, self._size, self._patience, self._owned = client, size, acquire_timeout, owned
        self._room = asyncio.Semaphore(size)  # its callers get their turn in order
        self._waiting = 0
        self._sending: set[asyncio.Future[Any]] = set()

    async def calls(self, commands: Sequence[Command], *, finish: bool) -> list[Any]:
        if len(commands) == 1:
            return [await self._call(commands[0], finish=finish)]
        replies = await asyncio.gather(*(self._call(c, finish=finish) for c in commands), return_exceptions=True)
        for reply in replies:
            if isinstance(reply, BaseException) and not isinstance(reply, Exception):
                raise reply
        return replies

    async def everywhere(self, *words: Word) -> list[Any]:
        nodes = self._client.get_primaries()
        return [await self._client.execute_command(*words, target_nodes=[node]) for node in nodes]

    async def acquire(self) -> Line:
        raise StorageUnsupportedError("a Cluster has no transactions over namespaces")

    async def release(self, line: Line) -> None: ...

    def status(self) -> Mapping[str, int]:
        used = len(self._sending)
        return {"size": used, "used": used, "waiting": self._waiting, "max_size": self._size}

    async def close(self) -> None:
        if self._sending:
            await asyncio.wait(self._sending)
        if self._owned:
            await self._client.aclose()

    async def _call(self, command: Command, *, finish: bool) -> Any:
        """Cancelled, it is still carried out: redis-py would throw the connection away."""
        await self._enter()
        task = asyncio.ensure_future(self._send(command))
        self._sending.add(task)
        task.add_done_callback(self._leave)
        if finish:
            return await to_the_end(task)
        return await asyncio.shield(task)

    async def _send(self, command: Command) -> Any:
        try:
            return await self._client.execute_command(*command, **{NEVER_DECODE: True})
        except ResponseError as error:
            return error
        except Exception as error:
            raise translate(error, Outcome.UNKNOWN) or error from error

    def _leave(self, task: asyncio.Future[Any]) -> None:
        self._sending.discard(task)
        self._room.release()
        if not task.cancelled():
            task.exception()  # looked at, so that nobody warns of it

    async def _enter(self) -> None:
        self._waiting += 1
        try:
            async with asyncio.timeout(self._patience):
                await self._room.acquire()
        except TimeoutError as error:
            raise StorageTimeoutError(
                f"{self._size} calls were under way for {self._patience:g} s, with {self._waiting} callers waiting"
            ) from error
        finally:
            self._waiting -= 1
