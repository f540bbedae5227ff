"""What a clause works with."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from polymem.core.clock import ManualClock
from polymem.core.ids import uuid7
from polymem.core.retry import RetryPolicy
from polymem.errors import StorageConnectionError
from polymem.opened import Session
from polymem.store import Store
from polymem.testing.faults import Faults, faulty_engine
from polymem.testing.harness import Harness

Result = TypeVar("Result")
TASKS = 16


class Kit:
    """An open store in a namespace of its own, a clock that stands still, and ways to open more stores."""

    def __init__(self, harness: Harness) -> None:
        self._harness = harness
        self._name = f"conformance-{uuid7()}"
        self._opened: list[Store] = []
        self.clock = ManualClock()
        self.root: Store
        """The store at the top; `store` is in the namespace of this clause."""
        self.store: Store

    async def start(self) -> None:
        self.root = await self._open()
        self.store = self.root.namespace(self._name)

    def features(self, contract: str) -> Any:
        return self.store.features()[contract]

    async def second(self) -> Store:
        """Another instance on the same data, in the same namespace."""
        return (await self._open()).namespace(self._name)

    async def reopen(self) -> Store:
        """Close everything and open it again; also `kit.store` from here on."""
        await self._close()
        await self.start()
        return self.store

    async def faulty(self, faults: Faults) -> Store:
        """The store behind a connection that fails as told; failed calls are tried again without a pause."""
        engine = faulty_engine(self.root.engine, faults)
        retry = RetryPolicy(first_delay=0, max_delay=0)
        store = await Store(Session(engine, sweep_every=None, retry=retry, layers=self._harness.layers))
        self._opened.append(store)
        return store.namespace(self._name)

    async def together(self, work: Callable[[int], Awaitable[Result]], tasks: int = TASKS) -> list[Result]:
        """`work(0)`, `work(1)`, ... all at once; their results."""
        return await asyncio.gather(*(work(number) for number in range(tasks)))

    async def finish(self) -> None:
        """Leave nothing behind, whatever the clause did."""
        try:
            await self._drop()
        finally:
            await self._close()
            await self._harness.cleanup()

    async def _drop(self) -> None:
        try:
            await self.root.drop_namespace(self._name)
        except StorageConnectionError:  # the clause closed the store
            await self.reopen()
            await self.root.drop_namespace(self._name)

    async def _open(self) -> Store:
        store = await self._harness.open(self.clock)
        self._opened.append(store)
        return store

    async def _close(self) -> None:
        while self._opened:
            await self._opened.pop().close()
