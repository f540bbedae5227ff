"""Reads from replicas: which, when, and what happens where a replica cannot answer (PG-4)."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
import servers
from engines.postgres.test_failures import through
from engines.postgres.test_faults import eventually
from servers._process import cache_folder
from servers.postgres import PASSWORD, PostgresServer, remove
from servers.proxy import fault_proxy

from polymem.core.registry import create_engine
from polymem.errors import StorageConflictError, StorageDataError, StorageTimeoutError
from polymem.store import Store

pytestmark = [pytest.mark.integration, pytest.mark.server("postgres"), pytest.mark.anyio]
Pair = tuple[PostgresServer, PostgresServer]
_EVERYTHING = ("log_statement=all", "max_standby_streaming_delay=0", "wal_receiver_status_interval=1")


@pytest.fixture(name="pair", scope="module")
def give_pair() -> Iterator[Pair]:
    """A primary and a replica that logs its statements and waits for no reader."""
    folder = cache_folder() / f"pair-{uuid4().hex}"
    primary = PostgresServer(folder)
    replica = primary.replica(folder.with_name(f"{folder.name}-replica"), *_EVERYTHING)
    yield primary, replica
    for server in (replica, primary):
        server.stop()
        remove(server.data.parent)


@asynccontextmanager
async def another(primary: PostgresServer) -> AsyncIterator[PostgresServer]:
    """One more replica."""
    replica = await asyncio.to_thread(primary.replica, cache_folder() / f"another-{uuid4().hex}", *_EVERYTHING)
    try:
        yield replica
    finally:
        await asyncio.to_thread(replica.stop)
        remove(replica.data.parent)


def states(store: Store) -> list[str]:
    return [one["state"] for one in store.engine.replica_status()]


def reads(store: Store) -> int:
    """Those that replicas have answered."""
    return sum(one["reads"] for one in store.engine.replica_status())


async def caught_up(store: Store) -> None:
    """Wait until reads are answered by a replica again."""
    await eventually(lambda: store.engine._replicas.choose() is not None)


@asynccontextmanager
async def paused(replica: PostgresServer) -> AsyncIterator[None]:
    """Nothing new is shown there."""
    await asyncio.to_thread(replica.sql, "select pg_wal_replay_pause()")
    while await asyncio.to_thread(replica.sql, "select pg_get_wal_replay_pause_state()") != "paused\n":
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        await asyncio.to_thread(replica.sql, "select pg_wal_replay_resume()")


async def _records(store: Store) -> None:
    await store.kv.put("a", {"n": 1})
    await caught_up(store)
    assert await store.kv.get("a") == {"n": 1}
    assert await asyncio.gather(*(store.kv.get("a") for _ in range(20))) == [{"n": 1}] * 20
    assert (await store.kv.entry("a")).value == {"n": 1}
    assert await store.kv.get_many(["a", "b"]) == {"a": {"n": 1}}
    assert [key async for key in store.kv.scan()] == ["a"]
    assert await store.kv.count(where={"n": 1}) == 1


async def _turns(store: Store) -> None:
    await store.turns.append("s", "user", "hello")
    await caught_up(store)
    assert [turn.content for turn in await store.turns.recent("s")] == ["hello"]
    assert await store.turns.count("s") == 1


async def _vectors(store: Store) -> None:
    vectors = store.vectors("v", dimensions=2)
    await vectors.put("x", [1.0, 0.0], {"n": 1})
    await caught_up(store)
    assert [hit.id for hit in await vectors.search([1.0, 0.0])] == ["x"]
    assert (await vectors.get("x")).payload == {"n": 1}


async def _texts(store: Store) -> None:
    texts = store.text("t")
    await texts.put("x", {"body": "green apples"})
    await caught_up(store)
    assert (await texts.get("x")).fields == {"body": "green apples"}


async def _graphs(store: Store) -> None:
    graph = store.graph("g")
    await graph.create_node("a", "Person", {"name": "Ada"})
    await caught_up(store)
    assert (await graph.get_node(("Person", "a"))).properties == {"name": "Ada"}


async def _blobs(store: Store) -> None:
    blobs = store.blobs("c")
    await blobs.put("x", b"bytes")
    await caught_up(store)
    assert await blobs.get("x") == b"bytes"


WORK = {"pm_kv": _records, "active_context": _turns, "pm_vectors": _vectors, "pm_texts": _texts, "pm_nodes": _graphs,
        "pm_blob_parts": _blobs}  # fmt: skip


@pytest.mark.parametrize("table", WORK)
async def test_reads_happen_on_the_replica_and_writes_do_not(table: str, pair: Pair, opened: Any) -> None:
    primary, replica = pair
    root = await opened(primary.url, replicas=[replica.url], application_name=f"split-{table}")
    store = root.namespace(f"split-{table}")
    await caught_up(store)
    seen = len(replica.log)
    await WORK[table](store)
    await eventually(lambda: f"from {table}" in replica.log[seen:] or f"join {table}" in replica.log[seen:])
    assert "insert into" not in replica.log[seen:]
    assert [one["passed_on"] for one in root.engine.replica_status()] == [0]
    assert root.engine.pool_status()["used"] == 0
    await root.drop_namespace(f"split-{table}")


async def test_sql_and_who_answers(pair: Pair, opened: Any) -> None:
    """Queries may be answered by the replica; statements, transactions and text searches are the primary's."""
    primary, replica = pair
    store = await opened(primary.url, replicas=replica.url)
    await caught_up(store)
    assert (await store.sql.query("show port"))[0][0] == f"{replica.port}"
    assert (await store.sql.execute("show port"))[0][0] == f"{primary.port}"
    async with store.transaction() as tx:
        assert (await tx.sql.query("show port"))[0][0] == f"{primary.port}"
    await store.text("t").put("x", {"body": "green apples"})
    await caught_up(store)
    seen = len(replica.log)
    assert [hit.id for hit in await store.text("t").search("apples")] == ["x"]
    assert await store.text("t").count() == 1
    await eventually(lambda: "select count(*) from pm_texts" in replica.log[seen:])
    assert "tokens" not in replica.log[seen:]
    await store.text("t").clear()


