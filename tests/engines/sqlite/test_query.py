"""QRY-5, QRY-6: SQLite gives exactly the answers of the memory engine, with and without indexes."""

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from drawn.queries import INDEXES, agreements, exactly, pages

from polymem.contracts.filter import F, Filter, matches, parse
from polymem.contracts.kv import KeyValue
from polymem.contracts.query import IndexInfo
from polymem.core.clock import ManualClock
from polymem.engines.memory.engine import MemoryEngine
from polymem.engines.sqlite._query_places import Source
from polymem.engines.sqlite._query_sql import Scope, matching
from polymem.engines.sqlite.engine import SqliteEngine
from polymem.errors import StorageCorruptError, StorageError
from polymem.opened import Session
from polymem.store import Store
from polymem.testing.clauses.query_paths import HOSTILE

NIGHTLY = os.environ.get("POLYMEM_NIGHTLY") == "1"
EXAMPLES = 100_000 if NIGHTLY else 2_000
Run = Callable[[Coroutine[Any, Any, Any]], Any]


class Hidden:
    """What a layer might write: no JSON, and no text either."""

    tag = "hidden"

    def encode(self, value: bytes) -> bytes:
        return value

    def decode(self, body: bytes) -> bytes:
        return body


async def opened(engine: Any) -> Store:
    return await Store(Session(engine, sweep_every=None))


class Pair:
    """The same records in memory and in SQLite files with different indexes, among records nobody may see."""

    def __init__(self, folder: Path) -> None:
        self.runner = asyncio.Runner()
        self.folder, self.clock = folder, ManualClock()
        self.memory, *self.files = self.runner.run(self._open())

    async def _open(self) -> list[Store]:
        stores = [await opened(MemoryEngine(self.clock))]
        for number, indexes in enumerate(INDEXES):
            engine = SqliteEngine(self.folder / f"{number}.db", durability="normal", clock=self.clock)
            store = await opened(engine)
            for paths in indexes:
                await store.kv.create_index(*paths)
            stores.append(store)
        for store in stores:
            await store.namespace("other").kv.put_many({"a": {"a": 1}, "b": {"a": "x"}})
        return stores

    def close(self) -> None:
        for store in (self.memory, *self.files):
            self.runner.run(store.close())
        self.runner.close()

    def agree(self, which: int, documents: list[Any], ask: Callable[[KeyValue[Any]], Coroutine[Any, Any, Any]]) -> Any:
        """Put the documents in memory and in one of the files, and ask both."""
        return self.runner.run(self._agree((self.memory, self.files[which]), documents, ask))

    async def _agree(self, stores: tuple[Store, Store], documents: list[Any], ask: Any) -> Any:
        records = {f"{'kl'[number % 2]}{number:02}": document for number, document in enumerate(documents)}
        answers = []
        for store in stores:
            await store.kv.clear()
            if records:
                await store.kv.put_many(records)
            await store.kv.put("gone", documents[0] if documents else 1, ttl=-1)
            hidden: KeyValue[bytes] = KeyValue(store._driver("kv"), self.clock, Hidden())
            await hidden.put_many({"h1": b"\xff{", "k0": b"no json", "l0": b"{", "z": b""})
            answers.append(await ask(store.kv))
        assert exactly(answers[0]) == exactly(answers[1])
        return answers[0]


@pytest.fixture(name="pair", scope="module")
def open_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    pair = Pair(tmp_path_factory.mktemp("query"))
    yield pair
    pair.close()


test_finding, test_aggregates, test_selecting = agreements(EXAMPLES)


@pytest.fixture(name="run")
def make_run() -> Iterator[Run]:
    with asyncio.Runner() as runner:
        yield runner.run


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
def test_explain_names_the_index(path: Path, run: Run, where: Any, order: Any) -> None:
    """QRY-6: and the plan is SQLite's own."""

    async def work() -> None:
        async with await opened(SqliteEngine(path)) as store:
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

    run(work())


@pytest.mark.parametrize("key", HOSTILE, ids=ascii)
def test_explain_names_an_index_on_any_key(path: Path, run: Run, key: str) -> None:
    """G-4, QRY-6."""

    async def work() -> None:
        async with await opened(SqliteEngine(path)) as store:
            await store.kv.put_many({"a": {key: 1}, "b": {key: "x"}})
            name = await store.kv.create_index([key])
            assert (await store.kv.explain(F([key]) == 1)).indexes == (name,)
            assert (await store.kv.explain(order_by=[([key], "asc")])).indexes == (name,)

    run(work())


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


