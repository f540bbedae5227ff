"""Plain SQL on the file (SQ-1): reads that only read, one statement at a time, and never the engine's own business."""

import asyncio
import datetime as dt
import decimal

import pytest

from polymem.errors import StorageConflictError, StorageDataError, StorageError, StorageNotFoundError, StorageQueryError
from polymem.store import Store

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sql(store: Store) -> Store:
    await store.sql.execute("create table t(a integer primary key, b text not null default '', c check (c < 100))")
    await store.sql.execute_many("insert into t(a, b) values(?, ?)", [(1, "one"), (2, "two"), (3, "three")])
    return store


async def rows(store: Store) -> int:
    return int((await store.sql.query("select count(*) from t"))[0][0])


async def test_parameters_by_place_and_by_name(sql: Store) -> None:
    assert await sql.sql.query("select b from t where a = ?", [2]) == [("two",)]
    assert await sql.sql.query("select b from t where a = :a or b = $b", {"a": 1, "b": "two"}) == [("one",), ("two",)]
    assert await sql.sql.query("select ?, ?, ?, ?, ?", [None, 2**62, 1.5, "ü", b"\x00"]) == [
        (None, 2**62, 1.5, "ü", b"\x00")
    ]


async def test_rows_of_returning(sql: Store) -> None:
    assert await sql.sql.execute("insert into t(b) values('x'), ('y') returning a, b") == [(4, "x"), (5, "y")]
    assert await sql.sql.execute("update t set b = 'z' where a > 3") == []
    assert await rows(sql) == 5


WRITES = [
    "insert into t(b) values('x')", "update t set b = 'x'", "delete from t", "delete from t where 0", "create table u(x)",
    "drop table t", "with x as (select 1) insert into t(b) select 'x' from x", "insert into t(b) values('x') returning a",
    "/* c */ -- d\n ; delete from t", "replace into t values(1, 'x', 1)", "create temp table u(x)", "reindex", "analyze",
]  # fmt: skip


@pytest.mark.parametrize("statement", WRITES)
async def test_query_only_reads(sql: Store, statement: str) -> None:
    before = await sql.sql.query("select * from t")
    with pytest.raises(StorageQueryError) as caught:
        await sql.sql.query(statement)
    assert caught.value.field == "statement"
    async with sql.transaction() as tx:
        with pytest.raises(StorageQueryError):
            await tx.sql.query(statement)
    assert await sql.sql.query("select * from t") == before


FORBIDDEN = [
    "begin", "BEGIN IMMEDIATE", "commit", "end", "rollback", "savepoint x", "release x", "rollback to x",
    "attach ':memory:' as x", "detach main", "vacuum", "vacuum into '/tmp/x'", "pragma journal_mode=delete",
    "pragma synchronous=off", "PRAGMA Query_Only=1", "pragma main.user_version=7", "pragma user_version", "pragma 'x'",
    'pragma "main".user_version=7', "pragma wal_checkpoint", "\ufeffbegin", ";;begin", "/**/begin", "--x\nbegin",
    "/* x */ pragma/**/writable_schema=1", "-- begin\ncommit", "explain pragma query_only=1",
    "explain /**/ query plan pragma query_only=1", "/*;*/pragma query_only=1",
]  # fmt: skip


@pytest.mark.parametrize("statement", FORBIDDEN)
async def test_statements_that_belong_to_the_engine(sql: Store, statement: str) -> None:
    """Wherever they come in, and although the engine's own connections have prepared the same text before."""
    calls = [sql.sql.query, sql.sql.execute, lambda s: sql.sql.execute_many(s, [()])]
    for call in calls:
        with pytest.raises(StorageQueryError):
            await call(statement)
        with pytest.raises(StorageQueryError):
            await call(f"select 1; {statement}")
    async with sql.transaction() as tx:
        await tx.kv.put("k", 1)
        for inner in (tx.sql.query, tx.sql.execute):
            with pytest.raises(StorageQueryError):
                await inner(statement)
    assert await sql.kv.get("k") == 1
    await sql.kv.put("k", 2)
    assert await rows(sql) == 3