async def _commit(store: Store) -> None:
    async with store.transaction() as tx:
        await tx.kv.put("a", "new")


async def _statement(store: Store) -> None:
    await store.sql.execute("update pm_kv set body = '\"new\"' where key = 'a'")


WRITES: list[Callable[[Store], Awaitable[Any]]] = [
    lambda store: store.kv.put("a", "new"),
    lambda store: store.kv.put_many({"a": "new"}),
    _commit,
    _statement,
]


@pytest.mark.parametrize("write", WRITES, ids=["put", "put_many", "commit", "statement"])
async def test_a_store_reads_what_it_wrote(write: Any, pair: Pair, opened: Any) -> None:
    primary, replica = pair
    store = await opened(primary.url, replicas=replica.url)
    await store.kv.put("a", "old")
    await caught_up(store)
    assert await store.kv.get("a") == "old"
    before = reads(store)
    async with paused(replica):
        await write(store)
        for _ in range(50):
            assert await store.kv.get("a") == "new"
        assert await store.kv.count() == 1
        assert reads(store) == before
        await eventually(lambda: states(store) == ["behind"])
        assert (await store.health()).details["reasons"] == [f"replica 127.0.0.1:{replica.port} is behind"]
        assert await store.kv.get("a") == "new"
    await caught_up(store)
    assert await store.kv.get("a") == "new"
    assert reads(store) == before + 1
    assert states(store) == ["ready"]
    await store.kv.clear()


async def test_a_dropped_namespace_is_gone(pair: Pair, opened: Any) -> None:
    primary, replica = pair
    store = await opened(primary.url, replicas=replica.url)
    await store.namespace("gone").kv.put("a", 1)
    await caught_up(store)
    async with paused(replica):
        await store.drop_namespace("gone")
        assert await store.namespace("gone").kv.get("a") is None


async def test_without_it_reads_may_be_as_old_as_allowed(pair: Pair, opened: Any) -> None:
    """The old value shows that it is the replica that answers; when it lags too far behind it is asked no more."""
    primary, replica = pair
    lax = await opened(primary.url, replicas=replica.url, read_your_writes=False, max_staleness=60)
    strict = await opened(primary.url, replicas=replica.url, read_your_writes=False, max_staleness=0.5)
    await lax.kv.put("a", "old")
    await caught_up(lax)
    await eventually_reads(lax, "old")
    await caught_up(strict)
    async with paused(replica):
        await lax.kv.put("a", "new")
        for _ in range(20):
            assert await lax.kv.get("a") == "old"
        await eventually_reads(strict, "new")
        await eventually(lambda: states(strict) == ["behind"])
        assert await strict.kv.get("a") == "new"
        assert await lax.kv.get("a") == "old"
    await lax.kv.clear()


async def eventually_reads(store: Store, value: str) -> None:
    async with asyncio.timeout(60):
        while await store.kv.get("a") != value:
            await asyncio.sleep(0.01)


