"""Plain SQL, in what both dialects share (contracts/sql.py)."""

from typing import Any, Self

from polymem.contracts.sql import Sql
from polymem.core.ids import uuid7
from polymem.errors import (
    StorageConflictError,
    StorageDataError,
    StorageError,
    StorageQueryError,
    StorageUnsupportedError,
)
from polymem.testing.clause import clause
from polymem.testing.expect import refused
from polymem.testing.kit import Kit


class _Table:
    """A table of its own, dropped at the end."""

    def __init__(self, kit: Kit) -> None:
        self.sql: Sql = kit.root.sql
        self.name = f"conformance_{uuid7().replace('-', '')}"
        first, second = ("$1", "$2") if self.sql.features.dialect == "postgresql" else ("?", "?")
        self.insert = f"insert into {self.name} values ({first}, {second})"
        self.select = f"select id, note from {self.name} order by id"

    async def __aenter__(self) -> Self:
        await self.sql.execute(f"create table {self.name} (id integer primary key, note text not null)")
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.sql.execute(f"drop table {self.name}")


@clause("sql")
async def executes_and_queries(kit: Kit) -> None:
    """Rows go in and come out; values travel as parameters, whatever they hold."""
    async with _Table(kit) as table:
        notes = ["", "'; drop table x; --", "%_\\", "\U0001f600", "a\nb", "x" * 100_000]
        for number, note in enumerate(notes):
            await table.sql.execute(table.insert, (number, note))
        assert await table.sql.query(table.select) == list(enumerate(notes))
        returned = await table.sql.execute(f"{table.insert} returning id", [10, "a"])
        assert [tuple(row) for row in returned] == [(10,)]


@clause("sql")
async def many_are_all_or_nothing(kit: Kit) -> None:
    """execute_many runs for each set of parameters; one that fails undoes all."""
    async with _Table(kit) as table:
        await table.sql.execute_many(table.insert, [(n, f"{n}") for n in range(1000)])
        with refused(StorageConflictError):
            await table.sql.execute_many(table.insert, [(2000, "a"), (5, "b")])
        await table.sql.execute_many(table.insert, [])
        assert len(await table.sql.query(table.select)) == 1000


@clause("sql")
async def failures_by_kind(kit: Kit) -> None:
    """A unique violation is a conflict, a broken constraint bad data, bad syntax a query error (G-1)."""
    async with _Table(kit) as table:
        await table.sql.execute(table.insert, (1, "a"))
        with refused(StorageConflictError):
            await table.sql.execute(table.insert, (1, "b"))
        with refused(StorageDataError):
            await table.sql.execute(table.insert, (2, None))
        for statement in ("selec 1", "select * from no_such_table_here", "select nothing from nothing"):
            await _rejected(table.sql.query(statement))
            await _rejected(table.sql.execute(statement))
        assert await table.sql.query(table.select) == [(1, "a")]


async def _rejected(call: Any) -> None:
    """A missing table may be told apart as not found (G-1)."""
    try:
        await call
    except StorageError as error:
        assert type(error).__name__ in ("StorageQueryError", "StorageNotFoundError"), type(error).__name__  # noqa: PT017 - runs without pytest
    else:
        raise AssertionError("the statement was not rejected")


@clause("sql")
async def queries_only_read(kit: Kit) -> None:
    """A statement that writes is refused by query."""
    async with _Table(kit) as table:
        with refused(StorageQueryError):
            await table.sql.query(table.insert, (1, "a"))
        assert await table.sql.query(table.select) == []


@clause("sql")
async def errors_hold_no_values(kit: Kit) -> None:
    """No message repeats what was to be stored (G-1)."""
    async with _Table(kit) as table:
        await table.sql.execute(table.insert, (1, "a"))
        for row in ((1, "SECRET"), (1, "SECRET"), ("SECRET", "SECRET")):
            try:
                await table.sql.execute(table.insert, row)
            except StorageError as error:
                assert "SECRET" not in f"{error} {error!r} {error.args}"  # noqa: PT017 - runs without pytest


@clause("sql")
async def bad_input(kit: Kit) -> None:
    """Statements and parameters are refused by their names (G-2)."""
    sql: Any = kit.root.sql
    for statement in ("", "  ", None, 1, "select 1\x00", "\ud800"):
        with refused(StorageDataError, field="statement"):
            await sql.query(statement)
        with refused(StorageDataError, field="statement"):
            await sql.execute(statement)
    for parameters in ("ab", 1, None, b"ab", {1: 2}, ["\x00"], [2**63]):
        with refused(StorageDataError, field="parameters"):
            await sql.query("select 1", parameters)
        with refused(StorageDataError, field="parameters"):
            await sql.execute_many("select 1", [parameters])


@clause("sql")
async def root_only(kit: Kit) -> None:
    """A statement knows no tenant, so a namespace has no sql (G-10)."""
    assert not kit.store.supports("sql")
    with refused(StorageUnsupportedError):
        _ = kit.store.sql


@clause("sql", uses=["transactions"])
async def inside_a_transaction(kit: Kit) -> None:
    """Statements take part in a transaction like everything else."""
    async with _Table(kit) as table:
        try:
            async with kit.root.transaction() as tx:
                await tx.sql.execute(table.insert, (1, "a"))
                assert await tx.sql.query(table.select) == [(1, "a")]
                raise KeyError
        except KeyError:
            assert await table.sql.query(table.select) == []
        async with kit.root.transaction() as tx:
            await tx.sql.execute(table.insert, (1, "a"))
        assert await table.sql.query(table.select) == [(1, "a")]
