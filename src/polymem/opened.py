"""What all namespaces of one opened store share: the engine, its guard, its sweeper and its listeners."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from time import perf_counter
from typing import Any

from polymem.contracts._events_hub import Observers
from polymem.contracts._events_types import Event
from polymem.contracts.drivers import Layer
from polymem.core.breaker import Breaker
from polymem.core.engine import Engine, details_of, pool_of
from polymem.core.guard import GuardContext, guard
from polymem.core.lease import Lease
from polymem.core.metrics import MetricsCollector
from polymem.core.metrics_options import MetricsOptions
from polymem.core.retry import RetryPolicy
from polymem.errors import StorageError

_log = logging.getLogger("polymem.store")
_SWEEP_ROWS = 1000
_LEASED_SWEEPS = 2.5
"""Sweeps for which a store stays the one that sweeps its database, should it die."""


class Session:
    """What all namespaces of one opened store share: the engine, its guard and its sweeper."""

    def __init__(
        self,
        engine: Engine,
        *,
        sweep_every: float | None = 60.0,
        retry: RetryPolicy | None = None,
        layers: Sequence[Layer] = (),
        metrics: MetricsOptions | Mapping[str, Any] | bool | None = None,
    ) -> None:
        self.engine, self.layers = engine, tuple(layers)
        breaker = Breaker() if engine.remote else None
        collector = MetricsCollector(
            engine.name, metrics, pool=partial(pool_of, engine), details=partial(details_of, engine)
        )
        self.guard = GuardContext(engine.name, engine.translate, breaker, retry or RetryPolicy(), collector)
        self._sweep_every = sweep_every
        self._sweeper: asyncio.Task[None] | None = None
        self._maintenance = guard(Maintenance(engine), "engine", self.guard)
        self._lease = Lease(getattr(self._maintenance, "lease", None), "sweeper", _LEASED_SWEEPS * (sweep_every or 0))
        self._lock = asyncio.Lock()
        self.sweeps: list[Callable[[], Awaitable[int]]] = []
        """Work that the sweeper does after the engine's own."""
        self.observers = Observers()
        heed_evictions = getattr(engine, "heed_evictions", None)
        if heed_evictions is not None:
            heed_evictions(self.observers.evicted)

    async def open(self) -> None:
        async with self._lock:
            if self.guard.loop is not None:
                self.guard.check("connect")
                return
            started = perf_counter()
            self.observers.emit(Event("before:connect", "open"))
            try:
                await self.engine.open()
            except StorageError:
                raise
            except Exception as error:
                translated = self.engine.translate(error)
                if translated is None:
                    raise
                raise translated from error
            self.guard.opened()
            self.guard.metrics.record_connection_event("connect", perf_counter() - started)
            if self._sweep_every is not None:
                self._sweeper = asyncio.create_task(self._sweep_for_ever(self._sweep_every))
            self.observers.emit(Event("after:connect", "open"))
            _log.info("connect %s", self.engine.name, extra={"engine": self.engine.name, "operation": "connect"})

    async def close(self) -> None:
        async with self._lock:
            if self.guard.loop is None:
                return
            over = self.guard.loop.is_closed()
            if not over:
                self.guard.check("disconnect")
            self.observers.emit(Event("before:disconnect", "close"))
            if self._sweeper is not None and not over:  # it ended with its loop
                self._sweeper.cancel()
                await asyncio.gather(self._sweeper, return_exceptions=True)
                with suppress(StorageError):  # it runs out by itself
                    await self._lease.release()
            self.guard.closed()
            self.guard.metrics.record_connection_event("disconnect")
            await self.engine.close()
            _log.info("disconnect %s", self.engine.name, extra={"engine": self.engine.name, "operation": "disconnect"})
        self.observers.emit(Event("after:disconnect", "close"))
        await self.observers.settle()

    async def _sweep_for_ever(self, every: float) -> None:
        while True:
            await asyncio.sleep(every * random.uniform(0.8, 1.2))  # noqa: S311 - spreads processes, guards nothing
            try:
                removed = await self.sweep_in_turn()
            except StorageError as error:
                _log.warning("sweep failed: %s", type(error).__name__)
            else:
                _log.info("swept %d expired records", removed)

    async def sweep_in_turn(self) -> int:
        """What the sweeper does each time: the engine's records only if no other store of the database does (G-6)."""
        removed = await self.sweep() if await self._lease.hold() else 0
        return removed + sum([await more() for more in self.sweeps])

    async def sweep(self) -> int:
        """Remove every expired record, 1,000 rows a transaction so that writers get their turn."""
        total = 0
        while removed := await self._maintenance.delete_expired(_SWEEP_ROWS):
            total += removed
        if total:
            self.observers.emit(Event("after:expire", "sweep", count=total))
        return total


class Maintenance:
    """The engine's own operations in a shape the guard can wrap."""

    features = None

    def __init__(self, engine: Engine) -> None:
        self.namespaces, self.drop_namespace = engine.namespaces, engine.drop_namespace
        self.delete_expired, self.check, self.purge = engine.delete_expired, engine.check, engine.purge
        lease = getattr(engine, "lease", None)
        if lease is not None:
            self.lease = lease
