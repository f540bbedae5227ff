"""QRY-6: which index SQLite reads, and what is in the tables that are its indexes."""

from pathlib import Path
from typing import Any

import apsw
import pytest
from conftest import NewStore

from polymem.contracts.filter import F, Filter, matches, parse
from polymem.contracts.query import IndexInfo
from polymem.core.clock import ManualClock
from polymem.engines.sqlite._query_places import Source
from polymem.engines.sqlite._query_sql import Scope, matching
from polymem.store import Store
from polymem.testing.clauses.query_input import hidden_values
from polymem.testing.clauses.query_paths import HOSTILE

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("where", "order"),
    [
        (F("age") == 18, []),
        (F("age") == 18, [("age", "asc")]),
        (F("age").in_([18, 20]), []),
        ((F("age") >= 90) & (F("age") < 91), []),
        (F("age").between(97, 98) & (F("n") > 1), [("n", "desc")]),
        (None, [("age", "asc")]),
        (F("n") > 5, [("age", "desc")]),
        (F("name").starts_with("n1"), []),
        ((F("name") == "n7") & (F("age") > 5), [("age", "asc")]),
        (~F("age").between(1, 99), []),
        (F("age") == None, []),  # noqa: E711 - a filter, not a test
        (F("age") == True, []),  # noqa: E712 - a filter, not a test
        (F("age").exists(False), [("name", "asc")]),
        (F("name").regex("^n1.$"), [("age", "desc"), ("name", "asc")]),
    ],
)
async def test_explain_names_the_index(store: Store, where: Any, order: Any) -> None:
    """QRY-6: and the plan is SQLite's own."""
    kv = store.kv
    await kv.put_many({f"{n}": {"age": n % 100, "n": n, "name": f"n{n % 20}"} for n in range(500)})
    before = await kv.explain(where, order_by=order)
    assert before.indexes == ()
    wanted = [e.key async for e in kv.query(where, order_by=order)]
    names = {await kv.create_index("age"), await kv.create_index("name", "age")}
    after = await kv.explain(where, order_by=order)
    assert after.indexes
    assert set(after.indexes) <= names
    assert any(after.indexes[0] in step for step in after.plan)
    assert [e.key async for e in kv.query(where, order_by=order)] == wanted


@pytest.mark.parametrize("key", HOSTILE, ids=ascii)
async def test_explain_names_an_index_on_any_key(store: Store, key: str) -> None:
    """G-4, QRY-6."""
    await store.kv.put_many({"a": {key: 1}, "b": {key: "x"}})
    name = await store.kv.create_index([key])
    assert (await store.kv.explain(F([key]) == 1)).indexes == (name,)
    assert (await store.kv.explain(order_by=[([key], "asc")])).indexes == (name,)


async def test_an_index_made_in_a_transaction_serves_it(store: Store) -> None:
    async with store.transaction() as tx:
        await tx.kv.put("k", {"a": 1})
        name = await tx.kv.create_index("a")
        assert (await tx.kv.explain(F("a") == 1)).indexes == (name,)


INDEX = IndexInfo("pm_query_x", (("a",), ("b", "c")))


@pytest.mark.parametrize(
    ("where", "alone"),
    [
        (F("a") == 1, True),
        (F("a") == 2.0**70, True),
        ((F("a") != 1) & ~F("b.c").exists() & (F("a").starts_with("x") | F("b.c").in_([1, "x", None, True])), True),
        (F("a").regex("x") & F("a").between(1, 2), True),
        ((F("a") == 1) & (F("c") == 1), False),
        (F("a") == [1], False),
        (F("a").contains("x"), False),
    ],
)
def test_a_count_reads_documents_only_where_it_must(where: Filter, alone: bool) -> None:
    """Looking each entry of an index up in the table costs far more than the entry."""
    sql, _ = matching(Scope("", 0), "count(*)", "k", where, Source(INDEX))
    assert ("pm_kv" not in sql) is alone


async def test_the_index_that_leaves_fewest_is_used(store: Store) -> None:
    """And an order is read off its index where the filter leaves many."""
    kv = store.kv
    await kv.put_many({f"{n:04}": {"half": n % 2, "rare": n % 50, "n": n} for n in range(5000)})
    half, rare, number = [await kv.create_index(field) for field in ("half", "rare", "n")]
    newest = [("n", "desc")]
    for where, order, index in (
        ((F("half") == 1) & (F("n") < 9), [], number),
        ((F("half") == 1) & (F("rare") == 7), [], rare),
        ((F("half") == 1) & (F("n") >= 0), [("rare", "asc")], rare),
        (F("half") == 1, newest, number),
        (F("rare") == 7, newest, rare),
        ((F("half") == 1) & (F("rare").in_([7, 9])), newest, rare),
        (F("half") == 1, [("n", "asc"), ("x", "asc")], half),
    ):
        assert (await kv.explain(where, order_by=order)).indexes == (index,), where
        found = [entry.value async for entry in kv.query(where, order_by=order)]
        assert await kv.count(where=where) == len(found)
        assert all(matches(where, document) for document in found)
        if order == newest:
            assert found == sorted(found, key=lambda document: -document["n"])


