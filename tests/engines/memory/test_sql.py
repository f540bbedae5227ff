"""The sql cell: plain SQL in the root namespace, errors translated (G-1)."""

import subprocess
import sys

import pytest

from polymem.contracts.sql import SqlDriver
from polymem.engines.memory.engine import MemoryEngine
from polymem.errors import StorageConflictError, StorageDataError, StorageError, StorageQueryError

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sql(engine: MemoryEngine) -> SqlDriver:
    driver = engine.drivers("").sql
    assert driver is not None
    await driver.execute("create table p (id integer primary key, n text not null unique, v check (v > 0))", ())
    await driver.execute("create table c (p references p)", {})
    await driver.execute("insert into p values (1, 'one', 1)", ())
    return driver


async def test_only_the_root_has_it(engine: MemoryEngine) -> None:
    assert engine.drivers("a/").sql is None


async def test_rows_and_parameters(sql: SqlDriver) -> None:
    assert await sql.query("select n, v from p where id = :id", {"id": 1}) == [("one", 1)]
    assert await sql.execute("insert into p values (?, ?, ?) returning id", (2, "two'; --", 1)) == [(2,)]
    await sql.execute_many("insert into p values (?, ?, 1)", [(3, "three"), (4, "four")])
    assert await sql.query("select count(*) from p", ()) == [(4,)]


async def test_execute_many_is_all_or_nothing(engine: MemoryEngine, sql: SqlDriver) -> None:
    with pytest.raises(Exception, match="UNIQUE"):
        await sql.execute_many("insert into p values (?, ?, 1)", [(3, "three"), (4, "one")])
    assert await sql.query("select count(*) from p", ()) == [(1,)]


@pytest.mark.parametrize(
    ("statement", "parameters", "kind"),
    [
        ("insert into p values (1, 'x', 1)", (), StorageConflictError),
        ("insert into p values (5, 'one', 1)", (), StorageConflictError),
        ("insert into p values (5, null, 1)", (), StorageDataError),
        ("insert into p values (5, 'x', -1)", (), StorageDataError),
        ("insert into c values (9)", (), StorageDataError),
        ("select ?", (1, 2), StorageDataError),
        ("select ?", (object(),), StorageDataError),
        ("select ?", (2**70,), StorageDataError),
        ("select :a", {}, StorageDataError),
        ("insert into p values ('x', 'x', 1)", (), StorageDataError),
        ("selec", (), StorageQueryError),
        ("select * from nothing", (), StorageQueryError),
        ("begin", (), StorageQueryError),
    ],
)
async def test_errors(
    engine: MemoryEngine,
    sql: SqlDriver,
    statement: str,
    parameters: tuple[object, ...],
    kind: type[StorageError],
) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the guard translates it
        await sql.execute(statement, parameters)
    translated = engine.translate(caught.value)
    assert type(translated) is kind
    assert await sql.query("select count(*) from p", ()) == [(1,)]


async def test_query_only_reads(engine: MemoryEngine, sql: SqlDriver) -> None:
    with pytest.raises(Exception, match="readonly") as caught:
        await sql.query("delete from p", ())
    assert type(engine.translate(caught.value)) is StorageQueryError
    await sql.execute("update p set v = 2", ())


async def test_nothing_else_is_translated(engine: MemoryEngine) -> None:
    assert engine.translate(KeyError("x")) is None
    known = StorageDataError("x")
    assert engine.translate(known) is known


async def test_before_the_first_write(engine: MemoryEngine) -> None:
    driver = engine.drivers("").sql
    assert driver is not None
    assert await driver.query("select 1", ()) == [(1,)]


def test_sqlite_is_loaded_by_the_first_use_only() -> None:
    code = "import sys, polymem.engines.memory.engine; sys.exit('apsw' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603
