"""Near cache for key-value records (CCH-1, CCH-2): `polymem.open(url, cache=CachePolicy(...))`.

It wraps the engine rather than its drivers, for it must hear of opening, closing, dropped namespaces and commits, and
it lies above every other layer: what it holds is plain. `store.cache` gives statistics and invalidation.

An engine that other processes may write to has `changes_elsewhere() -> int`, a number that changes when anybody but
this instance has committed. It is asked before every hit, or every `max_staleness` seconds; what changed is not
known, so everything goes. Or it has `follow_changes` (core/engine.py), over which its server tells which records are
written. An engine without either is cached only where `max_staleness` says how old a value may be.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from inspect import iscoroutinefunction
from typing import Any, Final

from polymem.contracts.drivers import Drivers, Layer
from polymem.core.clock import Clock
from polymem.core.engine import Engine, Following, Health, probe_of
from polymem.core.guard import GuardContext, guard
from polymem.core.page import Page
from polymem.errors import StorageError, StorageUnsupportedError
from polymem.layers._cache_back import WriteBack, WriteBackKV
from polymem.layers._cache_handle import Cache, CacheStatistics, Tags
from polymem.layers._cache_kv import CachedKV, beside
from polymem.layers._cache_near import NearCache, everything
from polymem.layers._cache_policy import CachePolicy, cache_policy
from polymem.layers._cache_transactions import CachedTransactions

__all__ = ["Cache", "CachePolicy", "CacheStatistics", "CachedEngine"]
_TOLD_WITHIN: Final = 1.0
"""Seconds, unless the policy says something else."""


class CachedEngine:
    """An engine, the layers over it (innermost first), and the cache over both; what only it can do passes through."""

    def __init__(self, engine: Engine, policy: CachePolicy | int, layers: Sequence[Layer] = ()) -> None:
        self._engine, self._layers, self.policy = engine, tuple(layers), cache_policy(policy)
        self.name, self.remote = engine.name, engine.remote
        self.clock: Clock = engine.clock
        elsewhere = getattr(engine, "changes_elsewhere", None)
        self._follow = None if elsewhere else self._telling()
        if elsewhere is None and not self._bound:
            raise StorageUnsupportedError(
                f"{engine.name} can't tell at once when others write to it: give the policy a max_staleness",
                engine=engine.name,
            )
        self._following: Following | None = None
        self._near = NearCache(self.policy, engine.clock, elsewhere, engine.translate)
        self._tags = Tags()
        self._guard = GuardContext(engine.name, engine.translate)
        self._back = WriteBack(self._near) if self.policy.mode == "write_back" else None

    async def open(self) -> None:
        await self._engine.open()
        self._near.drop()
        if self._follow is not None:
            await self._begin_following(self._follow)
        self._guard.opened()
        if self._back is not None:
            self._back.opened()

    async def close(self) -> None:
        """Puts that wait are written first; where that fails the engine is closed all the same, then it raises."""
        try:
            if self._back is not None and self._guard.loop is not None:
                await self._back.close()
        finally:
            self._guard.closed()
            self._near.drop()
            self._tags.clear()
            following, self._following = self._following, None
            if following is not None:
                await following.close()
            await self._engine.close()

    def drivers(self, namespace: str, /) -> Drivers:
        bare = self._layered(self._engine.drivers(namespace), namespace)
        others = {
            field.name: beside(field.name, getattr(bare, field.name), self._near, self._settle)
            for field in fields(bare)
        }
        if bare.kv is not None:
            others["kv"] = self._cached(bare.kv, namespace)
        if bare.transactions is not None:
            others["transactions"] = CachedTransactions(bare.transactions, self._near, self._layered, self._settle)
        return replace(bare, **others)

    def translate(self, error: Exception, /) -> StorageError | None:
        return self._engine.translate(error)

    async def namespaces(self, prefix: str, after: str | None, limit: int, /) -> Page[str]:
        await self._settle()
        return await self._engine.namespaces(prefix, after, limit)

    async def drop_namespace(self, prefix: str, /) -> int:
        await self._settle()
        with self._near.fence_all(lambda slot: slot[0].startswith(prefix)):
            return await self._engine.drop_namespace(prefix)

    async def delete_expired(self, limit: int, /) -> int:
        await self._settle()
        return await self._engine.delete_expired(limit)

    async def purge(self) -> None:
        await self._settle()
        await self._engine.purge()

    async def probe(self) -> str | None:
        return await probe_of(self._engine)

    async def check(self) -> Health:
        await self._settle()
        return await self._engine.check()

    def cache(self, namespace: str = "") -> Cache:
        """The handle for an encoded namespace."""
        return Cache(self._near, self._tags, self.statistics, self._settle, namespace)

    def heed_evictions(self, tell: Callable[[str, str], None]) -> None:
        """Call `tell(namespace, key)` for each entry that goes because there is no room."""
        self._near.on_evict = tell

    def statistics(self) -> CacheStatistics:
        near, back = self._near, self._back
        return CacheStatistics(
            hits=near.hits,
            negative_hits=near.negative_hits,
            misses=near.misses,
            shared_loads=near.shared,
            evictions=near.evictions,
            invalidations=near.invalidations,
            foreign_changes=near.foreign,
            entries=near.size,
            size_bytes=near.size_bytes,
            pending=0 if back is None else len(back),
            flushes=0 if back is None else back.flushes,
            flushed=0 if back is None else back.flushed,
            flush_errors=0 if back is None else back.errors,
        )

    def __getattr__(self, name: str) -> Any:
        """What only this engine can do (backup, snapshot, restore) finds every put written and leaves nothing cached."""
        found = getattr(self._engine, name)
        if not iscoroutinefunction(found):
            return found

        async def outside(*args: Any, **kwargs: Any) -> Any:
            await self._settle()
            with self._near.fence_all(everything):
                return await found(*args, **kwargs)

        return outside

    @property
    def _bound(self) -> float:
        """After how many seconds at most others' writes are to be seen."""
        given = self.policy.max_staleness
        return given if given is not None else _TOLD_WITHIN if self._follow is not None else 0.0

    def _telling(self) -> Any:
        """How to be told of changes, None where that is not possible or not wanted."""
        if self.policy.max_staleness == float("inf") or any(getattr(one, "hide_keys", False) for one in self._layers):
            return None  # the server knows a hidden key by another name
        return getattr(self._engine, "follow_changes", None)

    async def _begin_following(self, follow: Any) -> None:
        try:
            self._following = await follow(self._near, self._bound)
        except BaseException as error:
            if not isinstance(error, StorageUnsupportedError) or self.policy.max_staleness is None:
                await self._engine.close()
                raise
        self._near.follow(self._following)

    def _cached(self, kv: Any, namespace: str) -> Any:
        cached = CachedKV(kv, self._near, namespace)
        if self._back is None:
            return cached
        return WriteBackKV(cached, self._back, guard(kv, "kv", self._guard), self.clock.now, namespace)

    def _layered(self, drivers: Drivers, namespace: str) -> Drivers:
        for layer in self._layers:
            drivers = layer(drivers, namespace)
        return drivers

    async def _settle(self) -> None:
        if self._back is not None:
            await self._back.settle()
