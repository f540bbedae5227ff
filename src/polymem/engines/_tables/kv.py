"""Key-value records in a dict (KV-1 to KV-4)."""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from polymem.contracts.kv import Item, KVFeatures, Record
from polymem.core.page import Page
from polymem.engines._tables.expiring import ExpiringTable, is_live
from polymem.engines._tables.state import page_of, starting
from polymem.engines._tables.views import View
from polymem.errors import StorageDataError

_INTEGER: Final = re.compile(rb"-?(0|[1-9][0-9]{0,18})")
_LOWEST, _HIGHEST = -(2**63), 2**63 - 1


class KVTable(ExpiringTable[str, Record]):
    """Records by key."""


class TableKV:
    """Each operation is atomic: it never awaits between reading and writing."""

    __slots__ = ("_namespace", "_view", "features")

    def __init__(self, view: View, namespace: str, features: KVFeatures) -> None:
        self._view = view
        self._namespace = namespace
        self.features = features

    async def get(self, key: str, /) -> tuple[bytes, str] | None:
        record = self._live(key)
        return None if record is None else record[:2]

    async def entry(self, key: str, /) -> Record | None:
        return self._live(key)

    async def get_many(self, keys: Sequence[str], /) -> dict[str, tuple[bytes, str]]:
        found = ((key, self._live(key)) for key in keys)
        return {key: record[:2] for key, record in found if record is not None}

    async def put(self, key: str, body: bytes, codec: str, /, *, version: int, expires_at: int | None) -> None:
        await self._view.writable()
        self._write(key, body, codec, version, expires_at)

    async def put_many(self, items: Sequence[Item], /) -> None:
        await self._view.writable()
        for item in items:
            self._write(*item)

    async def create(self, key: str, body: bytes, codec: str, /, *, version: int, expires_at: int | None) -> bool:
        await self._view.writable()
        if self._live(key) is not None:
            return False
        self._write(key, body, codec, version, expires_at)
        return True

    async def update(self, key: str, body: bytes, codec: str, /, *, version: int) -> bool:
        await self._view.writable()
        present = self._live(key)
        if present is None:
            return False
        self._write(key, body, codec, version, present.expires_at)
        return True

    async def replace(
        self, key: str, body: bytes, codec: str, /, *, expected: int, version: int, expires_at: int | None
    ) -> bool:
        await self._view.writable()
        present = self._live(key)
        if present is None or present.version != expected:
            return False
        self._write(key, body, codec, version, expires_at)
        return True

    async def delete(self, key: str, /) -> bool:
        return await self.delete_many((key,)) == 1

    async def delete_many(self, keys: Sequence[str], /) -> int:
        await self._view.writable()
        if self._table() is None:
            return 0
        table, now = self._view.table(KVTable, self._namespace), self._view.clock.now()
        return sum(self._remove(table, key, now) for key in keys)

    async def increment(self, key: str, delta: int, /, *, version: int) -> int:
        await self._view.writable()
        present = self._live(key)
        value = delta + (0 if present is None else _integer(present))
        if not _LOWEST <= value <= _HIGHEST:
            raise StorageDataError("the result is beyond 64 bits", field="delta")
        expires_at = None if present is None else present.expires_at
        self._write(key, b"%d" % value, "json", version, expires_at)
        return value

    async def touch(self, key: str, /, *, expires_at: int | None) -> bool:
        await self._view.writable()
        present = self._live(key)
        if present is None:
            return False
        self._view.table(KVTable, self._namespace).put(key, present._replace(expires_at=expires_at))
        self._view.note("put", self._namespace, key)
        return True

    async def page(self, prefix: str, after: str | None, limit: int, /) -> Page[tuple[str, Record]]:
        return page_of(self._records(prefix, after), limit, lambda item: item[0])

    async def count(self, prefix: str, /) -> int:
        table = self._table()
        if table is not None and not prefix:
            return table.held(self._view.clock.now())
        return sum(1 for _ in self._records(prefix, None))

    async def clear(self) -> int:
        await self._view.writable()
        table = self._view.drop(KVTable, self._namespace)
        if table is None or not table.rows:
            return 0
        self._view.note("clear", self._namespace)
        return table.held(self._view.clock.now())

    def _table(self) -> KVTable | None:
        return self._view.find(KVTable, self._namespace)

    def _live(self, key: str) -> Record | None:
        table = self._view.find(KVTable, self._namespace)
        record = None if table is None else table.rows.get(key)
        if record is None or record.expires_at is None:  # most never expire: the clock need not be asked
            return record
        return record if is_live(record, self._view.clock.now()) else None

    def _write(self, key: str, body: bytes, codec: str, version: int, expires_at: int | None) -> None:
        table, now = self._view.table(KVTable, self._namespace), self._view.clock.now()
        present = table.live(key, now)
        created_at = now if present is None else present.created_at
        table.put(key, Record(body, codec, version, created_at, now, expires_at))
        if self._view.logs:
            self._view.note("put", self._namespace, key)

    def _remove(self, table: KVTable, key: str, now: int) -> bool:
        """Whether the record was there for its readers."""
        record = table.pop(key)
        if record is None:
            return False
        live = is_live(record, now)
        self._view.note("delete" if live else "expire", self._namespace, key)
        return live

    def _records(self, prefix: str, after: str | None) -> Iterator[tuple[str, Record]]:
        table, now = self._table(), self._view.clock.now()
        if table is not None:
            records = ((key, table.live(key, now)) for key in starting(table.keys(), prefix, after))
            yield from ((key, record) for key, record in records if record is not None)


def _integer(record: Record) -> int:
    if record.codec != "json" or not _INTEGER.fullmatch(record.body):
        raise StorageDataError("the stored value is not an integer of 64 bits", field="key")
    return int(record.body)
