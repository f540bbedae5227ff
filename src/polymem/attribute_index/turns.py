"""One writer of an entity at a time within an index, and writes that are not cut off half-way."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar
from weakref import WeakValueDictionary

Result = TypeVar("Result")


class EntityLocks:
    """A lock per entity, there only while somebody holds it or waits for it."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def hold(self, ids: Iterable[str]) -> AsyncIterator[None]:
        async with AsyncExitStack() as held:
            for entity_id in sorted(ids):  # in one order, so that two batches never wait for each other
                lock = self._locks.get(entity_id)
                if lock is None:
                    lock = self._locks[entity_id] = asyncio.Lock()
                await held.enter_async_context(lock)
            yield

    def busy(self) -> list[str]:
        """The entities being written now."""
        return list(self._locks)
