"""One engine, with and without layers over it, and stores with a near cache."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from layers.cache_gate import Gate, Open
from layers.layered import opened, sealing

from polymem import Store
from polymem.core.clock import ManualClock
from polymem.core.registry import create_engine
from polymem.engines.memory.engine import MemoryEngine
from polymem.layers.cache import Cache, CachedEngine, CachePolicy
from polymem.layers.compression import Compression
from polymem.opened import Session


@pytest.fixture
def engine() -> Any:
    return create_engine("memory:")


@pytest.fixture
async def plain(engine: Any) -> Store:
    return await opened(engine=engine)


@pytest.fixture
async def compressed(engine: Any) -> Store:
    return await opened(Compression(), engine=engine)


@pytest.fixture
async def encrypted(engine: Any) -> Store:
    return await opened(sealing(), engine=engine)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def cached(clock: ManualClock, gate: Gate) -> Open:
    @asynccontextmanager
    async def make(engine: Any = None, **policy: Any) -> AsyncIterator[tuple[Store, Cache]]:
        over = CachedEngine(engine or MemoryEngine(clock), CachePolicy(**policy), [gate])
        async with Store(Session(over, sweep_every=None)) as store:
            yield store, store.cache

    return make
