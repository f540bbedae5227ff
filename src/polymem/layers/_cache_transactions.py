"""Transactions past the cache: inside, everything is the engine's; the cache hears of the keys at the commit."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any, Final

from polymem.contracts.drivers import Drivers
from polymem.contracts.transactions import Isolation, Transaction, TransactionDriver, TransactionFeatures
from polymem.core.guard import READS
from polymem.layers._cache_kv import Settle
from polymem.layers._cache_near import Fence, NearCache, Slot

Layered = Callable[[Drivers, str], Drivers]
_MAX_SLOTS: Final = 10_000
_OF_ONE_KEY: Final = frozenset({"put", "create", "update", "replace", "delete", "increment", "touch"})
_QUIET: Final = frozenset({"query", "turns", "vectors", "text", "graph", "blobs", "transactions"})
"""Contracts that change no record."""
held: ContextVar["CachedTransaction | None"] = ContextVar("polymem_cache_transaction", default=None)
"""The transaction that this task holds open."""


class Touched:
    """The records that a transaction may have changed."""

    def __init__(self) -> None:
        self.slots: set[Slot] = set()
        self.namespaces: set[str] = set()
        self.everything = False

    def add(self, slots: set[Slot]) -> None:
        self.slots |= slots
        if len(self.slots) > _MAX_SLOTS:  # cheaper to forget the namespaces
            self.namespaces |= {namespace for namespace, _ in self.slots}
            self.slots = set()

    def fence(self, near: NearCache) -> Fence:
        if self.everything or self.namespaces:
            return near.fence_all(self._concerns)
        return near.fence(self.slots)

    def _concerns(self, slot: Slot) -> bool:
        return self.everything or slot[0] in self.namespaces or slot in self.slots


class CachedTransactions:
    """Where transactions begin: what was acknowledged before is in the engine by then."""

    def __init__(self, inner: TransactionDriver, near: NearCache, layered: Layered, settle: Settle) -> None:
        self._inner, self._near, self._layered, self._settle = inner, near, layered, settle

    @property
    def features(self) -> TransactionFeatures:
        return self._inner.features

    async def begin(self, *, timeout: float, isolation: Isolation = "serializable") -> "CachedTransaction":
        await self._settle()
        inner = await self._inner.begin(timeout=timeout, isolation=isolation)
        opened = CachedTransaction(inner, self._near, self._layered)
        held.set(opened)
        return opened


class CachedTransaction:
    """An open transaction that notes what it changes."""

    def __init__(self, inner: Transaction, near: NearCache, layered: Layered) -> None:
        self._inner, self.near, self._layered, self._touched = inner, near, layered, Touched()
        self.savepoint, self.rollback_to, self.release = inner.savepoint, inner.rollback_to, inner.release
        self.ended = False

    def drivers(self, namespace: str, /) -> Drivers:
        bare = self._layered(self._inner.drivers(namespace), namespace)
        noted = {
            field.name: _noting(getattr(bare, field.name), self._note(field.name, namespace))
            for field in fields(bare)
            if field.name not in _QUIET and getattr(bare, field.name) is not None
        }
        return replace(bare, **noted)

    async def commit(self) -> None:
        try:
            with self._touched.fence(self.near):
                await self._inner.commit()
        finally:
            self.ended = True

    async def rollback(self) -> None:
        self.ended = True
        await self._inner.rollback()

    def _note(self, contract: str, namespace: str) -> Callable[[str, Any], None]:
        touched = self._touched

        def note(operation: str, argument: Any) -> None:
            if contract != "kv":
                touched.everything = True
            elif operation in _OF_ONE_KEY:
                touched.add({(namespace, argument)})
            elif operation == "delete_many":
                touched.add({(namespace, key) for key in argument})
            elif operation == "put_many":
                touched.add({(namespace, item[0]) for item in argument})
            else:
                touched.namespaces.add(namespace)

        return note


def _noting(driver: Any, note: Callable[[str, Any], None]) -> Any:
    names = [name for name in {*dir(type(driver)), *getattr(driver, "__dict__", {})} if not name.startswith("_")]
    calls = {name: getattr(driver, name) for name in names if name != "features"}
    noted = {name: call if name in READS else _noted(call, name, note) for name, call in calls.items()}
    return SimpleNamespace(features=driver.features, **noted)


def _noted(call: Any, operation: str, note: Callable[[str, Any], None]) -> Any:
    async def noted(*args: Any, **kwargs: Any) -> Any:
        note(operation, args[0] if args else None)
        return await call(*args, **kwargs)

    return noted
