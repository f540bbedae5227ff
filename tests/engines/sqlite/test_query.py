"""QRY-5, QRY-6: SQLite gives exactly the answers of the memory engine, with and without indexes."""

import asyncio
import json
import os
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from polymem.contracts.filter import Compare, F, Filter, matches, parse, parse_order, sort_key
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

NIGHTLY = os.environ.get("POLYMEM_NIGHTLY") == "1"
EXAMPLES = 100_000 if NIGHTLY else 2_000
SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
Run = Callable[[Coroutine[Any, Any, Any]], Any]
INDEXES: list[list[list[Any]]] = [[], [["a"]], [["b"], ["a", "b"], ["a.0"], [["x.'\"\\"], "a"]]]


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


def exactly(answer: Any) -> str:
    """Text that tells 1 from 1.0 and from true."""
    return json.dumps(answer, sort_keys=True)


@pytest.fixture(name="pair", scope="module")
def open_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    pair = Pair(tmp_path_factory.mktemp("query"))
    yield pair
    pair.close()


FLOATS = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 1.5, -1.0, 0.1, 2.0**53, 9.2e18, -9.3e18, 2.0**63, 2.0**70, 1e300, 1.7e308, 5e-324]),
    st.floats(allow_nan=False, allow_infinity=False),
)  # fmt: skip
INTS = st.one_of(
    st.sampled_from([0, 1, 2, -1, 2**53 + 1, 2**63 - 1, -(2**63), 9_200_000_000_000_000_001]),
    st.integers(-3, 3),
    st.integers(-(2**63), 2**63 - 1),
)
BIG = st.sampled_from([2**63, -(2**63) - 1, 2**70, 2**70 + 1, 10**23, 10**320, -(10**320)])
TEXTS = st.one_of(
    st.sampled_from(["", "a", "A", "ab", "1", "true", "null", "[1]", "{}", "~", "\u00e9", "\uffff", "\U0001f600"]),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=3),
)
SCALARS = st.one_of(st.none(), st.booleans(), INTS, FLOATS, TEXTS)
NESTED = st.recursive(
    SCALARS | BIG,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "b", "0"]), inner, max_size=2),
    max_leaves=4,
)
KEYS = st.sampled_from(["a", "a", "a", "b", "b", "0", "c", "x.'\"\\"])
FEW = st.sampled_from(
    [0, 1, 1, 1.0, 2, 2.5, -3, 2**63, 2**70, "", "1", "a", "ab", True, False, None, None, [1], ["a"], {}]
)
"""Values that many documents share, for ties and for filters that match."""
ALIKE = st.lists(
    st.fixed_dictionaries({}, optional={"a": FEW, "b": FEW}) | st.fixed_dictionaries({"a": FEW}),
    min_size=4,
    max_size=12,
)
DOCUMENTS = st.one_of(
    ALIKE, ALIKE, st.lists(st.one_of(*[st.dictionaries(KEYS, NESTED, max_size=4)] * 4, NESTED), max_size=12)
)
PATHS = st.sampled_from(["a", "a", "a", "b", "b", "c", "a.0", "a.b", "0", ["x.'\"\\"], "b.a.0"])
BOUNDS = st.one_of(INTS, FLOATS, TEXTS)


@st.composite
def comparisons(draw: st.DrawFn) -> Filter:
    op = draw(st.sampled_from(["eq", "eq", "ne", "lt", "le", "gt", "ge", "in", "not_in", "exists", "exists", "contains", "starts_with", "between"]))  # fmt: skip
    few = FEW.filter(lambda value: value not in (2**63, 2**70))
    strategies: dict[str, st.SearchStrategy[Any]] = {
        **dict.fromkeys(("eq", "ne", "contains"), few | SCALARS | st.sampled_from([[1], [], {}, {"a": 1}])),
        **dict.fromkeys(("lt", "le", "gt", "ge"), st.sampled_from([0, 1, 2.0, "", "a"]) | BOUNDS),
        **dict.fromkeys(("in", "not_in"), st.lists(few | SCALARS, max_size=3)),
        "exists": st.booleans(),
        "starts_with": TEXTS,
        "between": st.tuples(INTS | FLOATS, INTS | FLOATS) | st.tuples(TEXTS, TEXTS),
    }
    return Compare(draw(PATHS), op, draw(strategies[op]))


