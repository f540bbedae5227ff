"""`Storage[T]`: key-value records of one type under names that a mapping has (KV-1).

It adds names, not behaviour: `set` is `kv.put`, `has` is `kv.exists`, and everything else is the method of the same
name. What they promise is written once, in `polymem.contracts.kv`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

from polymem.contracts.kv import KeyValue
from polymem.contracts.transactions import Isolation
from polymem.errors import StorageDataError

if TYPE_CHECKING:
    from polymem.store import Store, TransactionStore

T = TypeVar("T")
Result = TypeVar("Result")


class Storage(Generic[T]):
    """The records of one namespace, each a `T`; obtained from `store.storage(name, T)`, without I/O.

    `await users.set("ada", ada)`, `await users.get("ada")`, `async for user in users.values()`.
    """

    def __init__(self, store: "Store", model: type[T] | None = None) -> None:
        self._store, self._model = store, model
        kv: KeyValue[T] = store.kv if model is None else store.kv.typed(model)
        self.kv = kv
        """The same records with every operation there is."""
        self.set, self.get, self.has, self.add, self.size = kv.put, kv.get, kv.exists, kv.create, kv.count
        self.keys, self.entries = kv.scan, kv.entries
        self.update, self.delete, self.delete_prefix, self.clear = kv.update, kv.delete, kv.delete_prefix, kv.clear
        self.query, self.count, self.find_one, self.find_many = kv.query, kv.count, kv.find_one, kv.find_many
        self.aggregate, self.explain = kv.aggregate, kv.explain
        self.create_index, self.drop_index, self.list_indexes = kv.create_index, kv.drop_index, kv.list_indexes
        self.watch, self.on, self.use, self.subscribers = kv.watch, store.on, store.use, store.subscribers
        self.batch_write, self.bulk_load, self.bulk_export = kv.batch_write, kv.bulk_load, kv.bulk_export

    def __repr__(self) -> str:
        of = "" if self._model is None else f" of {getattr(self._model, '__name__', self._model)}"
        return f"<Storage{of} in {self._store!r}>"

    async def values(self, prefix: str = "") -> AsyncIterator[T]:
        """The values whose keys start with `prefix`, as `keys` lists them."""
        async for entry in self.kv.entries(prefix):
            yield entry.value

    def namespace(self, *segments: str) -> "Storage[T]":
        """A storage of the same type that neither sees this one nor is seen by it; nests."""
        return Storage(self._store.namespace(*segments), self._model)

    @asynccontextmanager
    async def transaction(
        self, *, isolation: Isolation = "serializable", timeout: float = 5.0
    ) -> "AsyncIterator[StorageTransaction[T]]":
        """Everything done through the yielded storage is committed together, or not at all; see `Store.transaction`."""
        async with self._store.transaction(isolation=isolation, timeout=timeout) as tx:
            yield StorageTransaction(tx, self._model)

    async def run_in_transaction(
        self,
        work: "Callable[[StorageTransaction[T]], Awaitable[Result]]",
        *,
        retries: int = 3,
        isolation: Isolation = "serializable",
        timeout: float = 5.0,
    ) -> Result:
        """Run `work` in a transaction, again after a retryable failure; see `Store.run_in_transaction`."""
        if not callable(work):
            raise StorageDataError("expected an async function of one argument, the transaction", field="work")
        return await self._store.run_in_transaction(
            lambda tx: work(StorageTransaction(tx, self._model)), retries=retries, isolation=isolation, timeout=timeout
        )


class StorageTransaction(Storage[T]):
    """A storage inside one transaction; it reads its own writes."""

    def __init__(self, tx: "TransactionStore", model: type[T] | None = None) -> None:
        super().__init__(tx, model)
        self.commit, self.rollback, self.savepoint, self.rollback_to = (
            tx.commit,
            tx.rollback,
            tx.savepoint,
            tx.rollback_to,
        )
