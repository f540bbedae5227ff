"""The near cache over PostgreSQL: poolers, replicas, privileges and clients that are given (CCH-2)."""

import asyncio
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest
import servers
from engines import near_cache as scenes
from engines.near_cache import SCENES, NewStore, hits, listening, until
from engines.postgres.faults import connections, running, through
from engines.postgres.near_cache.told import Open, known, told
from engines.postgres.replicas import Pair, caught_up, paused
from servers._process import cache_folder
from servers.postgres import PgBouncer, PostgresServer, database

from polymem.core.registry import create_engine
from polymem.engines.postgres.grants import grants
from polymem.errors import StorageUnsupportedError
from polymem.layers.cache import CachedEngine
from polymem.opened import Session
from polymem.store import Store

pytestmark = [pytest.mark.anyio, pytest.mark.integration, pytest.mark.server("postgres")]


async def test_behind_a_pooler(new_cached: NewStore, url: str, store: Store, own_bouncer: PgBouncer) -> None:
    """Looking needs no session of its own, so no `direct_url` either."""
    async with new_cached(through(url, own_bouncer)) as cached:
        for scene in SCENES[:2]:
            await scene(cached, store, told)


async def test_a_pooler_that_leads_to_another_server(cached: Store, store: Store, own: PostgresServer) -> None:
    """No connection of ours is lost then; the notes are others."""
    await store.kv.put("a", 1)
    await told(cached)
    await cached.kv.get("a")
    assert known(cached, "a") is not None
    link, raw = listening(cached)._link, await asyncpg.connect(own.url)
    async with Store(Session(CachedEngine(create_engine(own.url), 100), sweep_every=None)):
        raw, link.raw = link.raw, raw
        await until(lambda: listening(cached)._link is not link)
        assert known(cached, "a") is None
    await raw.close()


async def test_a_replica_that_lags(new_cached: NewStore, pair: Pair) -> None:
    """What was told is read from where it can be seen."""
    primary, replica = pair
    async with (
        new_cached(primary.url, options={"replicas": replica.url}) as cached,
        Store(Session(create_engine(primary.url), sweep_every=None)) as store,
    ):
        await store.kv.put("a", 1)
        await told(cached)
        await caught_up(cached)
        assert await cached.kv.get("a") == 1
        async with paused(replica):
            await store.kv.put("a", 2)
            await told(cached)
            assert await cached.kv.get("a") == 2
            assert await cached.kv.get("a") == 2
        await store.kv.put("a", 3)
        await told(cached)
        assert await cached.kv.get("a") == 3


async def test_a_replica_takes_over(new_cached: NewStore) -> None:
    """With both hosts in the URL the cache follows by itself."""
    folder = cache_folder() / f"takeover-{uuid4().hex}"
    async with running(folder) as primary, running(folder.with_name(f"{folder.name}-replica"), of=primary) as replica:
        both = (
            primary.url.removesuffix("/postgres")
            + f",127.0.0.1:{replica.port}/postgres?target_session_attrs=read-write"
        )
        async with new_cached(both, options={"timeout": 1.0, "connect_timeout": 1.0}) as cached:
            await cached.kv.put("a", 1)
            await told(cached)
            await cached.kv.get("a")
            assert await hits(cached, lambda: cached.kv.get("a")) == 1
            async with asyncio.timeout(scenes.PATIENCE):
                while await asyncio.to_thread(replica.sql, "select count(*) from pm_kv") != "1\n":
                    await asyncio.sleep(0.05)
            await asyncio.to_thread(primary.kill)
            await until(lambda: not listening(cached).current())
            await asyncio.to_thread(replica.sql, "select pg_promote()")
            for step in ("2", "3"):
                await asyncio.to_thread(replica.sql, f"update pm_kv set body = '{step}'")
                await told(cached)
                assert await scenes.eventually(lambda: cached.kv.get("a")) == int(step)
            assert await hits(cached, lambda: cached.kv.get("a")) == 1


async def test_the_least_privileges(new_cached: NewStore, opened: Open) -> None:
    """A role that was granted what `grants` says may begin to hear, and writes that are noted."""
    own = database(servers.url("postgres"), "near_cache_roles")
    owner = await opened(own)
    await owner.sql.execute("create role hearing login password 'h'")
    try:
        address = own.replace(f"{urlsplit(own).username}:{urlsplit(own).password}@", "hearing:h@")
        for statement in await grants(owner.sql, "hearing"):
            await owner.sql.execute(statement)
        async with new_cached(address) as cached:
            await cached.kv.put("a", 1)
            await told(cached)
            assert await cached.kv.get("a") == 1
            await owner.kv.put("a", 2)
            await told(cached)
            assert await cached.kv.get("a") == 2
        await owner.sql.execute("revoke all on pm_told from hearing")
        with pytest.raises(StorageUnsupportedError, match="grants"):
            await new_cached(address, max_staleness=None)
        async with new_cached(address, max_staleness=60) as aging:
            assert listening(aging) is None
    finally:
        await owner.sql.execute("drop owned by hearing")
        await owner.sql.execute("drop role hearing")


async def test_a_client_that_was_given(new_cached: NewStore, store: Store, url: str) -> None:
    async with asyncpg.create_pool(url) as client, new_cached(options={"client": client}) as cached:
        await scenes.reads_are_hits_until_somebody_writes(cached, store, told)


async def test_a_server_that_only_reads(new_cached: NewStore, pair: Pair) -> None:
    """Nothing is noted there: entries are given up at an age, or the store does not open."""
    primary, replica = pair
    async with Store(Session(create_engine(primary.url), sweep_every=None)) as store:
        await store.kv.put("a", 1)
    async with new_cached(replica.url, max_staleness=60) as aging:
        assert listening(aging) is None
    with pytest.raises(StorageUnsupportedError):
        await new_cached(replica.url, max_staleness=None)


async def test_nothing_is_left_open(new_cached: NewStore, url: str) -> None:
    options = {"application_name": "left", "min_size": 1}
    cached = await new_cached(options=options)
    assert await connections(url, "left") == 2
    await cached.close()
    async with asyncio.timeout(scenes.PATIENCE):
        while await connections(url, "left"):
            await asyncio.sleep(0.01)
    await cached.open()  # and again
    await cached.kv.put("a", 1)
    await told(cached)
    await cached.kv.get("a")
    assert await hits(cached, lambda: cached.kv.get("a")) == 1
    await cached.close()


@pytest.mark.parametrize("ticks", range(6))
async def test_closed_while_the_connection_fails(new_cached: NewStore, ticks: int) -> None:
    """Wherever the end of the connection and of the store meet, listening ends."""
    cached = await new_cached()
    notes = listening(cached)
    notes._link.raw.terminate()
    notes._every = 0
    for _ in range(ticks):
        await asyncio.sleep(0)
    async with asyncio.timeout(scenes.PATIENCE):
        await cached.close()
    assert notes._link is None
    assert notes._task.done()