FILTERS = st.one_of(
    st.none(),
    comparisons(),
    comparisons(),
    st.recursive(
        comparisons(),
        lambda inner: st.one_of(st.builds(lambda a, b: a & b, inner, inner), st.builds(lambda a, b: a | b, inner, inner), st.builds(lambda a: ~a, inner)),
        max_leaves=4,
    ),
)  # fmt: skip
ORDERS = st.one_of(
    st.just([]),
    st.lists(st.tuples(PATHS, st.sampled_from(["asc", "desc"])), min_size=1, max_size=1),
    st.lists(st.tuples(PATHS, st.sampled_from(["asc", "desc"])), max_size=3),
)
PREFIXES = st.sampled_from(["", "", "", "k", "l0", "\U0010ffff"])
WHICH = st.integers(0, len(INDEXES) - 1)


async def pages(kv: KeyValue[Any], size: int, **options: Any) -> list[list[Any]]:
    """Everything, page by page."""
    found, cursor = [], None
    while True:
        entries, cursor = await kv.find_many(**options, limit=size, cursor=cursor)
        found.append([[entry.key, entry.value] for entry in entries])
        assert len(found) < 100, "the pages go round in circles"
        if cursor is None:
            return found


@pytest.mark.timeout(7_200)
@SETTINGS
@given(WHICH, DOCUMENTS, FILTERS, ORDERS, PREFIXES, st.integers(1, 5), st.integers(0, 4))
@example(
    1,
    [{"a": v} for v in (2**63, 2.0**63, 9.2e18, -(10**320), 10**320, -1, True, "x", [1], None)] + [{}],
    None,
    [("a", "desc")],
    "",
    1,
    0,
)
@example(
    1,
    [{"a": v} for v in (2**63, 2.0**63, 9.2e18, -(10**320), 10**320, -1, True, "x", [1], None)] + [{}],
    None,
    [("a", "asc")],
    "",
    2,
    3,
)
@example(0, [{"a": n, "b": n % 2} for n in (1, 2, 3, 2, 1, 5)], None, [("a", "desc")], "", 1, 0)
@example(0, [{"a": n, "b": n % 2} for n in (1, 2, 3, 2, 1, 5)], None, [("b", "desc"), ("a", "asc")], "", 1, 0)
@example(2, [{"a": 1}], F("a").in_([]) | F("b").in_([]), [("b", "asc")], "", 1, 0)
@example(2, [{"a": 1, "b": v} for v in (3, 1, 2, 1)] + [{"a": 1.0, "b": True}], F("a") == 1, [("b", "desc")], "", 2, 0)
def test_finding(
    pair: Pair, which: int, documents: list[Any], where: Filter | None, order: Any, prefix: str, size: int, offset: int
) -> None:  # fmt: skip
    """Filters, orders, limits, offsets, pages and counts (QRY-1, QRY-2, QRY-3)."""

    async def ask(kv: KeyValue[Any]) -> Any:
        options = {"where": where, "order_by": order, "prefix": prefix}
        everything = [[e.key, e.value] async for e in kv.query(**options)]
        by_pages = await pages(kv, size, **options)
        assert [item for page in by_pages for item in page] == everything
        assert all(len(page) == size for page in by_pages[:-1])
        some = [[e.key, e.value] async for e in kv.query(**options, limit=size, offset=offset)]
        assert some == everything[offset : offset + size]
        first = await kv.find_one(**options)
        assert (None if first is None else [first.key, first.value]) == (everything[0] if everything else None)
        if where is not None:
            assert await kv.count(prefix, where=where) == len(everything)
        return everything

    found = pair.agree(which, documents, ask)
    keyed = [(f"{'kl'[number % 2]}{number:02}", document) for number, document in enumerate(documents)]
    fitting = [(key, document) for key, document in keyed if key.startswith(prefix) and matches(where, document)]
    parsed = parse_order(order)
    assert [key for key, _ in found] == [
        k for k, d in sorted(fitting, key=lambda item: sort_key(item[1], parsed, item[0]))
    ]


