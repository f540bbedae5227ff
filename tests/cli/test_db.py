"""`polymem db` (CLI-1, PG-1)."""

import asyncio
import os
from typing import Any

import asyncpg
import pytest
import servers
from servers.postgres import database, run_sql

import polymem
from polymem import PostgresAdapter
from polymem.errors import StorageDataError

from .conftest import Run

ROLE = f'app "{os.getpid()}"'
FORBIDDEN = [
    "create table stolen(id int)",
    "drop table pm_kv",
    "truncate pm_kv",
    "alter table pm_texts add more text",
    "create index on pm_vectors(id)",
    "update pm_changes set at = 0",
    "insert into pm_gate default values",
    "create schema mine",
]


@pytest.fixture(name="url", scope="module")
def give_url() -> str:
    return database(servers.url("postgres"), "polymem_grants")


@pytest.fixture(name="limited")
def give_limited(url: str) -> Any:
    """The URL as a role that has no privileges yet."""
    quoted = '"' + ROLE.replace('"', '""') + '"'
    run_sql(url, f"create role {quoted} login password 'secret'; revoke all on schema public from public")
    yield url.replace("postgres:secret@", f"{ROLE.replace(' ', '%20').replace(chr(34), '%22')}:secret@")
    run_sql(url, f"drop owned by {quoted}; drop role {quoted}")


@pytest.mark.integration
@pytest.mark.server("postgres")
def test_the_grants_are_all_that_a_store_needs(run: Run, url: str, limited: str) -> None:
    statements = run("--url", url, "db", "grants", "--role", ROLE, "--json").json
    assert run("--url", url, "db", "grants", "--role", ROLE).out == "".join(f"{line};\n" for line in statements)
    run_sql(url, "; ".join(statements))
    asyncio.run(use(limited))
    asyncio.run(refused(limited))


async def use(url: str) -> None:
    """Everything that a store does with tables that are there."""
    async with polymem.open(url, vector_index="exact") as root:
        store = root.namespace("tenant")
        await store.kv.put_many({"a": {"n": 1}, "b": {"n": 2}})
        await store.kv.put("c", 1, ttl=-1)
        await store.kv.increment("d")
        entry = await store.kv.entry("a")
        assert entry is not None
        await store.kv.compare_and_set("a", entry.version, {"n": 3})
        assert [item.key async for item in store.kv.query({"n": {"gt": 1}}, order_by=[("n", "asc")])] == ["b", "a"]
        async with store.transaction() as tx:
            await tx.kv.delete("a")
        await store.turns.append("s", "user", "said", ttl=60)
        await store.turns.clear("s")
        vectors, text, graph = store.vectors("v", dimensions=2), store.text("t"), store.graph()
        for _ in range(2):
            await vectors.put("a", [1, 0], {"kind": "x"})
            await text.put("a", "river", {"kind": "x"})
        assert [hit.id for hit in await vectors.search([1, 0], where={"kind": "x"})] == ["a"]
        assert [hit.id for hit in await text.search("river", where={"kind": "x"})] == ["a"]
        await vectors.clear()
        await text.delete("a")
        await graph.create_node("1", "Person", {})
        await graph.create_node("2", "Person", {})
        await graph.create_edge(("Person", "1"), ("Person", "2"), "KNOWS")
        await store.blobs().put("b", b"bytes")
        await store.blobs().delete("b")
        await root.delete_expired()
        await root.drop_namespace("tenant")
        assert (await root.check()).ok
    async with PostgresAdapter(url) as adapter:
        id = await adapter.add_fact("s", "entity", "known")
        await adapter.update_fact(id, confidence=0.5)
        await adapter.add_turn("s", "said")
        assert await adapter.clear_session("s") == 2
        await adapter.delete_expired()


async def refused(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in FORBIDDEN:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()


def test_only_postgresql_has_roles(run: Run) -> None:
    assert "PostgreSQL" in run("--url", "sqlite:///agent.db", "db", "grants", "--role", "app", code=1).err


@pytest.mark.integration
@pytest.mark.server("postgres")
@pytest.mark.parametrize("role", ["", "x\x00y"])
def test_a_role_that_cannot_be(role: str, url: str) -> None:
    from polymem.engines.postgres.grants import grants

    async def ask() -> None:
        async with polymem.open(url) as store:
            with pytest.raises(StorageDataError) as caught:
                await grants(store.sql, role)
            assert caught.value.field == "role"

    asyncio.run(ask())
