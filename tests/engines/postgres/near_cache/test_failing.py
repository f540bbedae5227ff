"""The near cache over PostgreSQL: what nobody vouches for is not served (CCH-2)."""

import asyncio
from time import monotonic
from typing import Any

import pytest
import servers
from engines import near_cache as scenes
from engines.near_cache import NewStore, hits, listening, until
from engines.postgres.faults import through
from engines.postgres.near_cache.told import Open, end_connection, known, told
from servers.postgres import PostgresServer, database
from servers.proxy import FaultProxy

from polymem.engines.postgres import _telling
from polymem.store import Store

pytestmark = [pytest.mark.anyio, pytest.mark.integration, pytest.mark.server("postgres")]


async def test_a_connection_that_is_killed(cached: Store, store: Store, url: str) -> None:
    """What was cached is gone, what is written meanwhile is seen, and hits come back by themselves."""
    await store.kv.put_many({"a": 0, "b": 0})
    for step in range(1, 6):
        await told(cached)
        await cached.kv.get("a")
        await cached.kv.get("b")
        assert await hits(cached, lambda: cached.kv.get("a")) == 1
        await end_connection(cached, url)
        await until(lambda: not listening(cached).current())
        assert await hits(cached, lambda: cached.kv.get("a")) == 0
        await store.kv.put_many({"a": step, "b": step})
        assert await cached.kv.get("a") == step
        await told(cached)
        assert await cached.kv.get("b") == step  # which nobody read meanwhile


async def test_a_server_that_crashes(new_cached: NewStore, own: PostgresServer) -> None:
    """It forgets its notes, and everybody what they have heard."""
    async with new_cached(own.url) as cached:
        await cached.kv.put("a", 1)
        await told(cached)
        assert await cached.kv.get("a") == 1
        await asyncio.to_thread(own.kill)
        await until(lambda: not listening(cached).current())
        await asyncio.to_thread(own.start)
        await asyncio.to_thread(own.sql, "update pm_kv set body = '2'")  # before anybody listens, perhaps
        await told(cached)
        assert await cached.kv.get("a") == 2
        assert await hits(cached, lambda: cached.kv.get("a")) == 1
        await asyncio.to_thread(own.sql, "update pm_kv set body = '3'")
        await told(cached)
        assert await cached.kv.get("a") == 3


async def test_silence_is_no_reason_to_believe(new_cached: NewStore, store: Store, url: str, proxy: FaultProxy) -> None:
    """A connection that hangs: after `max_staleness` nothing is served from the cache; then the server is asked."""
    options = {"timeout": 0.5, "connect_timeout": 0.5}
    async with new_cached(through(url, proxy), options=options, max_staleness=0.2) as cached:
        await store.kv.put("a", 1)
        await told(cached)
        assert await cached.kv.get("a") == 1
        proxy.black_hole = True
        await store.kv.put("a", 2)
        await until(lambda: not listening(cached).current())
        assert known(cached, "a") is None
        proxy.heal()
        await told(cached)
        assert await scenes.eventually(lambda: cached.kv.get("a")) == 2


async def test_a_paused_server(new_cached: NewStore, opened: Open, own: PostgresServer) -> None:
    limits = {"timeout": 0.5, "connect_timeout": 0.5}
    async with new_cached(own.url, options=limits, max_staleness=0.5) as cached:
        await cached.kv.put("p", 1)
        await told(cached)
        await cached.kv.get("p")
        own.pause()
        try:
            await until(lambda: not listening(cached).current())
            assert known(cached, "p") is None
        finally:
            own.resume()
        await told(cached)
        assert await scenes.eventually(lambda: cached.kv.get("p")) == 1


