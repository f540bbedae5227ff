"""Key-value records within a transaction."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from polymem.contracts.events import Op
from polymem.contracts.kv import Item, KVFeatures, Record
from polymem.core.page import Page
from polymem.engines.redis import _record
from polymem.engines.redis._keys import names
from polymem.engines.redis._line import Command
from polymem.engines.redis._overlay import Overlay, Place
from polymem.engines.redis._scripts import NOTE, WRITE
from polymem.engines.redis._server import Server
from polymem.engines.redis._staging import in_full
from polymem.errors import StorageDataError

_INTEGER: Final = re.compile(rb"-?(0|[1-9][0-9]{0,18})")
_LOWEST, _HIGHEST = -(2**63), 2**63 - 1
_KIND: Final = "kv"


class OverlayKV:
    """The records of one namespace. Each operation loads what it needs first and then never waits: it is atomic."""

    def __init__(self, server: Server, overlay: Overlay, namespace: str) -> None:
        self._server, self._overlay, self._namespace = server, overlay, namespace
        self._names = names(server.prefix, namespace)

    @property
    def features(self) -> KVFeatures:
        return KVFeatures(durable=self._server.durable)

    async def get(self, key: str, /) -> tuple[bytes, str] | None:
        record = await self.entry(key)
        return None if record is None else (record.body, record.codec)

    async def entry(self, key: str, /) -> Record | None:
        await self._load([key])
        return self._live(key)

    async def get_many(self, keys: Sequence[str], /) -> dict[str, tuple[bytes, str]]:
        await self._load(keys)
        found = ((key, self._live(key)) for key in keys)
        return {key: (record.body, record.codec) for key, record in found if record is not None}

    async def put(self, key: str, body: bytes, codec: str, /, *, version: int, expires_at: int | None) -> None:
        await self.put_many([(key, body, codec, version, expires_at)])

    async def put_many(self, items: Sequence[Item], /) -> None:
        await self._load([item[0] for item in items])
        for item in items:
            self._write(*item)

    async def create(self, key: str, body: bytes, codec: str, /, *, version: int, expires_at: int | None) -> bool:
        await self._load([key])
        if self._live(key) is not None:
            return False
        self._write(key, body, codec, version, expires_at)
        return True

    async def update(self, key: str, body: bytes, codec: str, /, *, version: int) -> bool:
        await self._load([key])
        present = self._live(key)
        if present is None:
            return False
        self._write(key, body, codec, version, present.expires_at)
        return True

    async def replace(
        self, key: str, body: bytes, codec: str, /, *, expected: int, version: int, expires_at: int | None
    ) -> bool:
        await self._load([key])
        present = self._live(key)
        if present is None or present.version != expected:
            return False
        self._write(key, body, codec, version, expires_at)
        return True

    async def delete(self, key: str, /) -> bool:
        return await self.delete_many([key]) > 0

    async def delete_many(self, keys: Sequence[str], /) -> int:
        await self._load(keys)
        return sum([self._remove(key) for key in dict.fromkeys(keys)])

    async def increment(self, key: str, delta: int, /, *, version: int) -> int:
        await self._load([key])
        present = self._live(key)
        value = delta + (0 if present is None else _integer(present))
        if not _LOWEST <= value <= _HIGHEST:
            raise StorageDataError("the result is beyond 64 bits", field="delta")
        self._write(key, b"%d" % value, "json", version, None if present is None else present.expires_at)
        return value

    async def touch(self, key: str, /, *, expires_at: int | None) -> bool:
        await self._load([key])
        present = self._live(key)
        if present is None:
            return False
        self._tell("put", key)
        self._overlay.stage(self._place(key), present._replace(expires_at=expires_at))
        return True

    async def page(self, prefix: str, after: str | None, limit: int, /) -> Page[tuple[str, Record]]:
        keys = [key for key in await self._living(prefix) if after is None or key > after]
        items = [(key, record) for key in keys[:limit] if (record := self._live(key)) is not None]
        return Page(items, keys[limit - 1] if len(keys) > limit > 0 else None)

    async def count(self, prefix: str, /) -> int:
        return len(await self._living(prefix))

    async def clear(self) -> int:
        keys = await self._living("")
        for key in keys:
            self._overlay.stage(self._place(key), None)
        if keys:
            self._tell("clear", "")
        return len(keys)

    def writes(self) -> list[Command]:
        """What commits the staged records."""
        changes = self._overlay.changes(_KIND, self._namespace)
        if not changes:
            return []
        keys = [self._names.records + name.encode() for name in changes]
        records = [b"" if record is None else _record.pack(record) for record in changes.values()]
        told = [
            word for namespace, op, key in self._overlay.journal if namespace == self._namespace for word in (op, key)
        ]
        quiet = replace(self._names, log=self._names.scratch)  # each change is told, not what they come to
        return [
            in_full(WRITE, *self._server.writing([(quiet, keys, records)], whole=True)),
            in_full(NOTE, [self._names.log], told),
        ]

    async def _load(self, keys: Sequence[str]) -> None:
        self._overlay.check()
        missing = [key for key in dict.fromkeys(keys) if self._place(key) not in self._overlay.read]
        if missing:
            stored = [self._names.records + key.encode() for key in missing]
            (bodies,) = await self._overlay.watch(stored, ("MGET", *stored))
            for key, body in zip(missing, bodies, strict=True):
                self._overlay.read.setdefault(self._place(key), _record.unpack(body))

    async def _living(self, prefix: str) -> list[str]:
        await self._load(await self._overlay.listing(self._names.keys))
        return [
            key
            for key in self._overlay.names(_KIND, self._namespace)
            if key.startswith(prefix) and self._live(key) is not None
        ]

    def _tell(self, op: Op, key: str) -> None:
        self._overlay.journal.append((self._namespace, op, key))

    def _place(self, key: str) -> Place:
        return Place(_KIND, self._namespace, key)

    def _live(self, key: str) -> Record | None:
        record: Record | None = self._overlay.see(self._place(key))
        expired = record is not None and record.expires_at is not None and record.expires_at <= self._server.clock.now()
        return None if expired else record

    def _remove(self, key: str) -> bool:
        if self._live(key) is None:
            return False
        self._tell("delete", key)
        self._overlay.stage(self._place(key), None)
        return True

    def _write(self, key: str, body: bytes, codec: str, version: int, expires_at: int | None) -> None:
        now, present = self._server.clock.now(), self._live(key)
        created_at = now if present is None else present.created_at
        self._tell("put", key)
        self._overlay.stage(self._place(key), Record(body, codec, version, created_at, now, expires_at))


def _integer(record: Record) -> int:
    if record.codec != "json" or not _INTEGER.fullmatch(record.body):
        raise StorageDataError("the stored value is not an integer of 64 bits", field="key")
    return int(record.body)
