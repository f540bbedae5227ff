"""Key-value records seen through the cache."""

from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any, Final

from polymem.contracts.kv import Item, KeyValueDriver, KVFeatures, Record
from polymem.core.guard import READS
from polymem.core.page import Page
from polymem.layers._cache_near import Fence, Known, NearCache, everything

Settle = Callable[[], Awaitable[None]]


class CachedKV:
    """Reads of one key come from the cache; whatever changes a record goes to the engine first."""

    def __init__(self, inner: KeyValueDriver, near: NearCache, namespace: str) -> None:
        self._inner, self._near, self._namespace = inner, near, namespace

    @property
    def features(self) -> KVFeatures:
        return self._inner.features

    async def get(self, key: str, /) -> tuple[bytes, str] | None:
        slot, near = (self._namespace, key), self._near
        await near.turn()
        known = near.look(slot)
        near.count(known)
        if known is None:
            known = await near.load(slot, self._inner.entry)
        return known.found

    async def entry(self, key: str, /) -> Record | None:
        slot, near = (self._namespace, key), self._near
        await near.turn()
        known = near.look(slot)
        if known is not None and known.record is None and known.found is not None:
            known = None  # a put told us the value, but not the instants that the engine gave it
        near.count(known)
        if known is None:
            known = await near.load(slot, self._inner.entry)
        return known.record

    async def get_many(self, keys: Sequence[str], /) -> dict[str, tuple[bytes, str]]:
        """From the cache if it knows every key, else wholly from the engine: never a mixture of two moments."""
        await self._near.turn()
        known = self._all_known(keys)
        if known is None:
            return await self._inner.get_many(keys)
        return {key: one.found for key, one in zip(keys, known, strict=True) if one.found is not None}

    async def put(self, key: str, body: bytes, codec: str, /, *, version: int, expires_at: int | None) -> None:
        with self._writes([key], self._near.written(body, codec, expires_at)):
            await self._inner.put(key, body, codec, version=version, expires_at=expires_at)

    async def put_many(self, items: Sequence[Item], /) -> None:
        with self._writes([]) as fence:
            for key, body, codec, _, expires_at in items:
                fence.add((self._namespace, key), self._near.written(body, codec, expires_at))
            await self._inner.put_many(items)

    async def create(self, key: str, body: bytes, codec: str, /, *, version: int, expires_at: int | None) -> bool:
        with self._writes([key], self._near.written(body, codec, expires_at)) as fence:
            return fence.done(await self._inner.create(key, body, codec, version=version, expires_at=expires_at))

    async def update(self, key: str, body: bytes, codec: str, /, *, version: int) -> bool:
        with self._writes([key]):  # it keeps an expiry that we don't know
            return await self._inner.update(key, body, codec, version=version)

    async def replace(
        self, key: str, body: bytes, codec: str, /, *, expected: int, version: int, expires_at: int | None
    ) -> bool:
        with self._writes([key], self._near.written(body, codec, expires_at)) as fence:
            return fence.done(
                await self._inner.replace(key, body, codec, expected=expected, version=version, expires_at=expires_at)
            )

    async def delete(self, key: str, /) -> bool:
        with self._writes([key], self._near.deleted()):
            return await self._inner.delete(key)

    async def delete_many(self, keys: Sequence[str], /) -> int:
        with self._writes(keys, self._near.deleted()):
            return await self._inner.delete_many(keys)

    async def increment(self, key: str, delta: int, /, *, version: int) -> int:
        with self._writes([key]):
            return await self._inner.increment(key, delta, version=version)

    async def touch(self, key: str, /, *, expires_at: int | None) -> bool:
        with self._writes([key]):
            return await self._inner.touch(key, expires_at=expires_at)

    async def page(self, prefix: str, after: str | None, limit: int, /) -> Page[tuple[str, Record]]:
        return await self._inner.page(prefix, after, limit)

    async def count(self, prefix: str, /) -> int:
        return await self._inner.count(prefix)

    async def clear(self) -> int:
        with self._near.fence_all(lambda slot: slot[0] == self._namespace):
            return await self._inner.clear()

    def _writes(self, keys: Sequence[str], known: Known | None = None) -> Fence:
        return self._near.fence([(self._namespace, key) for key in keys], known)

    def _all_known(self, keys: Sequence[str]) -> list[Known] | None:
        known: list[Known] = []
        for key in keys:
            one = self._near.look((self._namespace, key))
            if one is None:
                self._near.misses += len(keys)
                return None
            known.append(one)
        for one in known:
            self._near.count(one)
        return known


_RECORDS_ELSEWHERE: Final = frozenset({"kv", "turns", "vectors", "text", "graph", "blobs", "transactions", "events"})
_ONLY_READ_RECORDS: Final = frozenset({"query"})


def beside(contract: str, driver: Any, near: NearCache, settle: Settle) -> Any:
    """A driver of another contract on the same data: what it may read is written first, what it may write forgotten.

    Contracts that are not known to keep to data of their own, and plain SQL, may do both.
    """
    if driver is None or contract in _RECORDS_ELSEWHERE:
        return driver
    names = [name for name in {*dir(type(driver)), *getattr(driver, "__dict__", {})} if not name.startswith("_")]
    calls = {name: getattr(driver, name) for name in names if name != "features"}
    harmless = READS if contract not in _ONLY_READ_RECORDS else calls.keys()
    wrapped = {name: _beside(call, near, settle, forget=name not in harmless) for name, call in calls.items()}
    return SimpleNamespace(features=driver.features, **wrapped)


def _beside(call: Any, near: NearCache, settle: Settle, *, forget: bool) -> Any:
    async def beside(*args: Any, **kwargs: Any) -> Any:
        await settle()
        if not forget:
            return await call(*args, **kwargs)
        with near.fence_all(everything):
            return await call(*args, **kwargs)

    return beside