async def test_what_is_proven_grows_old(cached: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    await cached.kv.put("a", 1)
    await told(cached)
    await cached.kv.get("a")
    assert await hits(cached, lambda: cached.kv.get("a")) == 1
    now = monotonic()
    monkeypatch.setattr(_telling, "monotonic", lambda: now + 10.5)
    assert await hits(cached, lambda: cached.kv.get("a")) == 0
    monkeypatch.undo()


async def test_a_read_under_way_is_no_news(cached: Store, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that began before a write was told is shared with nobody who comes after."""
    await store.kv.put("a", 1)
    await told(cached)
    go, begun, load = asyncio.Event(), asyncio.Event(), cached.engine._near.load  # type: ignore[attr-defined]

    async def held(slot: Any, read: Any) -> Any:
        async def late(key: str) -> Any:
            found = await read(key)
            begun.set()
            await go.wait()
            return found

        return await load(slot, late)

    monkeypatch.setattr(cached.engine._near, "load", held)  # type: ignore[attr-defined]
    early = asyncio.create_task(cached.kv.get("a"))
    await begun.wait()
    monkeypatch.undo()
    await store.kv.put("a", 2)
    await told(cached)
    late = asyncio.create_task(cached.kv.get("a"))
    await asyncio.sleep(0)
    go.set()
    assert (await early, await late) == (1, 2)
    assert await cached.kv.get("a") == 2


async def test_what_nobody_has_read_is_kept(cached: Store, store: Store) -> None:
    await told(cached)
    await cached.kv.get("a")
    notes = await still(cached)
    link = notes._link
    await store.kv.put("a", 1)
    await trim(store)
    notes._task = asyncio.create_task(notes._follow())
    await told(cached)
    assert notes._link is link
    assert await cached.kv.get("a") == 1


async def test_a_reader_that_is_too_slow_begins_anew(cached: Store, store: Store) -> None:
    """Notes were removed that it had not read: what it knows counts for nothing."""
    await store.kv.put("a", 1)
    await told(cached)
    await cached.kv.get("a")
    notes = await still(cached)
    link = notes._link
    await store.kv.put("a", 2)
    for _ in range(3):
        await trim(store)
    assert (await store.sql.query("select count(*)::int from pm_told"))[0] == (0,)
    notes._task = asyncio.create_task(notes._follow())
    await until(lambda: notes._link not in (None, link) and notes.current())
    assert await cached.kv.get("a") == 2


async def still(store: Store) -> Any:
    """Its notes, which nobody reads any more."""
    notes = listening(store)
    notes._every, before = 1000, notes._proven
    await until(lambda: notes._proven != before)  # from now on it sleeps
    notes._task.cancel()
    await asyncio.gather(notes._task, return_exceptions=True)
    return notes


async def test_purged_notes(cached: Store, store: Store) -> None:
    """They name deleted records, so they go; whoever has not read them knows nothing any more."""
    notes = await still(cached)
    link = notes._link
    await store.kv.put("a", 1)
    await store.purge()
    assert (await store.sql.query("select count(*)::int from pm_told"))[0] == (0,)
    notes._task = asyncio.create_task(notes._follow())
    await until(lambda: notes._link not in (None, link) and notes.current())
    assert await cached.kv.get("a") == 1


async def trim(store: Store) -> None:
    await store.sql.execute("update pm_telling set at = at - interval '11 s'")
    await store.sql.execute(_telling._TRIM)


async def test_notes_go_when_everybody_has_read_them(cached: Store, store: Store) -> None:
    """Two trims later, whatever transaction is open."""
    link = listening(cached)._link
    async with store.transaction() as tx:
        await tx.kv.put("open", 1)
        for number in range(3):
            await told(cached)
            await cached.kv.put("a", number)
            await trim(cached)
        assert (await cached.sql.query("select count(*)::int from pm_told"))[0] < (3,)
    await told(cached)
    assert listening(cached)._link is link
    assert await cached.kv.get("open") == 1


async def test_writers_pay_while_somebody_caches(new_cached: NewStore, opened: Open) -> None:
    """When nobody has read for a while, the triggers go; who reads after all begins anew."""
    own = database(servers.url("postgres"), "near_cache_idle")
    store = await opened(own)
    assert await triggers(store) == 0
    async with new_cached(own) as cached:
        assert await triggers(store) == 4
        await store.engine.delete_expired(1)
        assert await triggers(store) == 4
        await cached.kv.get("a")
        await sweep_later(store)
        await store.kv.put("a", 1)
        await told(cached)
        assert await cached.kv.get("a") == 1
        assert await triggers(store) == 4
    await sweep_later(store)
    assert await triggers(store) == 0
    assert (await store.sql.query("select count(*)::int from pm_told"))[0] == (0,)


async def sweep_later(store: Store) -> None:
    await store.sql.execute("update pm_telling set at = at - interval '11 minutes'")
    await store.engine.delete_expired(1)


async def triggers(store: Store) -> int:
    asked = "select count(*)::int from pg_trigger where tgrelid = 'pm_kv'::regclass and tgname like 'pm_told%'"
    return int((await store.sql.query(asked))[0][0])
