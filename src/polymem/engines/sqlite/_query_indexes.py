"""Indexes on paths of documents: one SQLite index per set of paths and file, shared by the namespaces that asked for it.

An index per namespace would be checked by every write of every namespace; with thousands of tenants that is thousands
of checks. `pm_meta` says which there are (`query_index:<name>` holds the paths) and who uses them
(`query_index_use:<name>:<namespace>`). The index goes with its last user.
"""

import json
from typing import Final

import apsw

from polymem.contracts.filter import Path
from polymem.contracts.query import IndexInfo
from polymem.core.namespace import subtree_end
from polymem.engines.sqlite._filter import _type as json_type
from polymem.engines.sqlite._filter import extract

_DEFINED: Final = "query_index:"
_USED: Final = "query_index_use:"


def is_document(table: str = "") -> str:
    """The condition that a record is a JSON document.

    It comes before any other condition on the value, because JSON functions fail on what is no JSON; and it is the
    condition of every index, which SQLite uses only for queries that have it in these very words.
    """
    return f"({table}type = 'json' or ({table}type >= 'model:' and {table}type < 'model;'))"


def defined(connection: apsw.Connection) -> list[IndexInfo]:
    """The indexes of the file, whoever uses them."""
    rows = connection.execute(
        "select name, value from pm_meta where name > ?1 and name < ?2", (_DEFINED, _DEFINED[:-1] + ";")
    )
    return [IndexInfo(name.removeprefix(_DEFINED), _paths(value)) for name, value in rows]


def used_by(connection: apsw.Connection, namespace: str) -> list[IndexInfo]:
    """The indexes of a namespace, by name."""
    statement = "select 1 from pm_meta where name = ?"
    return [i for i in defined(connection) if connection.execute(statement, (_use(i.name, namespace),)).get]


def create(connection: apsw.Connection, namespace: str, index: IndexInfo) -> None:
    """Build the index unless the file has it, and note who uses it."""
    connection.execute(_definition(index))
    rows = ((_DEFINED + index.name, json.dumps(index.paths)), (_use(index.name, namespace), ""))
    connection.executemany("insert or ignore into pm_meta values(?, ?)", rows)


def drop(connection: apsw.Connection, namespace: str, name: str) -> bool:
    """Forget a user; whether there was one."""
    if name not in {index.name for index in used_by(connection, namespace)}:
        return False
    connection.execute("delete from pm_meta where name = ?", (_use(name, namespace),))
    _drop_unused(connection, name)
    return True


def drop_namespace(connection: apsw.Connection, prefix: str) -> None:
    """Forget the users at or below a namespace."""
    for index in defined(connection):
        bounds = (_use(index.name, prefix), _use(index.name, subtree_end(prefix)))
        connection.execute("delete from pm_meta where name >= ? and name < ?", bounds)
        if connection.changes():
            _drop_unused(connection, index.name)


def _drop_unused(connection: apsw.Connection, name: str) -> None:
    bounds = (_use(name, ""), _use(name, "")[:-1] + ";")
    if connection.execute("select 1 from pm_meta where name >= ? and name < ?", bounds).get:
        return
    connection.execute(f'drop index if exists "{name}"')
    connection.execute("delete from pm_meta where name = ?", (_DEFINED + name,))


def _definition(index: IndexInfo) -> str:
    # the key next to the values: documents of equal values then come in key order, and need no sorting;
    # types, codec and expiry at the end: most conditions are decided without reading the document
    values = [extract(path, "value") for path in index.paths]
    types = [json_type(path, "value") for path in index.paths]
    columns = ", ".join(["namespace", *values, "key", *types, "expires_at", "type"])
    return f'create index if not exists "{index.name}" on pm_kv({columns}) where {is_document()}'


def _use(name: str, namespace: str) -> str:
    return f"{_USED}{name}:{namespace}"


def _paths(text: str) -> tuple[Path, ...]:
    return tuple(tuple(path) for path in json.loads(text))
