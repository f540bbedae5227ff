"""A database of their own, since its triggers are seen by every test on it."""

from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
import servers
from engines.near_cache import NewStore
from engines.postgres.near_cache.told import Open
from servers._process import cache_folder
from servers.postgres import PgBouncer, database, remove

from polymem.core.breaker import Breaker
from polymem.core.registry import create_engine
from polymem.layers.cache import CachedEngine, CachePolicy
from polymem.opened import Session
from polymem.store import Store


@pytest.fixture(name="url", scope="session")
def give_url() -> str:
    """A database of these tests alone: they want every record of it."""
    return database(servers.url("postgres"), "near_cache")


@pytest.fixture(name="new_cached")
def give_new_cached(url: str) -> NewStore:
    """A store with a near cache that is not open yet; ten seconds make up for a machine that is busy."""

    def make(
        address: str = url, layers: Any = (), options: Any = None, max_staleness: float | None = 10, **policy: Any
    ) -> Store:
        engine = create_engine(address, **(options or {}))
        cached = CachedEngine(engine, CachePolicy(max_staleness=max_staleness, **policy), layers)
        session = Session(cached, sweep_every=None)
        session.guard.breaker = Breaker(pause=0.05)
        return Store(session)

    return make


@pytest.fixture(name="store")
async def give_store(opened: Open) -> AsyncIterator[Store]:
    store = await opened()
    yield store
    await store.engine.drop_namespace("")


@pytest.fixture(name="cached")
async def give_cached(new_cached: NewStore, store: Store) -> AsyncIterator[Store]:
    """Over the same records as `store`, which is another client."""
    async with new_cached() as opened:
        yield opened


@pytest.fixture(name="own_bouncer")
def give_bouncer(url: str) -> Iterator[PgBouncer]:
    folder = cache_folder() / f"bouncer-{uuid4().hex}"
    pooler = PgBouncer(folder, int(urlsplit(url).port or 0), pool_size=2)
    yield pooler
    pooler.stop()
    remove(folder)
