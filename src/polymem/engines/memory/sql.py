"""Plain SQL on an in-memory SQLite database, beside the other contracts; the root namespace only."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from polymem.contracts.sql import Parameters, SqlFeatures
from polymem.engines._tables.views import View
from polymem.errors import (
    StorageConflictError,
    StorageDataError,
    StorageError,
    StorageFullError,
    StorageQueryError,
)

if TYPE_CHECKING:
    import apsw

Rows = list[tuple[Any, ...]]


class SqlDatabase:
    """The database; a transaction that writes SQL works on a copy of it."""

    counted: ClassVar[bool] = False

    def __init__(self) -> None:
        import apsw  # noqa: PLC0415 - only who uses SQL pays for it

        self.connection = apsw.Connection(":memory:")
        self.connection.execute("PRAGMA foreign_keys = ON")

    @classmethod
    def of(cls, image: bytes) -> Self:
        """The database of `connection.serialize("main")`."""
        loaded = cls()
        loaded.connection.deserialize("main", image)
        return loaded.fork()

    def fork(self) -> Self:
        fork = type(self)()
        with fork.connection.backup("main", self.connection, "main") as backup:
            while not backup.done:
                backup.step()
        return fork

    def settle(self) -> None:
        """A fork is complete in itself."""

    def held(self, now: int) -> int:  # noqa: ARG002 - nothing here expires
        return 0

    def expire(self, now: int, limit: int) -> int:  # noqa: ARG002 - nothing here expires
        return 0


class MemorySql:
    """Statements run on the event loop, each in a transaction of its own."""

    __slots__ = ("_view",)

    def __init__(self, view: View) -> None:
        self._view = view

    @property
    def features(self) -> SqlFeatures:
        return SqlFeatures(dialect="sqlite")

    async def query(self, statement: str, parameters: Parameters, /) -> Rows:
        connection = (self._view.find(SqlDatabase, "") or SqlDatabase()).connection
        connection.execute("PRAGMA query_only = ON")
        try:
            return _run(connection, lambda: connection.execute(statement, parameters).fetchall())
        finally:
            connection.execute("PRAGMA query_only = OFF")

    async def execute(self, statement: str, parameters: Parameters, /) -> Rows:
        await self._view.writable()
        connection = self._view.table(SqlDatabase, "").connection
        return _run(connection, lambda: connection.execute(statement, parameters).fetchall())

    async def execute_many(self, statement: str, parameters: Sequence[Parameters], /) -> None:
        await self._view.writable()
        connection = self._view.table(SqlDatabase, "").connection
        _run(connection, lambda: connection.executemany(statement, parameters).fetchall())


def _run(connection: "apsw.Connection", statement: Callable[[], Rows]) -> Rows:
    """In a savepoint, so that a failure leaves nothing and BEGIN is refused by SQLite itself."""
    rows: Rows = []
    try:
        with connection:
            rows = statement()
    except (TypeError, ValueError, OverflowError, KeyError) as error:
        expected = "expected one int, float, str, bytes or None for each parameter of the statement"
        raise StorageDataError(expected, field="parameters") from error
    return rows


def translate_sql(error: Exception) -> StorageError | None:
    """The error map of SQLite."""
    import apsw  # noqa: PLC0415

    if isinstance(error, apsw.ConstraintError):
        return _translate_constraint(getattr(error, "extendedresult", 0))
    if isinstance(error, apsw.FullError):
        return StorageFullError("the in-memory database is full")
    if isinstance(error, (apsw.MismatchError, apsw.TooBigError, apsw.RangeError, apsw.BindingsError)):
        return StorageDataError("the parameters do not fit the statement", field="parameters")
    if isinstance(error, apsw.ReadOnlyError):
        return StorageQueryError("query() only reads; use execute() to write")
    if isinstance(error, apsw.Error):
        return StorageQueryError(f"SQLite refused the statement: {error}")
    return None


def _translate_constraint(code: int) -> StorageError:
    import apsw  # noqa: PLC0415

    if code in (
        apsw.SQLITE_CONSTRAINT_UNIQUE,
        apsw.SQLITE_CONSTRAINT_PRIMARYKEY,
        apsw.SQLITE_CONSTRAINT_ROWID,
    ):
        return StorageConflictError("a row with this unique value exists")
    names = {
        apsw.SQLITE_CONSTRAINT_NOTNULL: "NOT NULL",
        apsw.SQLITE_CONSTRAINT_CHECK: "CHECK",
        apsw.SQLITE_CONSTRAINT_FOREIGNKEY: "FOREIGN KEY",
    }
    return StorageDataError(f"a {names.get(code, 'table')} constraint refused the row", field="parameters")