def test_an_index_rounds_integers_beyond_64_bits(pair: Pair) -> None:
    """As floats do, which SQLite's own conversion misses by a unit now and then."""
    candidates = ((2**53 + 1) * 2**40 + low for low in range(1, 200_000))
    database = apsw.Connection(":memory:")
    wrong = [n for n in candidates if database.execute("select json_extract(?, '$')", (str(n),)).get != float(n)][:5]
    documents = [document for n in wrong for document in ({"a": n}, {"a": float(n)}, {"a": [n]})]

    async def ask(kv: KeyValue[Any]) -> Any:
        found = [[e.key async for e in kv.query(F("a") == float(n))] for n in wrong]
        return [*found, await pages(kv, 2, order_by=[("a", "desc")])]

    assert pair.agree(1, documents, ask)


def test_an_index_follows_every_write(path: Path, run: Run) -> None:
    """QRY-6: overwritten by what is no document and back, expired, touched, removed, in every way."""

    async def work() -> None:
        clock = ManualClock()
        async with await opened(SqliteEngine(path, clock=clock)) as store:
            kv = store.kv
            hidden: KeyValue[bytes] = KeyValue(store._driver("kv"), clock, Hidden())
            await kv.put("before", {"a": 1})
            await kv.create_index("a")

            async def keys(where: Filter) -> list[str]:
                found = [entry.key async for entry in kv.query(where, order_by=[("a", "asc")])]
                assert await kv.count(where=where) == len(found)
                return found

            await kv.put("k", {"a": 1}, ttl=5)
            assert await keys(F("a") == 1) == ["before", "k"]
            await hidden.put("k", b"{")
            await hidden.put("h", b"\xff")
            assert await keys(F("a") == 1) == ["before"]
            await kv.update("before", {"a": 2})
            await kv.put("k", {"a": 1}, ttl=5)
            assert await keys(F("a").exists()) == ["k", "before"]
            await kv.touch("before", ttl=1)
            clock.advance(1)
            assert await keys(F("a").exists()) == ["k"]
            await kv.put("before", 1)
            assert await kv.increment("before") == 2
            assert await keys(F("a").exists(False)) == ["before"]
            clock.advance(5)
            assert await store.delete_expired() == 1
            await kv.delete("before")
            await hidden.delete("h")
        assert entries(path) == []
        async with await opened(SqliteEngine(path, clock=clock)) as store:
            await store.kv.put_many({"k": {"a": 1}, "l": {"a": []}})
            await store.namespace("n").kv.put("k", {"a": 1})
            await store.kv.clear()
        assert [row[:4] for row in entries(path)] == [("n/", 0, 1, "k")]

    run(work())


