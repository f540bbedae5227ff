"""The near cache over PostgreSQL: what others write is noted by triggers and read in time, or not served (CCH-2)."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Iterator
from time import monotonic
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest
import servers
from engines import near_cache as scenes
from engines.near_cache import NewStore, hits, listening, until
from engines.postgres.faults import connections, running, through
from engines.postgres.replicas import Pair, caught_up, paused
from servers._process import cache_folder
from servers.postgres import PgBouncer, PostgresServer, database, remove, run_sql
from servers.proxy import FaultProxy

from polymem.core.breaker import Breaker
from polymem.core.registry import create_engine
from polymem.engines.postgres import _telling
from polymem.engines.postgres.grants import grants
from polymem.errors import StorageUnsupportedError
from polymem.layers.cache import CachedEngine, CachePolicy
from polymem.opened import Session
from polymem.store import Store

pytestmark = [pytest.mark.anyio, pytest.mark.integration, pytest.mark.server("postgres")]
Open = Callable[..., Any]


@pytest.fixture(name="url", scope="module")
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


async def told(store: Store) -> None:
    """Return when the store has been told of everything that is acknowledged by now."""
    now, notes = monotonic(), listening(store)
    notes._every = 0.01  # don't be long about it
    await until(lambda: notes._proven >= now)


SCENES = (
    scenes.reads_are_hits_until_somebody_writes,
    scenes.namespaces_that_are_dropped,
    scenes.the_expiry_that_another_client_sets,
    scenes.only_what_was_written_goes,
    scenes.never_staler_than_told,
)


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


# what is noted


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


# what may fail


async def end_connection(store: Store, url: str) -> None:
    pid = listening(store)._link.raw.get_server_pid()
    await asyncio.to_thread(run_sql, url, f"select pg_terminate_backend({pid})")


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


def known(store: Store, key: str) -> Any:
    """What a hit would give; None: the server is asked."""
    return store.engine._near.look(("", key))  # type: ignore[attr-defined]


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


# around the server


async def test_behind_a_pooler(new_cached: NewStore, url: str, store: Store, own_bouncer: PgBouncer) -> None:
    """Looking needs no session of its own, so no `direct_url` either."""
    async with new_cached(through(url, own_bouncer)) as cached:
        for scene in SCENES[:2]:
            await scene(cached, store, told)


@pytest.fixture(name="own_bouncer")
def give_bouncer(url: str) -> Iterator[PgBouncer]:
    folder = cache_folder() / f"bouncer-{uuid4().hex}"
    pooler = PgBouncer(folder, int(urlsplit(url).port or 0), pool_size=2)
    yield pooler
    pooler.stop()
    remove(folder)


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


# who may


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
