"""`Store`: one namespace of one opened engine, with every contract the engine has."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, suppress
from functools import cached_property
from inspect import isawaitable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from polymem.contracts._events_api import Observable
from polymem.contracts._events_hub import Pending
from polymem.contracts._input import PAGE, stream
from polymem.contracts._savepoints import Savepoint, Savepoints
from polymem.contracts.blobs import Blobs
from polymem.contracts.drivers import CONTRACTS, Drivers
from polymem.contracts.graph import Graph
from polymem.contracts.kv import KeyValue
from polymem.contracts.sql import Sql
from polymem.contracts.text import Text, TextCollection
from polymem.contracts.transactions import Isolation, Transaction
from polymem.contracts.turns import Turns
from polymem.contracts.vectors import Metric, Vectors, VectorSpace
from polymem.contracts.volume import VOLUME
from polymem.core.cancellation import to_the_end
from polymem.core.codec import JsonCodec
from polymem.core.engine import Health
from polymem.core.guard import guard, in_transaction
from polymem.core.health import HealthCheckResult, check_health
from polymem.core.metrics import MetricsCollector
from polymem.core.namespace import child, decode
from polymem.core.text import check_limit
from polymem.errors import Outcome, StorageDataError, StorageError, StorageUnsupportedError
from polymem.opened import Maintenance, Session
from polymem.storage import Storage

if TYPE_CHECKING:
    from polymem.layers.cache import Cache

Model = TypeVar("Model")
Result = TypeVar("Result")


class Store(Observable):
    """An engine seen from one namespace; obtained from `polymem.open` or `store.namespace(...)`.

    Both `store = await polymem.open(url)` and `async with polymem.open(url) as store` open it. A store belongs to
    the event loop and the process it was opened in; opening and closing twice is harmless.
    """

    def __init__(
        self,
        session: Session,
        namespace: str = "",
        transaction: Transaction | None = None,
        pending: Pending | None = None,
    ) -> None:
        self._session, self._namespace, self._transaction = session, namespace, transaction
        self._observers, self._pending = session.observers, pending
        source = transaction or session.engine
        self._drivers: Drivers = source.drivers(namespace)
        for layer in session.layers:  # innermost first, inside transactions too
            self._drivers = layer(self._drivers, namespace)
        self._guarded: dict[str, Any] = {}

    async def open(self) -> Self:
        """Connect, and make what is missing. A server away: `StorageConnectionError`; a file not ours: `StorageCorruptError`."""
        await self._session.open()
        return self

    async def close(self) -> None:
        """Give up all that `open` took; every namespace of it is closed as well."""
        await self._session.close()

    def __await__(self) -> Generator[Any, None, Self]:
        return self.open().__await__()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<Store {self._session.engine.name} namespace={'/'.join(decode(self._namespace))!r}>"

    @property
    def engine(self) -> Any:  # an `Engine`, whose own methods no type checker could know
        """The engine itself, for what only it can do: `backup` of SQLite, `save` and `load` of a JSON file, ..."""
        return self._session.engine

    @property
    def kv(self) -> KeyValue[Any]:
        """Key-value records of any JSON value."""
        api: KeyValue[Any] | None = self._guarded.get("kv.api")
        if api is None:
            queries = None if self._drivers.query is None else self._driver("query")
            api = KeyValue(
                self._driver("kv"),
                self.engine.clock,
                JsonCodec(),
                scope=self._namespace,
                queries=queries,
                events=None if self._drivers.events is None else self._driver("events"),
                observation=self._observation(),
            )
            self._guarded["kv.api"] = api
        return api

    @overload
    def storage(self, name: str) -> Storage[Any]: ...
    @overload
    def storage(self, name: str, model: type[Model]) -> Storage[Model]: ...
    @overload
    def storage(self, name: str, model: object) -> Storage[Any]: ...  # a union or Literal, no type to type checkers
    def storage(self, name: str, model: Any = None) -> Storage[Any]:
        """The records of the namespace `name`, each a `model` (any JSON value without one), as a mapping; no I/O."""
        return Storage(self.namespace(name), model)

    @property
    def cache(self) -> "Cache":
        """The near cache of this namespace: statistics, invalidation by key, prefix and tag (CCH-2).

        `StorageUnsupportedError` where the store was opened without one.
        """
        make = getattr(self.engine, "cache", None)
        if make is None:
            raise StorageUnsupportedError("the store was opened without cache=", engine=self.engine.name)
        cache: Cache = make(self._namespace)
        return cache

    @cached_property
    def turns(self) -> Turns:
        """Conversation turns."""
        return Turns(self._driver("turns"), self.engine.clock)

    @property
    def sql(self) -> Sql:
        """Plain SQL; root namespace only."""
        return Sql(self._driver("sql"))

    def vectors(self, name: str, *, dimensions: int, metric: Metric = "cosine", model: str | None = None) -> Vectors:
        """The vector collection `name`; no I/O."""
        return Vectors(self._driver("vectors"), VectorSpace(name, dimensions, metric, model))

    def text(self, name: str, *, language: str = "english") -> Text:
        """The text collection `name`; no I/O."""
        return Text(self._driver("text"), TextCollection(name, language))

    def graph(self, name: str = "default") -> Graph:
        """The graph `name`; no I/O."""
        return Graph(self._driver("graph"), name)

    def blobs(self, name: str = "default") -> Blobs:
        """The blob container `name`; no I/O."""
        return Blobs(self._driver("blobs"), self.engine.clock, name)

    def containers(self) -> AsyncIterator[str]:
        """The names of the blob containers of this namespace that hold something, in order."""
        blobs = self._driver("blobs")
        return stream(lambda after: blobs.containers(after, PAGE))

    def supports(self, contract: str) -> bool:
        """Whether this namespace of the engine offers a contract."""
        if contract not in CONTRACTS:
            raise StorageDataError(f"expected one of {', '.join(CONTRACTS)}", field="contract")
        return getattr(self._drivers, contract) is not None

    def features(self) -> dict[str, Any]:
        """The features of every contract that is there."""
        return self._drivers.features()

    def namespace(self, *segments: str) -> "Store":
        """A full store that can't see outside itself; nests."""
        if not segments:
            raise StorageDataError("expected at least one name", field="namespace")
        return Store(self._session, child(self._namespace, segments), self._transaction, self._pending)

    async def namespaces(self, *prefix: str, depth: int | None = None) -> AsyncIterator[tuple[str, ...]]:
        """The namespaces below this one that hold something, as segments relative to it, in order.

        `prefix` starts lower down; `depth` cuts longer names to that many segments, each given once.
        """
        start = child(self._namespace, prefix) if prefix else self._namespace
        skip, last = len(decode(self._namespace)), None
        after: str | None = None
        while True:
            page = await self._maintenance().namespaces(start, after, 500)
            for name in page.items:
                found = decode(name)[skip:][:depth]
                if found and found != last:
                    last = found
                    yield found
            if page.after is None:
                return
            after = page.after

    async def drop_namespace(self, *segments: str) -> int:
        """Remove everything in a namespace and below it, at once; how many records there were."""
        if not segments:
            raise StorageDataError(
                "expected at least one name; close the store and delete it instead", field="namespace"
            )
        return await self._maintenance().drop_namespace(child(self._namespace, segments))

    async def delete_expired(self) -> int:
        """Remove every expired record of the database now; how many were removed (G-6)."""
        return await self._session.sweep()

    def sweep_too(self, work: Callable[[], Awaitable[int]], *, wanted: bool = True) -> None:
        """Let the sweeper do some more work each time, and count what it removed; or no longer."""
        known = [more for more in self._session.sweeps if more != work]
        self._session.sweeps[:] = [*known, work] if wanted else known

    async def purge(self) -> None:
        """Make deleted bytes unrecoverable: none is left in free space or logs when the call returns."""
        await self._maintenance().purge()

    async def check(self) -> Health:
        """Version, integrity and figures of the database."""
        return await self._maintenance().check()

    async def health(self) -> HealthCheckResult:
        """Whether the engine answers: one short call, at most 5 s, never an exception, at any time (RES-4)."""
        return await check_health(self.engine, self._session.guard)

    def metrics(self) -> dict[str, Any]:
        """What was counted of every call since the store was made; `collector` has it in other formats (MET-4)."""
        return self.collector.get_metrics()

    @property
    def collector(self) -> MetricsCollector:
        """What counts: one for all namespaces of the opened store, for reading, exporting and counting of your own."""
        return self._session.guard.metrics

    @asynccontextmanager
    async def transaction(
        self, *, isolation: Isolation = "serializable", timeout: float = 5.0
    ) -> "AsyncIterator[TransactionStore]":
        """Everything done through the yielded store is committed together when the block ends, or not at all.

        `isolation` is a minimum. After `timeout` seconds the transaction is rolled back and its operations raise
        `StorageTimeoutError`. A write through another store of the same database inside the block, or in a task
        started inside it, raises at once: it would wait for this very transaction.
        """
        self._check_transaction(isolation, timeout)
        opened = await self._driver("transactions").begin(timeout=timeout, isolation=isolation)
        token = in_transaction.set(self._session.guard)
        pending = Pending(self._observers, self._namespace)
        view = TransactionStore(self._session, self._namespace, opened, pending)
        try:
            yield view
        except BaseException:
            await to_the_end(view.rollback())
            raise
        else:
            if not view.ended:
                await view.commit()
        finally:
            with suppress(ValueError):  # one that was abandoned is ended by the loop, in a context of its own
                in_transaction.reset(token)

    async def run_in_transaction(
        self,
        work: "Callable[[TransactionStore], Awaitable[Result]]",
        *,
        retries: int = 3,
        isolation: Isolation = "serializable",
        timeout: float = 5.0,
    ) -> Result:
        """Run `work` in a transaction, again after a retryable failure such as a lost serialization race.

        Not again where nobody knows whether it was committed: that error is the caller's to judge.
        """
        check_limit(retries, field="retries")
        for left in range(retries, -1, -1):
            try:
                async with self.transaction(isolation=isolation, timeout=timeout) as tx:
                    return await _begun(work, tx)
            except StorageError as error:
                if not error.retryable or error.outcome is Outcome.UNKNOWN or not left:
                    raise
                await asyncio.sleep(random.uniform(0, 0.05))  # noqa: S311 - jitter
        raise AssertionError("unreachable")  # pragma: no cover

    def _check_transaction(self, isolation: str, timeout: float) -> None:
        if isolation not in ("read_committed", "repeatable_read", "serializable"):
            raise StorageDataError("expected read_committed, repeatable_read or serializable", field="isolation")
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0:
            raise StorageDataError("expected seconds above 0", field="timeout")

    def _maintenance(self) -> Maintenance:
        return guard(Maintenance(self.engine), "engine", self._session.guard)

    def _driver(self, contract: str) -> Any:
        driver = self._guarded.get(contract)
        if driver is None:
            bare = getattr(self._drivers, contract)
            if bare is None:
                self._refuse(contract)
            inside, tenant = self._transaction is not None, next(iter(decode(self._namespace)), None)
            sizes = VOLUME.get(contract)
            driver = guard(bare, contract, self._session.guard, inside=inside, tenant=tenant, sizes=sizes)
            self._guarded[contract] = driver
        return driver

    def _refuse(self, contract: str) -> None:
        offered = ", ".join(self._drivers.features())
        where = " in a namespace" if contract == "sql" and self._namespace else ""
        raise StorageUnsupportedError(
            f"there is no {contract}{where}; this store offers {offered}", engine=self.engine.name, operation=contract
        )


