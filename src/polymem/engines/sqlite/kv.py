"""Key-value records in `pm_kv`."""

from collections.abc import Sequence
from typing import Any, Final

import apsw

from polymem.contracts.kv import MAX_INTEGER, Item, KVFeatures, Record
from polymem.core.clock import Clock
from polymem.core.codec import encode_json
from polymem.core.page import Page
from polymem.core.text import prefix_end
from polymem.engines.sqlite import _changes
from polymem.engines.sqlite._database import Runner
from polymem.engines.sqlite._query_indexes import is_document
from polymem.errors import StorageDataError

_LIVE: Final = "(expires_at is null or expires_at > ?)"
_BODY: Final = "cast(pm_kv.value as blob)"
"""The text as it is in the file: making a string of it, and bytes of that, takes longer than reading it."""
_COLUMNS: Final = f"{_BODY}, type, version, created_at, updated_at, expires_at"
_GET: Final = f"select {_BODY}, type, expires_at from pm_kv where namespace = ? and key = ?"
_GET_MANY: Final = (
    f"select pm_kv.key, {_BODY}, pm_kv.type from json_each(?2) wanted cross join pm_kv "
    f"on namespace = ?1 and pm_kv.key = wanted.value and {_LIVE.replace('?', '?3')}"
)
"""One statement for any number of keys, in their order."""
_ENTRY: Final = f"select {_COLUMNS} from pm_kv where namespace = ? and key = ? and {_LIVE}"
_VALUE: Final = f"iif({is_document('?4')}, cast(?3 as text), ?3)"
"""A document is kept as readable text, what a layer or a codec of its own made as a BLOB. A string instead of the bytes
would be made of them only to be made bytes again.
"""
_INSERT: Final = f"insert into pm_kv values(?1, ?2, {_VALUE}, ?4, ?5, ?5, ?6, ?7) on conflict do update set "
_REPLACED: Final = "value = excluded.value, type = ?4, updated_at = ?5, expires_at = ?6, version = ?7, created_at = "
_PUT: Final = _INSERT + _REPLACED + "iif(expires_at <= ?5, ?5, created_at)"
_CREATE: Final = _INSERT + _REPLACED + "?5 where expires_at <= ?5"
_UPDATE: Final = (
    f"update pm_kv set value = {_VALUE}, type = ?4, updated_at = ?5, version = ?6 "
    "where namespace = ?1 and key = ?2 and (expires_at is null or expires_at > ?5)"
)
_REPLACE: Final = (
    f"update pm_kv set value = {_VALUE}, type = ?4, updated_at = ?5, expires_at = ?6, version = ?7 "
    "where namespace = ?1 and key = ?2 and version = ?8 and (expires_at is null or expires_at > ?5)"
)
_EMPTY: Final = "update pm_kv set value = '', type = '' where namespace = ? and key = ?"
_LARGE: Final = 65_536
_TOUCH: Final = f"update pm_kv set expires_at = ? where namespace = ? and key = ? and {_LIVE}"
_DELETE: Final = "delete from pm_kv where namespace = ? and key = ? returning expires_at"
_RANGE: Final = "namespace = ?1 and key >= ?2 and key < ?3"
_COUNT: Final = (
    f"select (select count(*) from pm_kv where {_RANGE}) - "
    f"(select count(*) from pm_kv indexed by pm_kv_expires where expires_at <= ?4 and {_RANGE})"
)
"""Both parts read an index alone: the records themselves would be fetched one by one, wherever they are."""


