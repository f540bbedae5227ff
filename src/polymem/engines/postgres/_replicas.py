"""Which calls of a store go to its replicas, and when a replica may answer (PG-4).

A replica shows what the primary had committed up to a moment, `Replica.as_of`. It may answer a read if that moment is
after the store's last write, and not too long ago. Whatever goes wrong there is asked of the primary instead.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import fields, replace
from math import inf
from time import monotonic
from types import SimpleNamespace
from typing import Any, Final

from polymem.contracts.drivers import Drivers
from polymem.core.clock import Clock
from polymem.core.guard import READS
from polymem.engines.postgres._replica import Primary, Replica, identity_of, mark_of
from polymem.engines.postgres._runner import PoolRunner
from polymem.engines.postgres._settings import Settings

Call = Callable[..., Awaitable[Any]]
_OF_PRIMARY: Final = frozenset({"text.search", "text.rank", "text.frequencies", "graph.get_edge"})
"""Text searches bring an index in memory up to date, which must never go back in time; what an edge was is written
again when it is updated.
"""


class Replicas:
    """The replicas of one open engine, and what its store has seen last."""

    def __init__(self, settings: Settings, runner: PoolRunner, clock: Clock) -> None:
        self._runner, self._settings = runner, settings
        self._identity: tuple[str, str] | None = None
        primary = Primary(lambda: mark_of(runner.fetch), self._identify, settings.max_staleness)
        own = replace(settings, replicas=(), direct_url=None)
        self.all = [Replica(replace(own, dsn=dsn), primary, clock) for dsn in settings.replicas]
        self._in_turn = deque(self.all)
        self._seen = -inf

    async def open(self) -> None:
        try:
            await asyncio.gather(*(replica.open() for replica in self.all))
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        await asyncio.gather(*(replica.close() for replica in self.all))

    def note(self) -> None:
        """Reads from now on show what is committed by now."""
        self._seen = monotonic()

    def choose(self) -> Replica | None:
        """The replica to read from, that with the fewest calls; None: the primary."""
        oldest = max(self._seen, monotonic() - self._settings.max_staleness)
        self._in_turn.rotate()
        best = None
        for replica in self._in_turn:
            if replica.as_of <= oldest:
                replica.need()
            elif best is None or replica.calls < best.calls:
                best = replica
        return best

    def figures(self) -> dict[str, int]:
        """How many there are, and how many may be read from but for this store's own writes."""
        ready = sum(replica.state == "ready" for replica in self.all)
        return {"replicas": len(self.all), "replicas_ready": ready} if self.all else {}

    def status(self) -> list[dict[str, Any]]:
        return [replica.status() for replica in self.all]

    def split(self, primary: Drivers, cells: Callable[[Replica], Drivers]) -> Drivers:
        """The drivers of a namespace whose reads go to replicas; `cells` are those of one replica."""
        there = {replica: cells(replica) for replica in self.all}

        def split_one(contract: str) -> Any:
            own = getattr(primary, contract)
            others = {replica: getattr(drivers, contract) for replica, drivers in there.items()}
            return None if own is None else SimpleNamespace(**dict(self._operations(contract, own, others)))

        return Drivers(**{contract.name: split_one(contract.name) for contract in fields(Drivers)})

    def _operations(self, contract: str, own: Any, others: Mapping[Replica, Any]) -> Iterator[tuple[str, Any]]:
        yield "features", own.features
        for name in dir(type(own)):
            if name.startswith("_") or name == "features":
                continue
            call = getattr(own, name)
            if name not in READS:
                call = self.writing(call)
            elif f"{contract}.{name}" not in _OF_PRIMARY:
                call = self._reading(call, {replica: getattr(cell, name) for replica, cell in others.items()})
            yield name, call

    def _reading(self, own: Call, others: Mapping[Replica, Call]) -> Call:
        async def read(*args: Any, **options: Any) -> Any:
            replica = self.choose()
            if replica is None:
                return await own(*args, **options)
            replica.calls += 1
            try:
                result = await others[replica](*args, **options)
            except Exception as error:  # noqa: BLE001 - whatever it is, the primary has the last word
                replica.doubt(error)
            else:
                replica.reads += 1
                return result
            finally:
                replica.calls -= 1
            return await own(*args, **options)

        return read

    def writing(self, own: Call) -> Call:
        """The same call, after which reads show what it wrote.

        Even without `read_your_writes` that is so where it failed or found something else than was read.
        """

        async def write(*args: Any, **options: Any) -> Any:
            result: Any = False
            try:
                result = await own(*args, **options)
            finally:
                if self._settings.read_your_writes or result is False:
                    self.note()
            return result

        return write

    def ending(self, own: Call) -> Call:
        """The same end of a transaction, after which reads show what it may have seen."""

        async def end() -> None:
            try:
                await own()
            finally:
                self.note()

        return end

    def heard(self, events: Any) -> Any:
        """The events, after which reads show what was told."""

        async def read(after: str, limit: int, /, *, wait: float) -> Any:
            page = await events.read(after, limit, wait=wait)
            if page is None or page.changes:
                self.note()
            return page

        return SimpleNamespace(features=events.features, begin=events.begin, read=read)

    async def _identify(self) -> tuple[str, str]:
        if self._identity is None:
            self._identity = await identity_of(self._runner.fetch)
        return self._identity