def _begun(work: "Callable[[TransactionStore], Awaitable[Result]]", tx: "TransactionStore") -> Awaitable[Result]:
    begun = work(tx) if callable(work) else None
    if not isawaitable(begun):
        raise StorageDataError("expected an async function of one argument, the transaction", field="work")
    return begun


class TransactionStore(Store):
    """A store inside one transaction; it reads its own writes."""

    ended = False
    """Whether the block ended it by `commit` or `rollback` of its own."""

    @property
    def _open(self) -> Transaction:
        assert self._transaction is not None  # noqa: S101 - set by Store.transaction, which alone makes one
        driver: Transaction = self._guarded.setdefault(
            "transaction", guard(_Ending(self._transaction), "transactions", self._session.guard, inside=True)
        )
        return driver

    @property
    def _told(self) -> Pending:
        assert self._pending is not None  # noqa: S101 - the same
        return self._pending

    @asynccontextmanager
    async def transaction(
        self, *, isolation: Isolation = "serializable", timeout: float = 5.0
    ) -> "AsyncIterator[TransactionStore]":
        """A transaction inside this one: a savepoint. `timeout` stays that of the outer one."""
        self._check_transaction(isolation, timeout)
        async with self.savepoint():
            yield self

    async def commit(self) -> None:
        """Commit now; the block may go on reading nothing more."""
        with self._told.commit():
            await self._open.commit()
        self.ended = True

    async def rollback(self) -> None:
        """Undo everything and end the transaction."""
        await self._open.rollback()
        self._told.end(committed=False)
        self.ended = True

    def savepoint(self, name: str | None = None) -> Savepoint:
        """`async with tx.savepoint():` undoes only its block when that raises; savepoints nest.

        `await tx.savepoint("a")` opens one that stays until the transaction ends, for `rollback_to`. A name that is
        open already is a `StorageDataError`: giving up the one would give up the other.
        """
        return Savepoint(self._savepoints, name)

    async def rollback_to(self, name: str) -> None:
        """Undo what was done since the savepoint was opened. It stays open; those opened after it are gone."""
        await self._savepoints.rollback_to(name)

    @property
    def _savepoints(self) -> Savepoints:
        found: Savepoints = self._guarded.setdefault("savepoints", Savepoints(self._open, self._told))
        return found


class _Ending:
    """A transaction's own operations in a shape the guard can wrap."""

    features = None

    def __init__(self, transaction: Transaction) -> None:
        self.commit, self.rollback = transaction.commit, transaction.rollback
        self.savepoint, self.rollback_to, self.release = (
            transaction.savepoint, transaction.rollback_to, transaction.release,
        )  # fmt: skip
