"""Stores with a near cache over Redis."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import servers
from engines.near_cache import NewStore
from engines.redis.near_cache.told import _all_see
from servers.redis import RedisCluster

from polymem.core.registry import create_engine
from polymem.layers.cache import CachedEngine, CachePolicy
from polymem.opened import Session
from polymem.store import Store


@pytest.fixture
def new_cached(prefix: str) -> NewStore:
    """A store with a near cache that is not open yet; ten seconds make up for a machine that is busy."""

    def make(
        url: str = "", layers: Any = (), options: Any = None, max_staleness: float | None = 10, **policy: Any
    ) -> Store:
        engine = create_engine(url or servers.url("redis"), prefix=prefix, **(options or {}))
        return Store(
            Session(CachedEngine(engine, CachePolicy(max_staleness=max_staleness, **policy), layers), sweep_every=None)
        )

    return make


@pytest.fixture
async def cached(new_cached: NewStore, store: Store) -> AsyncIterator[Store]:
    """Over the same records as `store`, which is another client."""
    async with new_cached() as opened:
        yield opened


@pytest.fixture(name="own")
async def give_own(
    new_cached: NewStore, prefix: str, tmp_path: Path
) -> AsyncIterator[tuple[RedisCluster, Store, Store]]:
    """A Cluster that may be changed, and two stores on it: one with a near cache, one without."""
    cluster = RedisCluster(tmp_path)
    try:
        async with (
            new_cached(cluster.url) as cached,
            Store(Session(create_engine(cluster.url, prefix=prefix), sweep_every=None)) as store,
        ):
            await _all_see(cached, store, 1)
            yield cluster, cached, store
    finally:
        cluster.kill()
