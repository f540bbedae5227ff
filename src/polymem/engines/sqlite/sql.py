"""Plain SQL on the file itself; the root namespace only."""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final

import apsw

from polymem.contracts.sql import Parameters, SqlFeatures
from polymem.engines.sqlite._database import Runner
from polymem.errors import StorageDataError, StorageQueryError

Rows = list[tuple[Any, ...]]
_BLANKS: Final = r"(?>(?:[\s\ufeff;]|--[^\n]*(?:\n|\Z)|/\*.*?(?:\*/|\Z))*)"
_NOTHING: Final = re.compile(_BLANKS, re.DOTALL)
_FIRST_WORD: Final = re.compile(_BLANKS + r"(\w*)", re.DOTALL)
_PRAGMA: Final = re.compile(
    rf"(?:^|;){_BLANKS}(?:explain{_BLANKS}(?:query{_BLANKS}plan{_BLANKS})?)?"
    rf"pragma{_BLANKS}(?:\w+{_BLANKS}\.{_BLANKS})?(\w*)",
    re.DOTALL | re.IGNORECASE,
)
_OURS: Final = frozenset({"attach", "begin", "commit", "detach", "end", "release", "rollback", "savepoint", "vacuum"})
"""They would end or leave the transaction that the statement runs in, or change the connection."""
_READING_PRAGMAS: Final = frozenset({
    "collation_list", "compile_options", "data_version", "database_list", "foreign_key_check", "foreign_key_list",
    "freelist_count", "function_list", "index_info", "index_list", "index_xinfo", "integrity_check", "page_count",
    "pragma_list", "quick_check", "table_info", "table_list", "table_xinfo",
})  # fmt: skip


class SqliteSql:
    """Statements run like those of the other contracts: reads on a reader thread, writes by group commit."""

    features = SqlFeatures(dialect="sqlite")

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    async def query(self, statement: str, parameters: Parameters, /) -> Rows:
        _check_pragmas(statement)
        return await self._runner.read(
            lambda c: _run(lambda: _cursor(c, read_only=True).execute(statement, parameters).fetchall())
        )

    async def execute(self, statement: str, parameters: Parameters, /) -> Rows:
        _check_pragmas(statement)
        return await self._runner.write(lambda c: _run(lambda: _cursor(c).execute(statement, parameters).fetchall()))

    async def execute_many(self, statement: str, parameters: Sequence[Parameters], /) -> None:
        _check_pragmas(statement)
        await self._runner.write(
            lambda c: (
                _run(lambda: _cursor(c, times=len(parameters)).executemany(statement, parameters).fetchall()) and None
            )
        )


@lru_cache(1000)
def _check_pragmas(statement: str) -> None:
    """Before anything is prepared, as some pragmas take effect then."""
    if any(name.lower() not in _READING_PRAGMAS for name in _PRAGMA.findall(statement)):
        raise StorageQueryError("only pragmas that read are allowed", field="statement")


def _cursor(connection: apsw.Connection, *, times: int = 1, read_only: bool = False) -> apsw.Cursor:
    """A cursor that refuses what a statement of the user may not do, before it is run."""
    left = times

    def check(cursor: apsw.Cursor, statement: str, _: object) -> bool:
        nonlocal left
        if _NOTHING.fullmatch(statement):
            return True
        if not left:
            raise StorageQueryError("expected one statement", field="statement")
        left -= 1
        _check_kind(statement)
        if read_only and not cursor.is_readonly:
            raise StorageQueryError("query() only reads; use execute() to write", field="statement")
        return True

    cursor = connection.cursor()
    cursor.exec_trace = check
    return cursor


@lru_cache(1000)
def _check_kind(statement: str) -> None:
    word = _FIRST_WORD.match(statement)
    if word and word[1].lower() in _OURS:
        raise StorageQueryError(
            "this statement belongs to the engine; use store.transaction(), backup() or purge()", field="statement"
        )


def _run(statement: Callable[[], Rows]) -> Rows:
    try:
        return statement()
    except (TypeError, KeyError, apsw.BindingsError) as error:
        expected = "expected one int, float, str, bytes or None for each parameter of the statement"
        raise StorageDataError(expected, field="parameters") from error
