"""The near cache over PostgreSQL does what it does over every server, and notes every write (CCH-2)."""

import asyncio
import itertools
import random
from time import monotonic
from typing import Any

import pytest
import servers
from engines import near_cache as scenes
from engines.near_cache import SCENES, NewStore, hits
from engines.postgres.near_cache.told import Open, end_connection, told
from servers.postgres import database, run_sql

from polymem.engines.postgres import _telling
from polymem.store import Store

pytestmark = [pytest.mark.anyio, pytest.mark.integration, pytest.mark.server("postgres")]


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
async def test_what_every_server_tells(cached: Store, store: Store, scene: Any) -> None:
    await scene(cached, store, told)


async def test_another_process(cached: Store, url: str) -> None:
    await scenes.another_process(cached, told, url)


async def test_own_writes(cached: Store) -> None:
    await scenes.own_writes(cached)


async def test_sealed_values_under_plain_keys(new_cached: NewStore, store: Store) -> None:
    await scenes.sealed_values_under_plain_keys(new_cached, told)


async def test_what_is_not_possible(new_cached: NewStore) -> None:
    await scenes.what_is_not_possible(new_cached)


async def test_other_programs(cached: Store, url: str) -> None:
    """What plain SQL removes is told as well, also when the table is emptied."""
    for statement in ("delete from pm_kv", "truncate pm_kv"):
        await cached.kv.put("a", 1)
        await told(cached)
        assert await cached.kv.get("a") == 1
        await asyncio.to_thread(run_sql, url, statement)
        await told(cached)
        assert await cached.kv.get("a") is None


async def test_a_transaction_that_commits_late(cached: Store, store: Store, opened: Open) -> None:
    """It began, and wrote, before others that were told long ago."""
    other = await opened()
    async with store.transaction(isolation="read_committed") as tx:
        await tx.kv.put("late", 1)
        await other.kv.put("early", 1)
        await told(cached)
        assert [await cached.kv.get("late"), await cached.kv.get("early")] == [None, 1]
        assert await hits(cached, lambda: cached.kv.get("late")) == 1
    await told(cached)
    assert await cached.kv.get("late") == 1


async def test_transactions_that_began_before_anybody_cached(new_cached: NewStore, opened: Open) -> None:
    """Whoever has written is waited for; whoever writes afterwards is noted, however old a state it sees."""
    own = database(servers.url("postgres"), "near_cache_begins")
    wrote, looked = await opened(own), await opened(own)
    async with looked.transaction(isolation="serializable") as seeing:
        await seeing.kv.get("seen")
        async with wrote.transaction() as tx:
            await tx.kv.put("wrote", 1)
            opening = asyncio.ensure_future(new_cached(own).__aenter__())
            await waiting(own)
        cached = await opening
        assert await cached.kv.get("wrote") == 1
        assert await cached.kv.get("seen") is None
        await seeing.kv.put("seen", 1)
    await told(cached)
    assert await cached.kv.get("seen") == 1
    await cached.close()


async def test_many_begin_at_once(new_cached: NewStore, opened: Open) -> None:
    """While others write: every one is told of everything."""
    own = database(servers.url("postgres"), "near_cache_many")
    writer, going = await opened(own), True
    steps = itertools.count(1)

    async def write() -> int:
        while going:
            await writer.kv.put("a", step := next(steps))
        return step

    writing = asyncio.create_task(write())
    many: list[Store] = [new_cached(own) for _ in range(8)]
    await asyncio.gather(*(store.open() for store in many))
    await asyncio.gather(*(store.kv.get("a") for store in many))
    going = False
    last = await writing
    for store in many:
        await told(store)
        assert await store.kv.get("a") == last
        await store.close()


async def waiting(url: str) -> None:
    """Until somebody waits for a lock on the records."""
    asked = "select count(*) from pg_locks where relation = 'pm_kv'::regclass and not granted"
    async with asyncio.timeout(scenes.PATIENCE):
        while await asyncio.to_thread(run_sql, url, asked) == "0\n":
            await asyncio.sleep(0.01)


async def test_statements_that_write_too_much_to_name(cached: Store, store: Store) -> None:
    """Then all of their namespaces goes, and nothing else."""
    many = {f"{number}": 1 for number in range(1500)}
    await store.namespace("n").kv.put_many(many | {"a": 1})
    await store.kv.put("a", 1)
    await told(cached)
    for space in (cached, cached.namespace("n")):
        await space.kv.get("a")
    await store.namespace("n").kv.put_many(many | {"a": 2})
    await told(cached)
    assert await hits(cached, lambda: cached.kv.get("a")) == 1
    assert await cached.namespace("n").kv.get("a") == 2


async def test_more_notes_than_are_told_one_by_one(
    cached: Store, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_telling, "_MOST", 3)
    monkeypatch.setattr(_telling, "_LOOK", _telling._LOOK.replace("limit 10000", "limit 3"))
    await cached.kv.get_many([f"{number}" for number in range(9)])
    for number in range(9):
        await cached.kv.get(f"{number}")
    async with store.transaction() as tx:
        for number in range(9):
            await tx.kv.put(f"{number}", 1)
    await told(cached)
    assert [await cached.kv.get(f"{number}") for number in range(9)] == [1] * 9


async def test_an_expiry_needs_nobody_to_tell(cached: Store, store: Store, url: str) -> None:
    await store.kv.put("a", 1, ttl=0.2)
    await told(cached)
    while await cached.kv.get("a") is not None:
        await asyncio.sleep(0.01)
    assert await store.kv.get("a") is None


async def test_bulk(cached: Store, store: Store) -> None:
    await cached.kv.get("k7")
    assert await hits(cached, lambda: cached.kv.get("k7")) == 1
    await store.kv.bulk_load([(f"k{number}", number) for number in range(3000)])
    await told(cached)
    assert await cached.kv.get("k7") == 7


async def test_never_staler_than_agreed(new_cached: NewStore, store: Store, url: str) -> None:
    """Whatever writes, commits late or cuts connections: what was acknowledged so long ago is seen."""
    within, chance = 0.3, random.Random(5)
    acknowledged = {f"k{number}": [(monotonic(), 0)] for number in range(5)}
    locks = {key: asyncio.Lock() for key in acknowledged}
    going = True

    async def write(by: Store) -> None:
        while going:
            key = chance.choice([*acknowledged])
            async with locks[key]:
                value = acknowledged[key][-1][1] + 1
                if chance.random() < 0.5:
                    await by.kv.put(key, value)
                else:
                    await slowly(by, key, value)
                acknowledged[key].append((monotonic(), value))

    async def slowly(by: Store, key: str, value: int) -> None:
        async with by.transaction(isolation="read_committed") as tx:
            await tx.kv.put(key, value)
            await asyncio.sleep(chance.random() * 0.05)

    async def read(cached: Store) -> None:
        key, now = chance.choice([*acknowledged]), monotonic()
        found: Any = await cached.kv.get(key)
        assert found >= max(value for at, value in acknowledged[key] if at < now - within)

    await store.kv.put_many(dict.fromkeys(acknowledged, 0))
    await asyncio.sleep(within)
    async with new_cached(max_staleness=within) as cached:
        writers = [asyncio.create_task(write(by)) for by in (store, store, store, cached)]
        for step in range(2000):
            await read(cached)
            if step % 500 == 250:
                await end_connection(cached, url)
            if step % 5 == 0:
                await asyncio.sleep(0.001)
        going = False
        await asyncio.gather(*writers)
        assert cached.cache.statistics().hits > 100
        await told(cached)
        for key, writes in acknowledged.items():
            assert await cached.kv.get(key) == writes[-1][1]
