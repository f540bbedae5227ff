"""How the suite gets at an engine."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from polymem.contracts.drivers import Layer
from polymem.core.clock import Clock, ManualClock
from polymem.core.engine import Engine
from polymem.core.registry import create_engine
from polymem.errors import StorageError
from polymem.opened import Session
from polymem.store import Store
from polymem.testing.clause import Capabilities


class Harness:
    """Opens stores on one set of data; subclass it, or use `UrlHarness` or `EngineHarness`.

    The suite keeps to namespaces of its own, which it drops, so the data may be a database that others use too.
    """

    shared: bool | None = None
    """Whether two stores opened at once work on the same data; None: found out by trying."""
    timeout = 60.0
    """Seconds a clause may take."""
    layers: Sequence[Layer] = ()
    """What `open` puts over the engine, innermost first; a store behind a failing connection gets it too."""

    async def open(self, clock: Clock) -> Store:
        """An opened store whose engine goes by `clock`; after a close, the same data where the engine keeps it."""
        raise NotImplementedError

    async def cleanup(self) -> None:
        """Forget the data; the next `open` may start anew. Every store is closed by now."""


class UrlHarness(Harness):
    """Any engine that `polymem.open(url, **options)` finds."""

    def __init__(self, url: str, *, shared: bool | None = None, **options: Any) -> None:
        self._url, self.shared, self._options = url, shared, options

    async def open(self, clock: Clock) -> Store:
        return await Store(Session(create_engine(self._url, clock=clock, **self._options), sweep_every=None))


class EngineHarness(Harness):
    """Engines made by `make(folder, clock)`, in an empty temporary folder for each clause."""

    def __init__(
        self, make: Callable[[Path, Clock], Engine], *, shared: bool | None = None, layers: Sequence[Layer] = ()
    ) -> None:
        self._make, self.shared, self.layers = make, shared, layers
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    async def open(self, clock: Clock) -> Store:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="polymem-", ignore_cleanup_errors=True)
        return await Store(Session(self._make(Path(self._folder.name), clock), sweep_every=None, layers=self.layers))

    async def cleanup(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


async def capabilities(harness: Harness) -> Capabilities:
    """Open the engine, ask what it offers, and try whether there can be a second instance."""
    clock = ManualClock()
    store = await harness.open(clock)
    try:
        shared = harness.shared
        if shared is None:
            shared = _keeps(store) and await _opens_twice(harness, clock)
        return Capabilities(store.engine.name, {"engine": None, **store.features()}, shared)
    finally:
        await store.close()
        await harness.cleanup()


def _keeps(store: Store) -> bool:
    """What is not kept anywhere cannot be shared either."""
    return any(getattr(features, "durable", False) for features in store.features().values())


async def _opens_twice(harness: Harness, clock: Clock) -> bool:
    try:
        second = await harness.open(clock)
    except StorageError:
        return False
    await second.close()
    return True