async def test_a_dense_filter_is_read_in_key_order(store: Store) -> None:
    """A first page need not sort half of the namespace."""
    await store.kv.put_many({f"{n:04}": {"age": n % 100} for n in range(5000)})
    name = await store.kv.create_index("age")
    assert (await store.kv.explain(F("age") < 2)).indexes == (name,)
    assert (await store.kv.explain(F("age") >= 2)).indexes == ()
    for where in (F("age") < 2, F("age") >= 2):
        found, _ = await store.kv.find_many(where, limit=3)
        fitting = [f"{n:04}" for n in range(200) if matches(parse(where), {"age": n % 100})]
        assert [e.key for e in found] == fitting[:3]


def rows(path: Path, statement: str) -> list[tuple[Any, ...]]:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


def schema(path: Path) -> list[str]:
    """What belongs to an index: its table first."""
    names = "select name from sqlite_schema where name like 'pm_query%' order by type = 'table' desc"
    return [name for (name,) in rows(path, names)]


def entries(path: Path) -> list[tuple[Any, ...]]:
    """The whole table of the one index."""
    return rows(path, f'select * from "{schema(path)[0]}"')


async def test_the_table_holds_just_the_documents_there_are(
    new_store: NewStore, path: Path, clock: ManualClock
) -> None:
    """Nothing of what was overwritten by no document, expired and was swept, deleted or cleared."""
    async with new_store() as store:
        await store.kv.create_index("a")
        await store.kv.put_many({key: {"a": 1} for key in ("hidden", "number", "deleted")})
        await store.kv.put("swept", {"a": 1}, ttl=5)
        await hidden_values(store.kv, clock).put("hidden", b"{")
        await store.kv.put("number", 1)
        await store.kv.delete_many(["number", "deleted"])
        clock.advance(5)
        await store.delete_expired()
    assert entries(path) == []
    async with new_store() as store:
        await store.kv.put_many({"k": {"a": 1}, "l": {"a": []}})
        await store.namespace("n").kv.put("k", {"a": 1})
        await store.kv.clear()
    assert [row[:4] for row in entries(path)] == [("n/", 0, 1, "k")]


async def test_indexes_of_old_files_are_rebuilt(new_store: NewStore, path: Path) -> None:
    """They were indexes of SQLite on expressions."""
    documents = {f"{n}": {"a": n % 7} for n in range(50)}
    async with new_store() as store:
        await store.kv.put_many(documents)
        name = await store.kv.create_index("a")
    connection = apsw.Connection(str(path))
    for event in ("insert", "update", "delete"):
        connection.execute(f'drop trigger "{name}_{event}"')
    connection.execute(f'drop table "{name}"')
    connection.execute(f'create index "{name}" on pm_kv(namespace, json_extract(value, \'$."a"\'), key)')
    connection.close()
    for _ in range(2):
        async with new_store() as store:
            assert (await store.kv.explain(F("a") == 3)).indexes == (name,)
            assert await store.kv.count(where=F("a") == 3) == 7
            assert [index.name for index in await store.kv.list_indexes()] == [name]
    assert len(entries(path)) == len(documents)


async def test_the_table_goes_with_the_last_namespace_that_has_the_index(new_store: NewStore, path: Path) -> None:
    """Namespaces share the table of an index on the same paths, over a reopening too."""
    async with new_store() as store:
        names = {await store.namespace(*names).kv.create_index("x.y") for names in (("a",), ("a", "b"), ("a%", "a0"))}
    assert names == {schema(path)[0]}
    async with new_store() as store:
        await store.namespace("a").kv.put("k", {"x": {"y": 1}})
        assert await store.namespace("a").kv.drop_index(*names)
        await store.drop_namespace("a")
        other = store.namespace("a%", "a0").kv
        assert (await other.explain(F("x.y") == 1)).indexes == tuple(names)
        await store.drop_namespace("a%")
        assert (await other.explain(F("x.y") == 1)).indexes == ()
    assert schema(path) == []


async def test_what_is_rolled_back_leaves_no_table(new_store: NewStore, path: Path) -> None:
    async with new_store() as store, store.transaction() as tx:
        await tx.kv.create_index("a")
        await tx.rollback()
    assert schema(path) == []