@pytest.mark.parametrize(
    "statement", ["pragma table_info(t)", "PRAGMA main.index_list('t')", "pragma integrity_check", "explain select 1"]
)
async def test_pragmas_that_read_are_fine(sql: Store, statement: str) -> None:
    await sql.sql.query(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "select 1; select 2",
        "delete from t; delete from t where a = 1",
        "delete from t;delete from t;",
        "insert into t(b) values('x'); commit",
    ],
)
async def test_one_statement_at_a_time(sql: Store, statement: str) -> None:
    with pytest.raises(StorageQueryError):
        await sql.sql.execute(statement)
    assert await rows(sql) == 3


async def test_an_end_and_a_comment_are_no_second_statement(sql: Store) -> None:
    assert await sql.sql.query("select 1; -- one; two\n") == [(1,)]
    assert await sql.sql.query("select 'begin; commit'") == [("begin; commit",)]


@pytest.mark.parametrize(
    "value", [object(), {1}, [1], {"a": 1}, dt.date(2020, 1, 1), decimal.Decimal(1), 1j, 2**63, "\ud800", "\x00"]
)
async def test_parameters_of_other_types(sql: Store, value: object) -> None:
    for call, parameters in (
        (sql.sql.query, [value]), (sql.sql.execute, [value]), (sql.sql.execute_many, [[1], [value]]),
    ):  # fmt: skip
        with pytest.raises(StorageDataError) as caught:
            await call("select ?", parameters)  # type: ignore[operator]
        assert caught.value.field is not None
        assert caught.value.field.startswith("parameters")


@pytest.mark.parametrize("parameters", [[], [1, 2], {"b": 1}])
async def test_parameters_that_do_not_fit(sql: Store, parameters: object) -> None:
    statement = "select :a" if isinstance(parameters, dict) else "select ?"
    with pytest.raises(StorageDataError) as caught:
        await sql.sql.query(statement, parameters)  # type: ignore[arg-type]
    assert caught.value.field == "parameters"


async def test_execute_many_is_all_or_nothing(sql: Store) -> None:
    with pytest.raises(StorageConflictError):
        await sql.sql.execute_many("insert into t(a) values(?)", [[10], [11], [1]])
    assert await rows(sql) == 3
    await sql.sql.execute_many("insert into t(a) values(:a)", [{"a": 10}, {"a": 11}])
    await sql.sql.execute_many("insert into t(a) values(?)", [])
    assert await rows(sql) == 5


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("insert into t(a) values(1)", StorageConflictError),
        ("insert into t(a, c) values(9, 100)", StorageDataError),
        ("insert into t(a, b) values(9, null)", StorageDataError),
        ("insert into t(a) values('text')", StorageDataError),
        ("insert into child values(9)", StorageNotFoundError),
        ("selekt", StorageQueryError),
        ("select * from absent", StorageQueryError),
    ],
)
async def test_errors(sql: Store, statement: str, kind: type[StorageError]) -> None:
    """G-1; foreign keys are enforced."""
    await sql.sql.execute("create table child(id integer references t)")
    with pytest.raises(kind):
        await sql.sql.execute(statement)
    assert await rows(sql) == 3


async def test_messages_hold_no_values(sql: Store) -> None:
    for statement, parameters in (
        ("insert into t(a, b) values(1, ?)", ["secret"]), ("select ?", [{"secret"}]), ("select secret from t", []),
    ):  # fmt: skip
        with pytest.raises(StorageError) as caught:
            await sql.sql.execute(statement, parameters)
        assert "secret" not in str(caught.value)


async def test_within_a_transaction(sql: Store) -> None:
    with pytest.raises(ZeroDivisionError):
        async with sql.transaction() as tx:
            await tx.sql.execute("delete from t")
            assert await tx.sql.query("select count(*) from t") == [(0,)]
            assert await rows(sql) == 3
            raise ZeroDivisionError
    assert await rows(sql) == 3


async def test_concurrent_writes_are_not_lost(sql: Store) -> None:
    await asyncio.gather(*(sql.sql.execute("update t set a = a + 1 where b = 'three'") for _ in range(50)))
    assert await sql.sql.query("select a from t where b = 'three'") == [(53,)]


async def test_only_the_root_has_it(store: Store) -> None:
    """A statement knows no tenant."""
    assert store.supports("sql")
    assert not store.namespace("n").supports("sql")
