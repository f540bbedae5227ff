"""Write-back: puts that are acknowledged before the engine has them, and how they get there (CCH-1).

At most `max_pending` keys wait, each for `max_delay` seconds or until something needs it in the engine; a crash loses
no more than these and those on their way. One round of writes runs at a time, so each key keeps its order. What could
not be written stays here, is read from here and tried again; the error goes to the log and to every call that has to
wait for it: a put when there is no room, anything that needs the record in the engine, `flush`, and close.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from polymem.contracts.kv import KeyValueDriver, KVFeatures, Record
from polymem.core.page import Page
from polymem.errors import StorageError, StorageQueryError
from polymem.layers._cache_kv import CachedKV
from polymem.layers._cache_near import Concerns, NearCache, Slot, everything
from polymem.layers._cache_transactions import held

_log = logging.getLogger("polymem.cache")


class Pending(NamedTuple):
    """A put that waits; `write` takes it to the engine."""

    body: bytes
    codec: str
    version: int
    expires_at: int | None
    write: Callable[["Pending"], Awaitable[None]]


class WriteBack:
    """What waits, and the rounds in which it is written."""

    def __init__(self, near: NearCache) -> None:
        self._near, self._policy = near, near.policy
        self._pending: dict[Slot, Pending] = {}
        self._flushing: dict[Slot, Pending] = {}
        self._lock = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._rounds: set[asyncio.Task[None]] = set()
        self.flushes = self.flushed = self.errors = 0

    def opened(self) -> None:
        self._lock = asyncio.Lock()  # of the loop that opens it

    def __len__(self) -> int:
        return len(self._pending.keys() | self._flushing.keys())

    def peek(self, slot: Slot) -> Pending | None:
        """The newest value of a key that the engine may not have."""
        if not self._pending and not self._flushing:
            return None
        return self._pending.get(slot) or self._flushing.get(slot)

    async def put(self, slot: Slot, value: Pending) -> None:
        await self._near.turn()
        while slot not in self._pending and len(self._pending) + len(self._flushing) >= self._policy.max_pending:
            await self.settle()
        self._near.invalidate_one(slot)
        self._pending[slot] = value
        self._arm()

    async def settle(self, concerns: Concerns = everything) -> None:
        """Return when the engine has those keys; raises what kept it from taking them."""
        if not any(concerns(slot) for slot in (*self._pending, *self._flushing)):
            return
        transaction = held.get()
        if transaction is not None and transaction.near is self._near and not transaction.ended:
            raise StorageQueryError(
                "puts wait to be written, which the transaction open in this task prevents: use the store it gave"
            )
        await asyncio.shield(self._start(concerns))  # a caller who leaves does not leave others' puts half written

    async def close(self) -> None:
        """Write everything; what the engine refuses even now is lost, and the error says how much."""
        try:
            await self.settle()
        except StorageError as error:
            lost = len(self)
            raise StorageError(f"{lost} puts could not be written before closing and are lost") from error
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._pending = None, {}

    def _arm(self) -> None:
        if self._timer is None and self._pending:
            self._timer = asyncio.get_running_loop().call_later(self._policy.max_delay, self._due)

    def _due(self) -> None:
        self._timer = None
        self._start(everything)

    def _start(self, concerns: Concerns) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(self._round(concerns))
        self._rounds.add(task)
        task.add_done_callback(self._over)
        return task

    def _over(self, task: "asyncio.Task[None]") -> None:
        self._rounds.discard(task)
        if not task.cancelled():
            task.exception()  # it is in the log; nobody may be waiting for it
        self._arm()

    async def _round(self, concerns: Concerns) -> None:
        async with self._lock:
            self._flushing = {slot: value for slot, value in self._pending.items() if concerns(slot)}
            for slot in self._flushing:
                del self._pending[slot]
            if not self._flushing:
                return
            self.flushes += 1
            try:
                results = await asyncio.gather(
                    *(self._write(slot, value) for slot, value in self._flushing.items()), return_exceptions=True
                )
            finally:
                self._pending = {**self._flushing, **self._pending}  # what failed goes back, unless it was put again
                self._flushing = {}
        failed = [result for result in results if isinstance(result, BaseException)]
        if failed:
            self.errors += len(failed)
            _log.error("write-back failed: %s, %d puts wait", type(failed[0]).__name__, len(self))
            raise failed[0]

    async def _write(self, slot: Slot, value: Pending) -> None:
        with self._near.fence([slot], self._near.written(value.body, value.codec, value.expires_at)):
            await value.write(value)
        del self._flushing[slot]
        self.flushed += 1


class WriteBackKV:
    """Puts wait here; everything else that touches a waiting key lets it be written first."""

    def __init__(
        self, cached: CachedKV, back: WriteBack, guarded: KeyValueDriver, now: Callable[[], int], namespace: str
    ) -> None:
        self._cached, self._back, self._guarded = cached, back, guarded
        self._now, self._namespace = now, namespace

    @property
    def features(self) -> KVFeatures:
        given = self._cached.features
        return KVFeatures(given.ttl_resolution, given.atomic_batches, given.ordered, durable=False)

    async def get(self, key: str, /) -> tuple[bytes, str] | None:
        waiting = self._back.peek((self._namespace, key))
        if waiting is None:  # CachedKV looks again after its turn: a put meanwhile is concurrent, so either is right
            return await self._cached.get(key)
        if waiting.expires_at is not None and waiting.expires_at <= self._now():
            return None
        return waiting.body, waiting.codec

    async def put(self, key: str, body: bytes, codec: str, /, *, version: int, expires_at: int | None) -> None:
        async def write(value: Pending) -> None:
            await self._guarded.put(key, value.body, value.codec, version=value.version, expires_at=value.expires_at)

        await self._back.put((self._namespace, key), Pending(body, codec, version, expires_at, write))

    async def entry(self, key: str, /) -> Record | None:
        await self._settle_key(key)
        return await self._cached.entry(key)

    async def get_many(self, keys: Any, /) -> dict[str, tuple[bytes, str]]:
        await self._settle_keys(keys)
        return await self._cached.get_many(keys)

    async def put_many(self, items: Any, /) -> None:
        await self._settle_keys([item[0] for item in items])
        await self._cached.put_many(items)

    async def create(self, key: str, body: bytes, codec: str, /, *, version: int, expires_at: int | None) -> bool:
        await self._settle_key(key)
        return await self._cached.create(key, body, codec, version=version, expires_at=expires_at)

    async def update(self, key: str, body: bytes, codec: str, /, *, version: int) -> bool:
        await self._settle_key(key)
        return await self._cached.update(key, body, codec, version=version)

    async def replace(
        self, key: str, body: bytes, codec: str, /, *, expected: int, version: int, expires_at: int | None
    ) -> bool:
        await self._settle_key(key)
        return await self._cached.replace(key, body, codec, expected=expected, version=version, expires_at=expires_at)

    async def delete(self, key: str, /) -> bool:
        await self._settle_key(key)
        return await self._cached.delete(key)

    async def delete_many(self, keys: Any, /) -> int:
        await self._settle_keys(keys)
        return await self._cached.delete_many(keys)

    async def increment(self, key: str, delta: int, /, *, version: int) -> int:
        await self._settle_key(key)
        return await self._cached.increment(key, delta, version=version)

    async def touch(self, key: str, /, *, expires_at: int | None) -> bool:
        await self._settle_key(key)
        return await self._cached.touch(key, expires_at=expires_at)

    async def page(self, prefix: str, after: str | None, limit: int, /) -> Page[tuple[str, Record]]:
        await self._settle_namespace()
        return await self._cached.page(prefix, after, limit)

    async def count(self, prefix: str, /) -> int:
        await self._settle_namespace()
        return await self._cached.count(prefix)

    async def clear(self) -> int:
        await self._settle_namespace()
        return await self._cached.clear()

    async def _settle_key(self, key: str) -> None:
        slot = (self._namespace, key)
        if self._back.peek(slot) is not None:
            await self._back.settle(lambda other: other == slot)

    async def _settle_keys(self, keys: Any) -> None:
        wanted = {(self._namespace, key) for key in keys}
        await self._back.settle(lambda slot: slot in wanted)

    async def _settle_namespace(self) -> None:
        await self._back.settle(lambda slot: slot[0] == self._namespace)
