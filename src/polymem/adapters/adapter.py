"""`StorageAdapter`: store, retrieve, search and delete over any database (ADP-1)."""

import asyncio
import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import wraps
from time import perf_counter
from types import TracebackType
from typing import Any, ClassVar, Final, Self, TypeVar

from polymem.contracts._input import several
from polymem.core.health import HealthCheckResult
from polymem.core.metrics import MetricsCollector
from polymem.core.operation_timer import OperationTimer
from polymem.core.text import MAX_COUNT
from polymem.errors import StorageDataError

Result = TypeVar("Result")
Method = Callable[..., Awaitable[Any]]
_log = logging.getLogger("polymem.adapters")
_UNCOUNTED: Final = ("connect", "disconnect", "health_check")


def _counted(name: str, method: Method) -> Method:
    """Count and time each call, once where a subclass calls the method that it replaces."""

    @wraps(method)
    async def counted(self: "StorageAdapter", *args: Any, **options: Any) -> Any:
        if getattr(type(self), name) is not counted:
            return await method(self, *args, **options)
        with OperationTimer(self.collector, name):
            return await method(self, *args, **options)

    return counted


def _connecting(connect: Method) -> Method:
    """Connect once, however often and at the same time it is asked."""

    @wraps(connect)
    async def connecting(self: "StorageAdapter") -> None:
        if type(self).connect is not connecting:
            await connect(self)
            return
        async with self._lock:
            if self.is_connected:
                return
            started = perf_counter()
            try:
                await connect(self)
            except Exception as error:
                self.collector.record_error(error, "connect", seconds=perf_counter() - started)
                raise
            self.collector.record_connection_event("connect", perf_counter() - started)
            self._connected = True

    return connecting


def _disconnecting(disconnect: Method) -> Method:
    """Disconnect once, and never raise."""

    @wraps(disconnect)
    async def disconnecting(self: "StorageAdapter") -> None:
        if type(self).disconnect is not disconnecting:
            await disconnect(self)
            return
        async with self._lock:
            if not self.is_connected:
                return
            self._connected = False
            self.collector.record_connection_event("disconnect")
            try:
                await disconnect(self)
            except Exception as error:  # noqa: BLE001 - who disconnects is done with it, whatever happens
                _log.warning("disconnecting %s failed: %s", self.adapter_type, type(error).__name__)

    return disconnecting


class StorageAdapter(ABC):
    """Records as dicts, in a database that a subclass knows.

    `config` is a mapping, or the URL alone; its key `metrics` takes the options of `MetricsOptions`, or False. A subclass
    supplies `connect`, `disconnect`, `store`, `retrieve`, `search` and `delete`. Its public async methods are counted
    and timed, its `connect` runs only while it is not connected, and its `disconnect` only while it is.
    """

    adapter_type: ClassVar[str] = "storage"
    """The name in metrics and logs: that of the class, without Adapter."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "adapter_type" not in vars(cls):
            cls.adapter_type = cls.__name__.removesuffix("Adapter").lower()
        _observe(cls)

    def __init__(self, config: Mapping[str, Any] | str) -> None:
        if not isinstance(config, (str, Mapping)):
            raise StorageDataError("expected a URL, or a mapping of options", field="config")
        self.config: dict[str, Any] = {"url": config} if isinstance(config, str) else dict(config)
        metrics = self.config.get("metrics")
        self.collector = MetricsCollector(self.adapter_type, metrics, pool=self._pool, details=self._details)
        self._connected, self._lock = False, asyncio.Lock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'connected' if self.is_connected else 'disconnected'}>"

    @abstractmethod
    async def connect(self) -> None:
        """Connect; connecting again after a disconnect is allowed."""

    @abstractmethod
    async def disconnect(self) -> None:
        """Let go of every connection. Never raises: what goes wrong is logged."""

    @abstractmethod
    async def store(self, data: Mapping[str, Any], /) -> str:
        """Store a record; its id, by which `retrieve` and `delete` know it. `StorageDataError` for a bad one."""

    @abstractmethod
    async def retrieve(self, id: str, /) -> dict[str, Any] | None:
        """The record with its `id` and every stored field, None where there is none."""

    @abstractmethod
    async def search(self, query: Mapping[str, Any], /) -> list[dict[str, Any]]:
        """The records that a query finds; it has `limit` (10) and `offset`, the rest is the subclass's."""

    @abstractmethod
    async def delete(self, id: str, /) -> bool:
        """Remove a record; whether it was there."""

    @property
    def is_connected(self) -> bool:
        return self._connected

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.disconnect()

    async def store_batch(self, records: Iterable[Mapping[str, Any]], /) -> list[str]:
        """Store records one after the other; their ids in the same order."""
        return [await self.store(record) for record in several(records, field="records")]

    async def retrieve_batch(self, ids: Iterable[str], /) -> list[dict[str, Any] | None]:
        """The records of several ids, in the same order."""
        return [await self.retrieve(id) for id in several(ids, field="ids")]

    async def delete_batch(self, ids: Iterable[str], /) -> dict[str, bool]:
        """Remove several records; for each id whether it was there."""
        return {id: await self.delete(id) for id in dict.fromkeys(several(ids, field="ids"))}

    async def count(self, query: Mapping[str, Any] | None = None, /) -> int:
        """How many records a query finds, all of them without one."""
        return len(await self.search({**(query or {}), "limit": MAX_COUNT}))

    async def health_check(self) -> HealthCheckResult:
        """Whether it can be used; never raises and takes at most 5 seconds (RES-4)."""
        at = datetime.now(UTC)
        if self.is_connected:
            return HealthCheckResult("healthy", self.adapter_type, None, at, pool=self._pool())
        return HealthCheckResult("unhealthy", self.adapter_type, None, at, error="not connected")

    def get_metrics(self) -> dict[str, Any]:
        """A snapshot of what was counted (MET-4)."""
        return self.collector.get_metrics()

    def export_metrics(self, format: str = "dict") -> Any:
        """The snapshot as `dict`, `json`, `csv`, `markdown` or `prometheus`."""
        return self.collector.export_metrics(format)

    def reset_metrics(self) -> None:
        """Begin counting anew."""
        self.collector.reset_metrics()

    def _pool(self) -> Mapping[str, int] | None:
        """Figures of the connection pool, None where there is none."""
        return None

    def _details(self) -> Mapping[str, Any] | None:
        """What else there is to say of the database in metrics, None for nothing."""
        return None


def _observe(cls: type) -> None:
    """Put counting around the public async methods that a class defines itself."""
    for name, method in list(vars(cls).items()):
        if name == "connect":
            setattr(cls, name, _connecting(method))
        elif name == "disconnect":
            setattr(cls, name, _disconnecting(method))
        elif not name.startswith("_") and name not in _UNCOUNTED and inspect.iscoroutinefunction(method):
            setattr(cls, name, _counted(name, method))


_observe(StorageAdapter)