def entries(path: Path) -> list[tuple[Any, ...]]:
    """The whole table of the one index."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        name = connection.execute("select name from sqlite_schema where type = 'table' and name like 'pm_query%'").get
        return connection.execute(f'select * from "{name}"').fetchall()
    finally:
        connection.close()


def test_indexes_of_old_files_are_rebuilt(path: Path, run: Run) -> None:
    """They were indexes of SQLite on expressions."""
    documents = {f"{n}": {"a": n % 7} for n in range(50)}

    async def write() -> str:
        async with await opened(SqliteEngine(path)) as store:
            await store.kv.put_many(documents)
            return await store.kv.create_index("a")

    name = run(write())
    connection = apsw.Connection(str(path))
    for event in ("insert", "update", "delete"):
        connection.execute(f'drop trigger "{name}_{event}"')
    connection.execute(f'drop table "{name}"')
    connection.execute(f'create index "{name}" on pm_kv(namespace, json_extract(value, \'$."a"\'), key)')
    connection.close()

    async def read() -> None:
        for _ in range(2):
            async with await opened(SqliteEngine(path)) as store:
                assert (await store.kv.explain(F("a") == 3)).indexes == (name,)
                assert await store.kv.count(where=F("a") == 3) == 7
                assert [index.name for index in await store.kv.list_indexes()] == [name]

    run(read())
    assert len(entries(path)) == len(documents)


def test_the_index_that_leaves_fewest_is_used(path: Path, run: Run) -> None:
    """And an order is read off its index where the filter leaves many."""

    async def work() -> None:
        async with await opened(SqliteEngine(path)) as store:
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

    run(work())


def test_a_dense_filter_is_read_in_key_order(path: Path, run: Run) -> None:
    """A first page need not sort half of the namespace."""

    async def work() -> None:
        async with await opened(SqliteEngine(path)) as store:
            await store.kv.put_many({f"{n:04}": {"age": n % 100} for n in range(5000)})
            name = await store.kv.create_index("age")
            assert (await store.kv.explain(F("age") < 2)).indexes == (name,)
            assert (await store.kv.explain(F("age") >= 2)).indexes == ()
            for where in (F("age") < 2, F("age") >= 2):
                found, _ = await store.kv.find_many(where, limit=3)
                assert [e.key for e in found] == [
                    f"{n:04}" for n in range(200) if matches(parse(where), {"age": n % 100})
                ][:3]

    run(work())


def schema(path: Path) -> list[str]:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return [row[0] for row in connection.execute("select name from sqlite_schema where name like 'pm_query%'")]
    finally:
        connection.close()


def test_indexes_belong_to_namespaces_and_go_with_the_last(path: Path, run: Run) -> None:
    """They survive reopening; dropped by name, with the namespace, never with another's."""

    async def work() -> None:
        async with await opened(SqliteEngine(path)) as store:
            a, b = store.namespace("a").kv, store.namespace("a", "b").kv
            name = await a.create_index("x.y")
            assert await b.create_index(["x", "y"]) == name
            assert await a.create_index("x.y") == name
            assert await store.kv.list_indexes() == []
            assert not await store.kv.drop_index(name)
        async with await opened(SqliteEngine(path)) as store:
            a, ab, other = (store.namespace(*names).kv for names in (("a",), ("a", "b"), ("a%", "a0")))
            assert [(i.name, i.paths) for i in await a.list_indexes()] == [(name, (("x", "y"),))]
            await other.create_index("x.y")
            await store.namespace("a").kv.put("k", {"x": {"y": 1}})
            assert await a.drop_index(name)
            assert not await a.drop_index(name)
            assert await a.list_indexes() == []
            assert len(await ab.list_indexes()) == 1
            await store.drop_namespace("a")
            assert await ab.list_indexes() == []
            assert (await other.explain(F("x.y") == 1)).indexes == (name,)
            assert len(await other.list_indexes()) == 1
            await store.drop_namespace("a%")
            assert (await other.explain(F("x.y") == 1)).indexes == ()

    run(work())
    assert schema(path) == []


def test_index_in_a_transaction(path: Path, run: Run) -> None:
    """Rolled back with it."""

    async def work() -> None:
        async with await opened(SqliteEngine(path)) as store:
            with pytest.raises(ZeroDivisionError):
                async with store.transaction() as tx:
                    await tx.kv.put("k", {"a": 1})
                    name = await tx.kv.create_index("a")
                    assert (await tx.kv.explain(F("a") == 1)).indexes == (name,)
                    assert await tx.kv.count(where=F("a") == 1) == 1
                    raise ZeroDivisionError
            assert await store.kv.list_indexes() == []
            assert await store.kv.count(where=F("a") == 1) == 0

    run(work())
    assert schema(path) == []


def test_a_damaged_document_is_named(path: Path, run: Run) -> None:
    """Damage never reads as absence."""

    async def work() -> None:
        async with await opened(SqliteEngine(path)) as store:
            await store.kv._driver.put("k", b'{"a": ', "json", version=1, expires_at=None)
            for ask in (
                store.kv.count(where=F("a") == 1),
                store.kv.create_index("a"),
                store.kv.aggregate({"n": ("sum", "a")}),
            ):
                with pytest.raises(StorageCorruptError):
                    await ask
            assert await store.kv.list_indexes() == []

    run(work())


def test_errors_hold_no_values(path: Path, run: Run) -> None:
    async def work() -> None:
        async with await opened(SqliteEngine(path)) as store:
            await store.kv._driver.put("k", b'{"a": "secret', "json", version=1, expires_at=None)
            with pytest.raises(StorageError) as caught:
                await store.kv.count(where=F("a") == "secret")
            assert "secret" not in str(caught.value)

    run(work())