RESULTS = st.dictionaries(
    st.sampled_from(["n", "total", "_x"]),
    st.one_of(
        st.just("count"),
        st.tuples(st.sampled_from(["count", "sum", "avg", "min", "max", "distinct"]), PATHS),
    ),
    min_size=1,
)
HAVING = st.sampled_from([
    None, F("n") > 1, F("total") >= 1.5, F("n") == None, ~F("_x").exists(), F("total") < "b", F("n") == 1.0, F("n") != [],  # noqa: E711
    F("total") > 2.0**63,
])  # fmt: skip


@pytest.mark.timeout(7_200)
@SETTINGS
@given(WHICH, DOCUMENTS, FILTERS, RESULTS, st.lists(PATHS, max_size=2), HAVING, st.one_of(st.none(), st.integers(0, 3)))
@example(0, [{"a": 2**63 - 1}] * 3 + [{"a": -1}], None, {"n": ("sum", "a")}, [], None, None)
@example(0, [{"a": -(2**63)}] * 5, None, {"n": ("sum", "a"), "_x": ("avg", "a")}, [], None, None)
@example(
    0,
    [{"a": 1e308}] * 9 + [{"a": 10**320}],
    None,
    {"n": ("sum", "a"), "total": ("avg", "a"), "_x": ("max", "a")},
    [],
    F("n") > 5,
    None,
)
@example(0, [{"a": 0.1}] * 3 + [{"a": 2**70}], None, {"n": ("sum", "a"), "total": ("avg", "a")}, ["a"], None, None)
def test_aggregates(
    pair: Pair, which: int, documents: list[Any], where: Filter | None, results: Any, group_by: Any, having: Any, limit: int | None
) -> None:  # fmt: skip
    """count, sum, avg, min, max, distinct, group_by, having (QRY-4)."""

    async def ask(kv: KeyValue[Any]) -> Any:
        rows = await kv.aggregate(results, where=where, group_by=group_by, having=having, limit=limit)
        return [[row.group, row.values] for row in rows]

    pair.agree(which, documents, ask)


@pytest.mark.timeout(3_600)
@settings(SETTINGS, max_examples=max(EXAMPLES // 10, 200))
@given(WHICH, DOCUMENTS, st.lists(PATHS, max_size=4))
def test_selecting(pair: Pair, which: int, documents: list[Any], select: Any) -> None:
    """Partial documents (QRY-3)."""

    async def ask(kv: KeyValue[Any]) -> Any:
        return [[entry.key, entry.value] async for entry in kv.query(select=select)]

    pair.agree(which, documents, ask)


HOSTILE = [
    "a.b", 'q"', "'", "''", "\\", '\\"', "[0]", "$", "$.a", "#", "[#-1]", "*", "", " ", "\u00e9", "\U0001f600", "\n", "\x01",
    "0", "-1", "00", "{v}", "{column}", "?", "?1", ":x", "%s", "--", ";", "*/", "x" * 400,
]  # fmt: skip


@pytest.mark.parametrize("key", HOSTILE, ids=ascii)
def test_hostile_paths(pair: Pair, key: str) -> None:
    """G-4: a key is taken as it is everywhere a path stands, an index included."""
    documents = [
        {key: 1, "a": 0},
        {key: 1.0},
        {"a": {key: "x"}},
        {key: None},
        {key: [key]},
        {key: key},
        {},
        [1],
        {key: True},
    ]

    async def ask(kv: KeyValue[Any]) -> Any:
        name = await kv.create_index([key]) if kv._queries and kv._queries.features.indexes else None
        if name is not None:
            assert (await kv.explain(F([key]) == 1)).indexes == (name,)
            assert (await kv.explain(order_by=[([key], "asc")])).indexes == (name,)
            assert name in {index.name for index in await kv.list_indexes()}
        found = [
            await pages(kv, 2, where=F([key]) == 1),
            await pages(kv, 2, where=F("a", key) == "x", order_by=[([key], "desc")]),
            await pages(kv, 2, order_by=[([key], "asc")]),
            await pages(kv, 9, select=[[key], ["a", key]]),
            [list(row) for row in await kv.aggregate({"n": ("min", [key])}, group_by=[[key], ["a", key]])],
        ]
        if name is not None:
            assert await kv.drop_index(name)
        return found

    assert pair.agree(0, documents, ask)


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