async def test_a_refused_write_shows_why(pair: Pair, opened: Any) -> None:
    """A loop of reading and comparing goes on with what is there now, whatever the replica shows."""
    primary, replica = pair
    store = await opened(primary.url, replicas=replica.url, read_your_writes=False, max_staleness=60)
    version = await store.kv.put("a", 1)
    await caught_up(store)
    await eventually_reads(store, 1)  # type: ignore[arg-type]
    async with paused(replica):
        await store.kv.put("a", 2)
        assert (await store.kv.entry("a")).version == version
        with pytest.raises(StorageConflictError):
            await store.kv.compare_and_set("a", version, 3)
        assert (await store.kv.entry("a")).value == 2
    await store.kv.clear()


async def test_what_a_transaction_saw_is_there(pair: Pair, opened: Any) -> None:
    """Also where it was rolled back, and whatever is allowed."""
    primary, replica = pair
    store = await opened(primary.url, replicas=replica.url, read_your_writes=False, max_staleness=60)
    other = await opened(primary.url)
    await caught_up(store)
    async with paused(replica):
        await other.kv.put("a", 2)
        assert await store.kv.get("a") is None
        async with store.transaction() as tx:
            assert await tx.kv.get("a") == 2
            await tx.rollback()
        assert await store.kv.get("a") == 2
    await other.kv.clear()


async def test_what_a_watcher_was_told_is_there(pair: Pair, opened: Any) -> None:
    """EVT-1: changes of another store, which this one has not written."""
    primary, replica = pair
    store = await opened(primary.url, replicas=replica.url, read_your_writes=False, max_staleness=60)
    other = await opened(primary.url)
    async with store.kv.watch("w") as changes:
        await caught_up(store)
        async with paused(replica):
            await other.kv.put("w", 1)
            assert await store.kv.get("w") is None
            assert (await anext(changes)).key == "w"
            assert await store.kv.get("w") == 1
    await other.kv.clear()


async def test_a_killed_replica_is_not_missed(pair: Pair, opened: Any) -> None:
    """Neither by the reads under way nor by later ones; and it serves again when it is back."""
    primary, replica = pair
    store = await opened(primary.url, replicas=replica.url, connect_timeout=1.0)
    await store.kv.put("a", 1)
    await caught_up(store)
    going, told = True, list[Any]()

    async def read_on() -> None:
        while going:
            told.append(await store.kv.get("a"))
            told.append((await store.kv.entry("a")).value)
            await asyncio.sleep(0)

    readers = [asyncio.create_task(read_on()) for _ in range(8)]
    await eventually(lambda: reads(store) > 100)
    await asyncio.to_thread(replica.kill)
    await eventually(lambda: states(store) == ["away"])
    many = len(told)
    await eventually(lambda: len(told) > many + 100)
    health = await store.health()
    assert health.status == "degraded"
    assert (health.pool["replicas"], health.pool["replicas_ready"]) == (1, 0)
    await asyncio.to_thread(replica.start)
    await caught_up(store)
    many = reads(store)
    await eventually(lambda: reads(store) > many + 100)
    going = False
    await asyncio.gather(*readers)
    assert set(told) == {1}
    assert states(store) == ["ready"]
    assert store.engine.pool_status()["used"] == 0
    await store.kv.clear()


async def test_one_that_is_away_when_a_store_is_opened(pair: Pair, opened: Any) -> None:
    primary, replica = pair
    await asyncio.to_thread(replica.stop)
    store = await opened(primary.url, replicas=replica.url, connect_timeout=1.0)
    assert states(store) == ["away"]
    assert "cannot be reached" in store.engine.replica_status()[0]["error"]
    await store.kv.put("a", 1)
    assert await store.kv.get("a") == 1
    await asyncio.to_thread(replica.start)
    await caught_up(store)
    assert await store.kv.get("a") == 1
    assert reads(store) > 0
    assert store.engine.replica_status()[0]["error"] is None
    await store.kv.clear()


async def test_a_silent_replica_is_cut_off(pair: Pair, opened: Any) -> None:
    """A read that waits for it goes to the primary long before its own limit."""
    primary, replica = pair
    async with fault_proxy("127.0.0.1", replica.port) as proxy:
        store = await opened(primary.url, replicas=through(replica.url, proxy), connect_timeout=1.0, timeout=6000)
        await store.kv.put("a", 1)
        await caught_up(store)
        assert await store.kv.get("a") == 1
        proxy.black_hole = True
        async with asyncio.timeout(60):
            told = await asyncio.gather(*(store.kv.entry("a") for _ in range(20)))
        assert [entry.value for entry in told] == [1] * 20
        assert states(store) == ["away"]
        assert store.engine.replica_status()[0]["pool"]["used"] == 0
        proxy.heal()
        await caught_up(store)
    await store.kv.clear()


