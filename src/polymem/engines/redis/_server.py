"""The opened server: commands and scripts, batched reads and writes, its clock, and the namespaces known to it."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, chain
from typing import Any, Final, Protocol

from redis.exceptions import NoScriptError

from polymem.core.batch import Batcher
from polymem.core.clock import Clock, SystemClock
from polymem.core.engine import Hearer
from polymem.engines.redis._address import Address
from polymem.engines.redis._batches import Read, Write, grouped, size, spread, summed, written
from polymem.engines.redis._errors import translate
from polymem.engines.redis._keys import Names, registry
from polymem.engines.redis._line import Command, Word
from polymem.engines.redis._link import Link
from polymem.engines.redis._record import LARGE, instant
from polymem.engines.redis._scripts import WRITE, Script
from polymem.engines.redis._staging import Call, at_once, by_digest, commands, in_full
from polymem.engines.redis._tracking import Tracking
from polymem.errors import Outcome, StorageConnectionError, StorageError, StorageUnsupportedError

LEAST_VERSION: Final = (6, 2)
_MICROSECONDS_PER_MS: Final = 1000
_KNOWN: Final = 100_000
_PAUSE: Final = 0.02
_FLIGHTS: Final = 2
"""Batches under way at once: the server works for one while the loop answers the other."""


class Interruptible(Protocol):
    """A transaction, which ends before the engine does."""

    async def interrupt(self, why: Callable[[], StorageError]) -> None: ...


class ServerClock:
    """The machine's clock, put right by the server's: instants of several clients are comparable."""

    def __init__(self) -> None:
        self._offset = 0

    def now(self) -> int:
        return time.time_ns() // 1000 + self._offset

    def correct(self, asked: int, server: int) -> None:
        """`server` was its time when it answered; we asked at `asked` by our own."""
        self._offset = server - (asked + time.time_ns() // 1000) // 2


class Server:
    """What the cells of all namespaces share."""

    def __init__(self, address: Address, clock: Clock | None, prefix: str) -> None:
        self._address, self.prefix = address, prefix
        self._corrected = ServerClock() if clock is None else None
        self.clock: Clock = clock or self._corrected or SystemClock()
        self._grace = 1_000 if clock is None else 3_600_000
        """Milliseconds that Redis keeps what has expired: for the sweeper to count, and for clocks that differ."""
        self._link: Link | None = None
        self.known: set[str] = set()
        """Namespaces that are registered."""
        self.reads: Batcher[Read, bytes | None]
        self.writes: Batcher[Write, int]
        self.info: dict[str, str] = {}
        self.durable = False
        self.transactions: set[Interruptible] = set()
        """Those that are open."""

    @property
    def link(self) -> Link:
        if self._link is None:
            raise StorageConnectionError("the engine is not open")
        return self._link

    async def open(self) -> None:
        if self._link is not None:
            return
        self._link = self._address.link()
        try:
            await self._greet()
        except BaseException:
            link, self._link = self._link, None
            await link.close()
            raise
        self.known.clear()
        flights = min(_FLIGHTS, self._address.limits.size)
        self.reads = Batcher(self._read, self._read_many, size=lambda _: 64, translate=translate, flights=flights)
        self.writes = Batcher(
            self._write, self._write_many, size=size, translate=translate, flights=flights, keys=written
        )

    async def close(self) -> None:
        if self._link is None:
            return
        for transaction in list(self.transactions):
            await transaction.interrupt(_closed)
        await asyncio.gather(self.reads.close(), self.writes.close())
        link, self._link = self._link, None
        await link.close()

    async def call(self, *words: Word, finish: bool = False) -> Any:
        return raised((await self.link.calls([words], finish=finish))[0])

    async def calls(self, commands: Sequence[Command], *, finish: bool = False) -> list[Any]:
        """The replies; the first that is an error is raised."""
        return [raised(reply) for reply in await self.link.calls(commands, finish=finish)]

    async def run(self, script: Script, keys: Sequence[Word], arguments: Sequence[Word], *, finish: bool = True) -> Any:
        (reply,) = await self.link.calls([by_digest(script, keys, arguments)], finish=finish)
        if isinstance(reply, NoScriptError):  # a new server, or one that lost its memory: nothing was done
            (reply,) = await self.link.calls([in_full(script, keys, arguments)], finish=finish)
        return raised(reply)

    async def write(self, *calls: Call) -> list[Any]:
        """The replies of scripts that store records; one that is an error is in the list, not raised."""
        plans = [commands(*call) for call in calls]
        replies = await self.link.calls(list(chain.from_iterable(plans)), finish=True)
        found = [replies[end - 1] for end in accumulate(map(len, plans))]
        for at, (call, plan) in enumerate(zip(calls, plans, strict=True)):
            if isinstance(found[at], NoScriptError):
                found[at] = await self._said("EVAL", call[0].body, *plan[-1][2:])
            if found[at] is None:  # what waited is lost, so nothing was done
                found[at] = await self._said(*at_once(*call))
        return found

    async def _said(self, *words: Word) -> Any:
        return (await self.link.calls([words], finish=True))[0]

    async def register(self, namespace: str) -> None:
        """Note that the namespace may hold something, before anything is written to it."""
        if namespace not in self.known:
            await self.call("ZADD", registry(self.prefix), 0, namespace, finish=True)
            if len(self.known) >= _KNOWN:
                self.known.clear()
            self.known.add(namespace)

    def life(self, expiries: Sequence[int | None], now: int) -> str:
        """How long Redis is to keep what has parts, in ms: somewhat longer than its last one lives; '' for ever."""
        if None in expiries:
            return ""
        last = max((end for end in expiries if end is not None), default=now)
        return str(max(-(-(last - now) // _MICROSECONDS_PER_MS), 0) + self._grace)

    async def refresh(self) -> None:
        """Correct the clock, and note namespaces again: somebody may have emptied the server."""
        self.known.clear()
        if self._corrected is not None:
            asked = SystemClock().now()
            seconds, micros = await self.call("TIME")
            self._corrected.correct(asked, int(seconds) * 1_000_000 + int(micros))

    def track(self, hearer: Hearer, within: float) -> Tracking:
        """What tells of writes, not yet open."""
        return Tracking(self.link, self.prefix, hearer, within, self._address.socket_timeout)

    def status(self) -> Mapping[str, int] | None:
        return None if self._link is None else self._link.status()

    async def forget(self) -> None:
        """Have the append-only file written anew, without what was deleted."""
        if self.info.get("aof_enabled") != "1":
            return
        await self.link.everywhere("BGREWRITEAOF")  # or one is under way, and another is done after it
        while await self._rewriting():  # noqa: ASYNC110 - it is the server that is waited for
            await asyncio.sleep(_PAUSE)

    async def _rewriting(self) -> bool:
        replies = await self.link.everywhere("INFO", "persistence")
        return any(_rewrites(_info(raised(reply))) for reply in replies)

    async def version_alone(self) -> str:
        """The server's version by one short call."""
        return _info(await self.call("INFO", "server"))["redis_version"]

    async def version(self) -> str:
        """Ask the server for its version, and for what else `INFO` says."""
        for section in ("server", "memory", "persistence"):
            self.info |= _info(await self.call("INFO", section))
        return self.info["redis_version"]

    async def _greet(self) -> None:
        version = await self.version()
        if tuple(int(part) for part in version.split(".")[:2]) < LEAST_VERSION:
            least = ".".join(map(str, LEAST_VERSION))
            raise StorageUnsupportedError(f"Redis {version} is too old; the least version is {least}")
        self.durable = self.info.get("aof_enabled") == "1" and await self._always_synced()
        await self.refresh()

    async def _always_synced(self) -> bool:
        try:
            return "always" in str(await self.call("CONFIG", "GET", "appendfsync"))
        except Exception:  # noqa: BLE001 - hosted servers refuse CONFIG: then nothing is promised
            return False

    async def _read(self, item: Read) -> bytes | None:
        stored: bytes | None = await self.call("GET", item[1])
        return stored

    async def _read_many(self, items: Sequence[Read]) -> list[bytes | Exception | None]:
        groups = grouped(items, apart=self.link.spreads)
        replies = await self.link.calls([("MGET", *(items[at][1] for at in group)) for group in groups], finish=False)
        return spread(len(items), groups, replies)

    async def _write(self, item: Write) -> int:
        if size(item) < LARGE:
            return sum(await self.run(WRITE, *self.writing([item])))
        (answers,) = await self.write((WRITE, *self.writing([item])))
        return sum(raised(answers))

    async def _write_many(self, items: Sequence[Write]) -> list[int | Exception]:
        groups = grouped(items, apart=True)
        together = [[items[at] for at in group] for group in groups]
        replies = await self.write(*((WRITE, *self.writing(some)) for some in together))
        return spread(len(items), groups, list(map(summed, replies, together)))

    def writing(self, items: Sequence[Write], *, whole: bool = False) -> tuple[list[bytes], list[Word]]:
        """Keys and arguments of the script for writes to one namespace, in order; `whole` records have a created_at."""
        names, now = items[0][0], self.clock.now()
        keys, arguments = [names.keys, names.expiries, names.log], self.basis(names, now)
        arguments.append(b"" if whole else instant(now))
        for _, some, records in items:
            keys += some
            arguments += records
        return keys, arguments

    def basis(self, names: Names, now: int) -> list[Word]:
        """The first arguments of scripts that store records."""
        return [now, self._grace, len(names.records)]


def _closed() -> StorageError:
    return StorageConnectionError("the engine was closed, the transaction rolled back")


def raised(reply: Any) -> Any:
    """The reply, or the error it is: the server then did nothing."""
    if isinstance(reply, Exception):
        raise translate(reply, Outcome.NOT_APPLIED) or reply from reply
    return reply


def _info(reply: Any) -> dict[str, str]:
    """What `INFO` says; the client of a Cluster has read it already."""
    if isinstance(reply, dict):
        return {str(name): str(value) for name, value in reply.items()}
    lines = (line.partition(":") for line in reply.decode().splitlines())
    return {name: text for name, colon, text in lines if colon}


def _rewrites(info: dict[str, str]) -> bool:
    return "1" in (info["aof_rewrite_in_progress"], info["aof_rewrite_scheduled"])
