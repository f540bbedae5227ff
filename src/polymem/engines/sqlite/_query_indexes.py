"""Indexes on paths of documents: one table per set of paths and file, shared by the namespaces that asked for it.

A row says for each path the rank of its value (`_query_places`) and the value, so that the primary key has the order of
`contracts.query` and most conditions are decided without the document. It is a table that triggers keep, and not an
index of SQLite on expressions, because such an index looks every row up in `pm_kv`, even where it holds all that is
asked for: that costs forty times as much as reading the index itself.

An index per namespace would be kept by every write of every namespace; with thousands of tenants that is thousands of
tables. `pm_meta` says which there are (`query_index:<name>` holds the paths) and who uses them
(`query_index_use:<name>:<namespace>`). The index goes with its last user.
"""

import json
from typing import Final

import apsw

from polymem.contracts.filter import Path
from polymem.contracts.query import IndexInfo
from polymem.core.namespace import subtree_end
from polymem.engines.sqlite._filter import in_document
from polymem.engines.sqlite._query_places import pair_of

_DEFINED: Final = "query_index:"
_USED: Final = "query_index_use:"
_TRIGGERS: Final = ("insert", "update", "delete")


def is_document(type: str = "type") -> str:
    """The condition that a record of this type is a JSON document.

    It comes before any other condition on the value, because JSON functions fail on what is no JSON.
    """
    return f"({type} = 'json' or ({type} >= 'model:' and {type} < 'model;'))"


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
    if index.name not in {found.name for found in defined(connection)}:
        _build(connection, index)
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


def rebuild_old(connection: apsw.Connection) -> None:
    """Replace the SQLite indexes on expressions that files from before the tables have."""
    old = {row[0] for row in connection.execute("select name from sqlite_schema where type = 'index'")}
    for index in defined(connection):
        if index.name in old:
            connection.execute(f'drop index "{index.name}"')
            _build(connection, index)


def _drop_unused(connection: apsw.Connection, name: str) -> None:
    bounds = (_use(name, ""), _use(name, "")[:-1] + ";")
    if connection.execute("select 1 from pm_meta where name >= ? and name < ?", bounds).get:
        return
    for event in _TRIGGERS:
        connection.execute(f'drop trigger "{name}_{event}"')
    connection.execute(f'drop table "{name}"')
    connection.execute("delete from pm_meta where name = ?", (_DEFINED + name,))


def _build(connection: apsw.Connection, index: IndexInfo) -> None:
    name, places = f'"{index.name}"', range(len(index.paths))
    typed = "".join(f"rank{at} integer not null, value{at} not null, " for at in places)
    placed = "".join(f"rank{at}, value{at}, " for at in places)
    connection.execute(
        f"create table {name}(namespace text not null, {typed}key text not null, expires_at integer, "
        f"primary key(namespace, {placed}key)) without rowid"
    )
    rows = f"insert into {name} select {_row(index, '')} from pm_kv where {is_document()}"
    connection.execute(f"{rows} order by {', '.join(str(at + 1) for at in range(2 * len(index.paths) + 2))}")
    for event in _TRIGGERS:
        connection.execute(_trigger(index, event))


def _trigger(index: IndexInfo, event: str) -> str:
    name = f'"{index.name}"'
    put = f"insert into {name} select {_row(index, 'new.')} where {is_document('new.type')};"
    fixed = "".join(f"and {column} = {sql} " for column, sql in _placed(index, "old."))
    take = f"delete from {name} where {is_document('old.type')} and namespace = old.namespace {fixed}and key = old.key;"
    work = {"insert": put, "update": take + put, "delete": take}[event]
    return f'create trigger "{index.name}_{event}" after {event} on pm_kv begin {work} end'


def _row(index: IndexInfo, record: str) -> str:
    placed = "".join(f"{sql}, " for _, sql in _placed(index, record))
    return f"{record}namespace, {placed}{record}key, {record}expires_at"


def _placed(index: IndexInfo, record: str) -> list[tuple[str, str]]:
    """The columns of ranks and scalars, each with its value for a record."""
    pairs = [pair_of(in_document(path, f"{record}value")) for path in index.paths]
    return [
        column for at, (rank, scalar) in enumerate(pairs) for column in ((f"rank{at}", rank), (f"value{at}", scalar))
    ]


def _use(name: str, namespace: str) -> str:
    return f"{_USED}{name}:{namespace}"


def _paths(text: str) -> tuple[Path, ...]:
    return tuple(tuple(path) for path in json.loads(text))