async def test_a_read_that_the_replica_cancels(pair: Pair, opened: Any) -> None:
    """It stood in the way of what is to be replayed: a conflict with recovery."""
    primary, replica = pair
    store = await opened(primary.url, replicas=replica.url)
    await store.sql.execute("create table contended as select 1 as n")
    await caught_up(store)
    statement = "select (select count(*) from contended), case when pg_is_in_recovery() then pg_sleep(60)::text end"
    reading = asyncio.create_task(store.sql.query(statement))
    active = "select count(*) from pg_stat_activity where query like '%contended%' and wait_event = 'PgSleep'"
    while await asyncio.to_thread(replica.sql, active) != "1\n":
        await asyncio.sleep(0.01)
    await asyncio.to_thread(primary.sql, "vacuum full contended")
    assert await reading == [(1, None)]
    assert store.engine.replica_status()[0]["passed_on"] == 1
    assert "conflict with recovery" in replica.log
    await caught_up(store)
    await store.sql.execute("drop table contended")


async def test_what_takes_too_long_is_not_begun_again(pair: Pair, opened: Any) -> None:
    primary, replica = pair
    store = await opened(primary.url, replicas=replica.url, timeout=0.2)
    await caught_up(store)
    seen = len(primary.log)
    with pytest.raises(StorageTimeoutError):
        await store.sql.query("select pg_sleep(5)")
    assert store.engine.replica_status()[0]["passed_on"] == 0
    assert "statement timeout" not in primary.log[seen:]


async def test_a_replica_without_room_passes_reads_on(pair: Pair, opened: Any) -> None:
    primary, replica = pair
    store = await opened(primary.url, replicas=replica.url, max_size=2, acquire_timeout=0.2)
    await caught_up(store)
    slow = [asyncio.create_task(store.sql.query("select pg_sleep(5)")) for _ in range(2)]
    await eventually(lambda: store.engine.replica_status()[0]["pool"]["used"] == 2)
    assert (await store.sql.query("show port"))[0][0] == f"{primary.port}"
    assert states(store) == ["ready"]
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)


async def test_cancelled_reads_leave_nothing_behind(pair: Pair, opened: Any) -> None:
    primary, replica = pair
    store = await opened(primary.url, replicas=replica.url, max_size=4)
    await store.kv.put("a", {"n": 1})
    await caught_up(store)

    async def read(number: int) -> None:
        if number % 3 == 0:
            await store.kv.get("a")
        elif number % 3 == 1:
            await store.kv.entry("a")
        else:
            await store.kv.count(where={"n": 1})

    for _ in range(10):
        tasks = [asyncio.create_task(read(number)) for number in range(20)]
        await asyncio.sleep(random.uniform(0, 0.01))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    [one] = store.engine.replica_status()
    await eventually(lambda: store.engine.replica_status()[0]["pool"]["used"] == 0)
    assert one["state"] == "ready"
    assert [replica.calls for replica in store.engine._replicas.all] == [0]
    assert store.engine.pool_status()["used"] == 0
    await caught_up(store)
    assert await asyncio.gather(*(store.kv.get("a") for _ in range(40))) == [{"n": 1}] * 40
    await store.kv.clear()


async def test_a_store_that_is_opened_again(pair: Pair, opened: Any) -> None:
    primary, replica = pair
    store = await opened(primary.url, replicas=replica.url)
    for _ in range(3):
        await caught_up(store)
        before = reads(store)
        assert await store.kv.get("again") is None
        assert reads(store) == before + 1
        assert (await store.check()).details["replicas"][0]["state"] == "ready"
        await store.close()
        assert states(store) == ["away"]
        await store.open()


async def test_two_replicas_share_the_reads(pair: Pair, opened: Any) -> None:
    primary, replica = pair
    async with another(primary) as second:
        store = await opened(primary.url, replicas=f"{replica.url},{second.url}")
        await eventually(lambda: states(store) == ["ready", "ready"])
        async with asyncio.timeout(60):
            while min(one["reads"] for one in store.engine.replica_status()) < 20:
                await store.kv.get("a")
        await asyncio.to_thread(second.kill)
        await eventually(lambda: states(store) == ["ready", "away"])
        before = reads(store)
        assert await store.kv.get("a") is None
        assert reads(store) == before + 1
        await asyncio.to_thread(second.start)


