"""Plain SQL on the database itself; the root namespace only."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]

from polymem.contracts.sql import Parameters, SqlFeatures
from polymem.engines.postgres._pool import Link
from polymem.engines.postgres._runner import PoolRunner, Runner
from polymem.errors import StorageDataError, StorageQueryError

Rows = list[tuple[Any, ...]]
_BLANKS: Final = r"(?:\s|--[^\n]*(?:\n|\Z)|/\*.*?\*/)*+"
_FIRST_WORD: Final = re.compile(_BLANKS + r"(\w*)", re.DOTALL)
_OURS: Final = frozenset({
    "abort", "begin", "close", "commit", "copy", "deallocate", "declare", "discard", "end", "execute", "fetch", "listen",
    "move", "notify", "prepare", "release", "reset", "rollback", "savepoint", "set", "start", "unlisten",
})  # fmt: skip
"""They would end or leave the transaction that the statement runs in, or change a connection that others use."""
_TOKEN: Final = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | --[^\n]* | /\*.*?\*/ | (\$\w*\$).*?\1 | :: | :(?P<name>[A-Za-z_]\w*)""",
    re.DOTALL | re.VERBOSE,
)


class PostgresSql:
    """`query` runs in a transaction that only reads; `execute` as it is, so VACUUM and the like work too."""

    features = SqlFeatures(dialect="postgresql")

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    async def query(self, statement: str, parameters: Parameters, /) -> Rows:
        text, values = _numbered(statement, parameters)
        async with self._runner.unit(read_only=True) as link:
            return await _fetch(link, text, values)

    async def execute(self, statement: str, parameters: Parameters, /) -> Rows:
        text, values = _numbered(statement, parameters)
        if not isinstance(self._runner, PoolRunner):
            async with self._runner.unit() as link:
                return await _fetch(link, text, values)
        async with self._runner.pool.lease() as link:
            rows = await _fetch(link, text, values)
            await link.reset()
            return rows

    async def execute_many(self, statement: str, parameters: Sequence[Parameters], /) -> None:
        numbered = [_numbered(statement, given) for given in parameters]
        if not numbered:
            return
        async with self._runner.unit() as link:
            with _sound(link):
                await link.raw.executemany(numbered[0][0], [values for _, values in numbered], timeout=link.timeout)


async def _fetch(link: Link, statement: str, values: Sequence[Any]) -> Rows:
    with _sound(link):
        return [tuple(row) for row in await link.fetch(statement, *values)]


@contextmanager
def _sound(link: Link) -> Iterator[None]:
    """Say whose fault it is that values do not fit, without repeating them."""
    try:
        yield
    except (asyncpg.DataError, asyncpg.InterfaceError) as error:
        if link.closed:
            raise
        expected = "expected one value of the right type for each parameter of the statement"
        raise StorageDataError(expected, field="parameters") from error


def _numbered(statement: str, parameters: Parameters) -> tuple[str, Sequence[Any]]:
    """The statement with $1, $2, ... for the names of a mapping, and the values in that order."""
    _check(statement)
    if not isinstance(parameters, Mapping):
        return statement, parameters
    text, names = _without_names(statement)
    for name in names:
        if name not in parameters:
            raise StorageDataError("the statement has a parameter of this name", field=f"parameters.{name}")
    return text, [parameters[name] for name in names]


@lru_cache(1000)
def _without_names(statement: str) -> tuple[str, tuple[str, ...]]:
    numbers: dict[str, int] = {}

    def number(found: re.Match[str]) -> str:
        name = found["name"]
        return found[0] if name is None else f"${numbers.setdefault(name, len(numbers) + 1)}"

    return _TOKEN.sub(number, statement), tuple(numbers)


@lru_cache(1000)
def _check(statement: str) -> None:
    word = _FIRST_WORD.match(statement)
    if word and word[1].lower() in _OURS:
        raise StorageQueryError(
            "this statement belongs to the engine; use store.transaction(), bulk loading or events", field="statement"
        )