class SqliteKV:
    """One namespace of `pm_kv`. Single statements need no savepoint: SQLite makes each atomic."""

    features = KVFeatures()

    def __init__(self, runner: Runner, clock: Clock, namespace: str) -> None:
        self._runner, self._clock, self._namespace = runner, clock, namespace
        self._point = runner.point

    async def get(self, key: str, /) -> tuple[bytes, str] | None:
        row = await self._point(_GET, (self._namespace, key))
        if row is None:
            return None
        body, codec, expires_at = row
        if expires_at is not None and expires_at <= self._clock.now():
            return None
        return body, codec

    async def entry(self, key: str, /) -> Record | None:
        row = await self._point(_ENTRY, (self._namespace, key, self._clock.now()))
        return None if row is None else _record(row)

    async def get_many(self, keys: Sequence[str], /) -> dict[str, tuple[bytes, str]]:
        row = (self._namespace, encode_json(list(keys)).decode(), self._clock.now())
        found: list[Any] = await self._runner.read(lambda c: c.execute(_GET_MANY, row).fetchall())
        return {key: (body, codec) for key, body, codec in found}

    async def put(self, key: str, body: bytes, codec: str, /, *, version: int, expires_at: int | None) -> None:
        row = (self._namespace, key, body, codec, self._clock.now(), expires_at, version)
        if len(body) < _LARGE:
            await self._runner.write(lambda c: c.execute(_PUT, row) and None, savepoint=False)
        else:
            await self._runner.write(lambda c: _put_rows(c, [row]))

    async def put_many(self, items: Sequence[Item], /) -> None:
        namespace, now = self._namespace, self._clock.now()
        rows = [(namespace, key, body, codec, now, until, version) for key, body, codec, version, until in items]
        await self._runner.write(lambda c: _put_rows(c, rows))

    async def create(self, key: str, body: bytes, codec: str, /, *, version: int, expires_at: int | None) -> bool:
        row = (self._namespace, key, body, codec, self._clock.now(), expires_at, version)
        return await self._changed(_CREATE, row)

    async def update(self, key: str, body: bytes, codec: str, /, *, version: int) -> bool:
        return await self._changed(_UPDATE, (self._namespace, key, body, codec, self._clock.now(), version))

    async def replace(
        self, key: str, body: bytes, codec: str, /, *, expected: int, version: int, expires_at: int | None
    ) -> bool:
        row = (self._namespace, key, body, codec, self._clock.now(), expires_at, version, expected)
        return await self._changed(_REPLACE, row)

    async def delete(self, key: str, /) -> bool:
        return await self.delete_many([key]) == 1

    async def delete_many(self, keys: Sequence[str], /) -> int:
        namespace, now = self._namespace, self._clock.now()

        def delete(connection: apsw.Connection) -> int:
            removed = 0
            for key in keys:
                gone: Any = connection.execute(_DELETE, (namespace, key)).fetchall()
                for (expires_at,) in gone:
                    if expires_at is None or expires_at > now:
                        removed += 1
                    else:
                        _changes.had_expired(connection, namespace, key)
            return removed

        return await self._runner.write(delete, savepoint=len(keys) > 1)

    async def increment(self, key: str, delta: int, /, *, version: int) -> int:
        namespace, now = self._namespace, self._clock.now()

        def add(connection: apsw.Connection) -> int:
            row = connection.execute(_ENTRY, (namespace, key, now)).fetchall()
            value = _integer(row[0]) + delta if row else delta
            if not -MAX_INTEGER - 1 <= value <= MAX_INTEGER:
                raise StorageDataError("the result is beyond 64 bits", field="delta")
            expires_at = row[0][5] if row else None
            connection.execute(_PUT, (namespace, key, str(value), "json", now, expires_at, version))
            return value

        return await self._runner.write(add)

    async def touch(self, key: str, /, *, expires_at: int | None) -> bool:
        return await self._changed(_TOUCH, (expires_at, self._namespace, key, self._clock.now()))

    async def page(self, prefix: str, after: str | None, limit: int, /) -> Page[tuple[str, Record]]:
        start = prefix if after is None else max(prefix, after + "\x00")
        row = (self._namespace, start, key_bound(prefix), self._clock.now(), limit)
        query = f"select key, {_COLUMNS} from pm_kv where {_RANGE} and {_LIVE} order by key limit ?"
        rows: list[tuple[Any, ...]] = await self._runner.read(lambda c: c.execute(query, row).fetchall())
        return Page([(r[0], _record(r[1:])) for r in rows], rows[-1][0] if len(rows) == limit else None)

    async def count(self, prefix: str, /) -> int:
        row = (self._namespace, prefix, key_bound(prefix), self._clock.now())
        return int(await self._runner.read(lambda c: c.execute(_COUNT, row).get))

    async def clear(self) -> int:
        namespace, now = self._namespace, self._clock.now()

        def clear(connection: apsw.Connection) -> int:
            live = connection.execute(_COUNT, (namespace, "", key_bound(""), now)).get
            logged = _changes.newest(connection)
            connection.execute("delete from pm_kv where namespace = ?", (namespace,))
            _changes.cleared(connection, logged)
            return int(live)

        return await self._runner.write(clear)

    async def _changed(self, statement: str, row: tuple[Any, ...]) -> bool:
        def run(connection: apsw.Connection) -> bool:
            connection.execute(statement, row)
            return connection.changes() > 0

        return await self._runner.write(run, savepoint=False)


def key_bound(prefix: str) -> str | bytes:
    """What is above every key with the prefix, and below all others that are greater: SQLite puts bytes behind all text."""
    return prefix_end(prefix) or b""


def _put_rows(connection: apsw.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Put, freeing the pages of large old values first, so that the new ones take them.

    SQLite by itself would take other pages and then write those, too, to wipe them. Not where changes are logged,
    which would be told of twice.
    """
    large = [row[:2] for row in rows if len(row[2]) >= _LARGE]
    if large and _changes.newest(connection) is None:
        connection.executemany(_EMPTY, large)
    connection.executemany(_PUT, rows)


def _record(row: tuple[Any, ...]) -> Record:
    return Record(*row)


def _integer(row: tuple[Any, ...]) -> int:
    if row[1] != "json" or not row[0].removeprefix(b"-").isdigit():
        raise StorageDataError("the stored value is not an integer", field="key")
    return int(row[0])