@asynccontextmanager
async def line() -> AsyncIterator[tuple[PostgresServer, PostgresServer, PostgresServer]]:
    """A primary of its own with two replicas."""
    folder = cache_folder() / f"line-{uuid4().hex}"
    primary = await asyncio.to_thread(PostgresServer, folder)
    try:
        async with another(primary) as one, another(primary) as two:
            yield primary, one, two
    finally:
        await asyncio.to_thread(primary.stop)
        remove(folder)


async def test_a_promoted_replica_is_not_read_from(opened: Any) -> None:
    """Nor is one that follows the old primary, for a store that has moved to the new one."""
    async with line() as (old, new, follower):
        store = await opened(old.url, replicas=[new.url, follower.url])
        await store.kv.put("a", 1)
        await eventually(lambda: states(store) == ["ready", "ready"])
        await asyncio.to_thread(new.sql, "select pg_promote()")
        await asyncio.to_thread(new.sql, "update pm_kv set body = '2'")
        await eventually(lambda: states(store) == ["promoted", "ready"])
        for _ in range(20):
            assert await store.kv.get("a") == 1
        moved = await opened(new.url, replicas=[follower.url])
        await eventually(lambda: states(moved) == ["diverged"])
        for _ in range(20):
            assert await moved.kv.get("a") == 2
        assert reads(moved) == 0
        await store.close()
        await moved.close()


async def test_a_replica_that_follows_the_new_primary_is_read_from(opened: Any) -> None:
    async with line() as (old, new, follower):
        store = await opened(old.url)
        await store.kv.put("a", 1)
        await store.close()
        await asyncio.to_thread(old.kill)  # a shutdown would be in its log, which the follower would have
        await asyncio.to_thread(new.sql, "select pg_promote()")
        moved = await opened(new.url, replicas=[follower.url])
        await eventually(lambda: states(moved) == ["diverged"])
        source = f"host=127.0.0.1 port={new.port} user=postgres password={PASSWORD}"
        await asyncio.to_thread(follower.sql, f"alter system set primary_conninfo = '{source}'")
        await asyncio.to_thread(follower.sql, "select pg_reload_conf()")
        await moved.kv.put("a", 2)
        await caught_up(moved)
        assert await moved.kv.get("a") == 2
        assert (reads(moved), states(moved)) == (1, ["ready"])
        await moved.close()


async def test_reads_go_on_while_the_primary_is_away(opened: Any) -> None:
    async with line() as (primary, replica, _):
        store = await opened(primary.url, replicas=replica.url, max_staleness=600, connect_timeout=1.0)
        await store.kv.put("a", 1)
        await caught_up(store)
        await asyncio.to_thread(primary.kill)
        for _ in range(20):
            assert await store.kv.get("a") == 1
        await asyncio.to_thread(primary.start)
        await store.kv.put("a", 2)
        assert await store.kv.get("a") == 2
        await caught_up(store)
        await store.close()


@pytest.mark.parametrize("kind", ["database", "cluster"])
async def test_another_database_is_refused(kind: str, pair: Pair, opened: Any) -> None:
    primary, replica = pair
    if kind == "cluster":
        if servers.absence("postgres18"):
            pytest.skip("needs a server that was made apart")
        wrong = servers.url("postgres18")
    else:
        wrong = f"{replica.url.rpartition('/')[0]}/template1"
    with pytest.raises(StorageDataError, match="is no replica of this database") as caught:
        await opened(primary.url, replicas=wrong)
    assert caught.value.field == "replicas"
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "field"),
    [({"replicas": "mysql://h/d"}, "replicas"), ({"replicas": ["postgresql://h/d?max_size=3"]}, "replicas"),
     ({"replicas": [3]}, "replicas"), ({"replicas": "h1,h2"}, "replicas"), ({"max_staleness": 0}, "max_staleness"),
     ({"max_staleness": "x"}, "max_staleness")],
)  # fmt: skip
async def test_bad_options_are_named(options: dict[str, Any], field: str) -> None:
    """G-2."""
    with pytest.raises(StorageDataError) as caught:
        create_engine("postgresql://u:hidden@h/d", **options)
    assert caught.value.field == field


async def test_a_list_of_urls_of_several_hosts() -> None:
    url = "postgresql://u:p@h/d?replicas=postgresql://u:p@a:1,b:2/d,%20postgres://c/d%3Fsslmode%3Drequire&read_your_writes=no"
    engine: Any = create_engine(url)
    assert engine._settings.replicas == ("postgresql://u:p@a:1,b:2/d", "postgres://c/d?sslmode=require")
    assert engine._settings.read_your_writes is False
    assert [one["replica"] for one in engine.replica_status()] == ["a:1,b:2", "c"]
