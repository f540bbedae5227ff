"""Named collections of vectors and texts: their numbers, their options, and the log of their changes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import apsw

from polymem.core.codec import decode_json, encode_json
from polymem.errors import StorageDataError

Options = Mapping[str, Any]


class Place(NamedTuple):
    """Where a collection's name is: its contract in one namespace."""

    namespace: str
    contract: str
    name: str


def find(connection: apsw.Connection, place: Place, options: Options) -> int | None:
    """The number of a collection, None where nothing was written; other options are a `StorageDataError`."""
    query = "select collection, options from pm_collections where namespace = ? and contract = ? and name = ?"
    row = connection.execute(query, place).fetchall()
    if not row:
        return None
    found: tuple[Any, ...] = row[0]
    number, stored = int(found[0]), decode_json(found[1])
    for field, given in options.items():
        if stored[field] != given:
            raise StorageDataError(
                f"{place.name} was written with {field} {stored[field]!r}, not {given!r}", field=field
            )
    return number


def ensure(connection: apsw.Connection, place: Place, options: Options) -> int:
    """The number of a collection, made at the first write."""
    number = find(connection, place, options)
    if number is not None:
        return number
    row = (*place, encode_json(dict(options)).decode())
    connection.execute("insert into pm_collections(namespace, contract, name, options) values(?, ?, ?, ?)", row)
    return connection.last_insert_rowid()


def drop(connection: apsw.Connection, number: int, table: str) -> int:
    """Remove a collection with its rows in `table`; how many there were."""
    connection.execute(f"delete from {table} where collection = ?", (number,))
    removed = connection.changes()
    connection.execute("delete from pm_changes where collection = ?", (number,))
    connection.execute("delete from pm_collections where collection = ?", (number,))
    return removed


def delete(connection: apsw.Connection, number: int, table: str, ids: Sequence[str]) -> int:
    """Remove rows of a collection and log it; how many there were."""
    wanted = encode_json(list(ids)).decode()
    query = f"delete from {table} where collection = ? and id in (select value from json_each(?))"
    connection.execute(query, (number, wanted))
    removed = connection.changes()
    if removed:
        log_change(connection, number, ids)
    return removed


def log_change(connection: apsw.Connection, number: int, ids: Sequence[str]) -> None:
    """Tell the indexes of other connections which rows to look at again."""
    row = (number, encode_json(list(ids)).decode())
    connection.execute("insert into pm_changes(collection, ids) values(?, ?)", row)
