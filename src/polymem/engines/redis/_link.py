"""Commands to wherever their keys are: one server, or the nodes of a Cluster (_cluster_link.py)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from redis.asyncio.connection import AbstractConnection

from polymem.engines.redis._line import Command, Line, Word
from polymem.engines.redis._pool import Pool


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

    async def ears(self) -> list[AbstractConnection]:
        """New connections, not yet open, for listening to each server that holds data."""
        ...

    async def layout(self) -> object:
        """Where data are, as all those servers say; they fail to agree while data are moved."""
        ...

    def status(self) -> Mapping[str, int]: ...

    async def close(self) -> None: ...


class ServerLink:
    """One server, or the primary that a Sentinel names."""

    spreads = False

    def __init__(self, pool: Pool, make: Callable[[], AbstractConnection], owned: Sequence[Any]) -> None:
        """`owned` is what redis-py has to close in the end."""
        self._pool, self._make, self._owned = pool, make, owned
        self.acquire, self.release, self.status = pool.acquire, pool.release, pool.status

    async def calls(self, commands: Sequence[Command], *, finish: bool) -> list[Any]:
        return await self._pool.say(commands, finish=finish)

    async def everywhere(self, *words: Word) -> list[Any]:
        return await self.calls([words], finish=False)

    async def ears(self) -> list[AbstractConnection]:
        return [self._make()]

    async def layout(self) -> object:
        return None

    async def close(self) -> None:
        await self._pool.close()
        for one in self._owned:
            await one.aclose()
