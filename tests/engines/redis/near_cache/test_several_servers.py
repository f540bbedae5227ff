"""The near cache over a cluster, and where another server takes over (CCH-2)."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import servers
from engines.near_cache import PATIENCE, NewStore, eventually, hits, listening, until
from engines.redis.marks import integration
from engines.redis.near_cache.told import _all_see, told
from servers.redis import RedisCluster, Sentinels

from polymem.core.registry import create_engine
from polymem.errors import StorageConnectionError
from polymem.opened import Session
from polymem.store import Store


@pytest.mark.anyio
@pytest.mark.integration
@pytest.mark.server("redis_cluster")
async def test_every_node_of_a_cluster_is_heard(new_cached: NewStore, prefix: str) -> None:
    url = servers.url("redis_cluster")
    async with new_cached(url) as cached, Store(Session(create_engine(url, prefix=prefix), sweep_every=None)) as store:
        await _all_see(cached, store, 1)
        await _all_see(cached, store, 2)
        for number in range(30):
            await store.drop_namespace(f"n{number}")


@pytest.mark.anyio
@pytest.mark.integration
@pytest.mark.server("redis_cluster")
async def test_a_primary_that_is_replaced(own: tuple[RedisCluster, Store, Store]) -> None:
    """The cache is off until the nodes agree again, then every server that holds data is heard."""
    cluster, cached, store = own
    cluster.primaries()[0].kill()
    await until(lambda: not listening(cached).current())
    await until(lambda: listening(cached).current())
    await _all_see(cached, store, 2)


@pytest.mark.anyio
@pytest.mark.integration
@pytest.mark.server("redis_cluster")
async def test_slots_that_move(own: tuple[RedisCluster, Store, Store]) -> None:
    """A replica takes over while its primary lives: no call fails, for MOVED is followed, and all is heard again."""
    cluster, cached, store = own
    before = listening(cached)._parts
    replica = next(node for node in cluster.nodes if b"role:slave" in node.say("INFO", "replication"))
    assert replica.say("CLUSTER", "FAILOVER", "TAKEOVER") == b"+OK\r\n"  # without an election, which may fail
    assert b"role:master" in replica.say("INFO", "replication")
    await until(lambda: listening(cached)._parts is not before)
    await _all_see(cached, store, 2)


@pytest.mark.anyio
@pytest.mark.integration
@pytest.mark.server("redis_cluster")
async def test_a_replica_that_is_taken_for_a_primary(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One node tells redis-py of a failover late, while those that are asked for the layout know better."""
    engine: Any = create_engine(servers.url("redis_cluster"), prefix=prefix)
    await engine.open()
    link = engine._server.link
    async with asyncio.timeout(PATIENCE):
        while not (replicas := link._client.get_replicas()):  # which a new Cluster tells last
            await link.ears()
    assert await link.layout() == await link.layout()
    primaries = link._client.get_primaries()
    monkeypatch.setattr(link._client, "get_primaries", lambda: [replicas[0], *primaries[1:]])
    with pytest.raises(StorageConnectionError, match="do not agree"):
        await link.layout()
    await engine.close()


@integration
async def test_a_failover_by_sentinels(new_cached: NewStore, new_store: NewStore, tmp_path: Path) -> None:
    sentinels = Sentinels(tmp_path)
    try:
        async with new_cached(sentinels.url) as cached, new_store(sentinels.url) as store:
            await store.kv.put("a", 1)
            await told(cached)
            assert await cached.kv.get("a") == 1
            sentinels.primary.kill()
            await until(lambda: not listening(cached).current())
            await told(cached)  # by the new primary
            await eventually(lambda: store.kv.put("a", 2))
            await told(cached)
            assert await eventually(lambda: cached.kv.get("a")) == 2
            assert await hits(cached, lambda: cached.kv.get("a")) == 1
    finally:
        sentinels.kill()
