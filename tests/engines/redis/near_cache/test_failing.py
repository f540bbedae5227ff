"""The near cache over Redis: what nobody vouches for is not served (CCH-2)."""

import asyncio
from time import monotonic
from typing import Any

import pytest
from engines.near_cache import NewStore, hits, listening, until
from engines.redis.marks import integration
from engines.redis.near_cache.told import told
from servers.proxy import FaultProxy
from servers.redis import RedisServer

from polymem.engines.redis import _tracking
from polymem.errors import StorageConnectionError, StorageTimeoutError, StorageUnsupportedError
from polymem.store import Store


@integration
async def test_a_connection_that_is_killed(new_cached: NewStore, new_store: NewStore, own_server: RedisServer) -> None:
    """What was cached is gone, what is written meanwhile is seen, and hits come back by themselves."""
    async with new_cached(own_server.url) as cached, new_store(own_server.url) as store:
        await store.kv.put_many({"a": 0, "b": 0})
        for step in range(1, 6):
            await told(cached)
            await cached.kv.get("a")
            await cached.kv.get("b")
            assert await hits(cached, lambda: cached.kv.get("a")) == 1
            own_server.say("CLIENT", "KILL", "TYPE", "pubsub")
            await until(lambda: not listening(cached).current())
            assert await hits(cached, lambda: cached.kv.get("a")) == 0
            await store.kv.put_many({"a": step, "b": step})
            assert await cached.kv.get("a") == step
            await told(cached)
            assert await cached.kv.get("b") == step  # which nobody read meanwhile


@integration
async def test_a_server_that_is_emptied(new_cached: NewStore, own_server: RedisServer) -> None:
    async with new_cached(own_server.url) as cached:
        await cached.kv.put("a", 1)
        await told(cached)
        assert await cached.kv.get("a") == 1
        own_server.say("FLUSHALL")
        await told(cached)
        assert await cached.kv.get("a") is None


@integration
async def test_a_server_that_is_restarted(new_cached: NewStore, own_server: RedisServer) -> None:
    async with new_cached(own_server.url) as cached:
        await cached.kv.put("a", 1)
        await told(cached)
        assert await cached.kv.get("a") == 1
        own_server.kill()
        await until(lambda: not listening(cached).current())
        own_server.start()
        await told(cached)
        assert await cached.kv.get("a") == 1
        assert await hits(cached, lambda: cached.kv.get("a")) == 1


@integration
async def test_silence_is_no_reason_to_believe(
    new_cached: NewStore, new_store: NewStore, own_server: RedisServer, proxy: FaultProxy
) -> None:
    """A connection that hangs: after `max_staleness` nothing is served from the cache; then the server is asked."""
    async with (
        new_cached(f"redis://127.0.0.1:{proxy.port}", options={"socket_timeout": 0.5}, max_staleness=0.2) as cached,
        new_store(own_server.url) as store,
    ):
        await store.kv.put("a", 1)
        await told(cached)
        assert await cached.kv.get("a") == 1
        proxy.black_hole = True
        await store.kv.put("a", 2)
        await until(lambda: not listening(cached).current())
        with pytest.raises((StorageTimeoutError, StorageConnectionError)):
            await cached.kv.get("a")
        proxy.heal()
        await told(cached)
        assert await cached.kv.get("a") == 2


@integration
async def test_what_is_proven_grows_old(cached: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    await cached.kv.put("a", 1)
    await told(cached)
    await cached.kv.get("a")
    assert await hits(cached, lambda: cached.kv.get("a")) == 1
    now = monotonic()
    monkeypatch.setattr(_tracking, "monotonic", lambda: now + 10.5)
    assert await hits(cached, lambda: cached.kv.get("a")) == 0
    monkeypatch.undo()


@integration
async def test_a_read_under_way_is_no_news(cached: Store, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that began before a write was told is shared with nobody who comes after."""
    await store.kv.put("a", 1)
    await told(cached)
    server: Any = cached.engine._engine._server  # type: ignore[attr-defined]
    read, go, begun = server.reads._one, asyncio.Event(), asyncio.Event()

    async def held(item: Any) -> Any:
        found = await read(item)
        begun.set()
        await go.wait()
        return found

    monkeypatch.setattr(server.reads, "_one", held)
    early = asyncio.create_task(cached.kv.get("a"))
    await begun.wait()
    monkeypatch.setattr(server.reads, "_one", read)
    await store.kv.put("a", 2)
    await told(cached)
    late = asyncio.create_task(cached.kv.get("a"))
    await asyncio.sleep(0)
    go.set()
    assert (await early, await late) == (1, 2)
    assert await cached.kv.get("a") == 2


@integration
async def test_a_server_that_refuses(new_cached: NewStore, own_server: RedisServer) -> None:
    own_server.say("ACL", "SETUSER", "ada", "on", ">pw", "~*", "&*", "+@all", "-client")
    url = f"redis://ada:pw@127.0.0.1:{own_server.port}"
    with pytest.raises(StorageUnsupportedError, match="CLIENT TRACKING"):
        await new_cached(url, max_staleness=None)
    async with new_cached(url, max_staleness=60) as aging:
        await aging.kv.put("a", 1)
        assert await hits(aging, lambda: aging.kv.get("a")) == 1
