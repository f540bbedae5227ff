"""Reads from replicas: which of them, and when they show enough (PG-4)."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from engines.postgres.faults import eventually
from engines.postgres.replicas import Pair, caught_up, eventually_reads, paused, reads, states

from polymem.errors import StorageConflictError
from polymem.store import Store

pytestmark = [pytest.mark.integration, pytest.mark.server("postgres"), pytest.mark.anyio]


async def _records(store: Any) -> None:
    await store.kv.put("a", {"n": 1})
    await caught_up(store)
    assert await store.kv.get("a") == {"n": 1}
    assert await asyncio.gather(*(store.kv.get("a") for _ in range(20))) == [{"n": 1}] * 20
    assert (await store.kv.entry("a")).value == {"n": 1}
    assert await store.kv.get_many(["a", "b"]) == {"a": {"n": 1}}
    assert [key async for key in store.kv.scan()] == ["a"]
    assert await store.kv.count(where={"n": 1}) == 1


async def _turns(store: Any) -> None:
    await store.turns.append("s", "user", "hello")
    await caught_up(store)
    assert [turn.content for turn in await store.turns.recent("s")] == ["hello"]
    assert await store.turns.count("s") == 1


async def _vectors(store: Any) -> None:
    vectors = store.vectors("v", dimensions=2)
    await vectors.put("x", [1.0, 0.0], {"n": 1})
    await caught_up(store)
    assert [hit.id for hit in await vectors.search([1.0, 0.0])] == ["x"]
    assert (await vectors.get("x")).payload == {"n": 1}


async def _texts(store: Any) -> None:
    texts = store.text("t")
    await texts.put("x", {"body": "green apples"})
    await caught_up(store)
    assert (await texts.get("x")).fields == {"body": "green apples"}


async def _graphs(store: Any) -> None:
    graph = store.graph("g")
    await graph.create_node("a", "Person", {"name": "Ada"})
    await caught_up(store)
    assert (await graph.get_node(("Person", "a"))).properties == {"name": "Ada"}


async def _blobs(store: Any) -> None:
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


async def test_a_refused_write_shows_why(pair: Pair, opened: Any) -> None:
    """A loop of reading and comparing goes on with what is there now, whatever the replica shows."""
    primary, replica = pair
    store = await opened(primary.url, replicas=replica.url, read_your_writes=False, max_staleness=60)
    version = await store.kv.put("a", 1)
    await caught_up(store)
    await eventually_reads(store, 1)
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
