"""Indexes on paths of documents: one per set of paths and database, shared by the namespaces that asked for it.

`pm_meta` says which there are (`query_index:<name>` holds the paths) and who uses them
(`query_index_use:<name>:<namespace>`). The index goes with its last user.
"""

import json
from time import monotonic
from typing import Any, Final

from polymem.contracts.filter import Path
from polymem.contracts.query import IndexInfo
from polymem.core.namespace import subtree_end
from polymem.engines.postgres._pool import Link
from polymem.engines.postgres._query_sql import index_columns
from polymem.engines.postgres._runner import Runner

_DEFINED: Final = "query_index:"
_USED: Final = "query_index_use:"
_PATIENT: Final = 86_400.0
"""Seconds that building an index may take."""
_FRESH: Final = 5.0
"""Seconds for which the list of indexes is not read again."""
_LOCK: Final = 0x504D4958
"""The advisory lock under which indexes are made and dropped."""
USED_BY: Final = f"""
select defined.name, defined.value from pm_meta as defined join pm_meta as used
on used.name = '{_USED}' || substr(defined.name, {len(_DEFINED) + 1}) || ':' || $1
where defined.name >= '{_DEFINED}' and defined.name < '{_DEFINED[:-1]};' order by defined.name"""
_ALL: Final = f"select name, value from pm_meta where name >= '{_DEFINED}' and name < '{_DEFINED[:-1]};' order by name"
_NOTE: Final = "insert into pm_meta values ($1, $2) on conflict do nothing"


class KnownIndexes:
    """The indexes of the database, whoever uses them, read again when they were read a while ago.

    Not to know one costs time and no answer: conditions in its words are added to those that decide.
    """

    def __init__(self) -> None:
        self._found: list[IndexInfo] = []
        self._until = 0.0

    async def read(self, runner: Runner) -> list[IndexInfo]:
        if monotonic() > self._until:
            self._found = [_index(row) for row in await runner.fetch(_ALL)]
            self._until = monotonic() + _FRESH
        return self._found

    def forget(self) -> None:
        self._until = 0.0


async def used_by(runner: Runner, namespace: str) -> list[IndexInfo]:
    return [_index(row) for row in await runner.fetch(USED_BY, namespace)]


async def create(runner: Runner, namespace: str, index: IndexInfo) -> None:
    """Build the index unless the database has it, and note who uses it."""
    async with runner.unit() as link:
        await _lock(link)
        link.timeout = _PATIENT
        await link.fetch("select set_config('statement_timeout', '0', true)")
        await link.run(
            f'create index if not exists "{index.name}" on pm_kv (namespace, {index_columns(index.paths)}, key) '
            "where body is not null"
        )
        await link.fetch(_NOTE, _DEFINED + index.name, json.dumps(index.paths))
        await link.fetch(_NOTE, _use(index.name, namespace), "")


async def drop(runner: Runner, namespace: str, name: str) -> bool:
    """Forget a user; whether there was one."""
    async with runner.unit() as link:
        await _lock(link)
        gone = await link.fetch("delete from pm_meta where name = $1 returning 1", _use(name, namespace))
        if gone:
            await _drop_unused(link, name)
        return bool(gone)


async def drop_namespace(link: Link, prefix: str) -> None:
    """Forget the users at or below a namespace."""
    await _lock(link)
    for index in [_index(row) for row in await link.fetch(_ALL)]:
        bounds = _use(index.name, prefix), _use(index.name, subtree_end(prefix))
        if await link.fetch("delete from pm_meta where name >= $1 and name < $2 returning 1", *bounds):
            await _drop_unused(link, index.name)


async def _drop_unused(link: Link, name: str) -> None:
    bounds = _use(name, ""), _use(name, "")[:-1] + ";"
    if not await link.fetch("select from pm_meta where name >= $1 and name < $2 limit 1", *bounds):
        await link.run(f'drop index if exists "{name}"')
        await link.fetch("delete from pm_meta where name = $1", _DEFINED + name)


async def _lock(link: Link) -> None:
    await link.run(f"select pg_advisory_xact_lock({_LOCK})")


def _use(name: str, namespace: str) -> str:
    return f"{_USED}{name}:{namespace}"


def _index(row: Any) -> IndexInfo:
    paths: tuple[Path, ...] = tuple(tuple(path) for path in json.loads(row[1]))
    return IndexInfo(row[0].removeprefix(_DEFINED), paths)
