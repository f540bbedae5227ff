"""Key-value records whose bodies and codec tags are sealed."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from polymem.contracts.kv import MAX_INTEGER, Item, KeyValueDriver, KVFeatures, Record
from polymem.core.page import Page
from polymem.errors import StorageCorruptError, StorageDataError
from polymem.layers._room import Room

TAG: Final = "aes-gcm"
"""The codec tag of what is sealed; the real one is inside."""
VALUE: Final = "value"
_INTEGER: Final = re.compile(rb"-?(0|[1-9][0-9]{0,18})")


class EncryptedKV:
    """One namespace of sealed records; a sealed body holds the codec tag, the key if it is hidden, and the value."""

    def __init__(self, inner: KeyValueDriver, room: Room) -> None:
        self._inner, self._room = inner, room
        self.clear = inner.clear

    @property
    def features(self) -> KVFeatures:
        return replace(self._inner.features, ordered=False) if self._room.hides else self._inner.features

    async def get(self, key: str, /) -> tuple[bytes, str] | None:
        stored = self._stored(key)
        found = await self._inner.get(stored)
        return None if found is None else self._opened(stored, *found)[1:]

    async def entry(self, key: str, /) -> Record | None:
        stored = self._stored(key)
        record = await self._inner.entry(stored)
        return None if record is None else self._record(stored, record)[1]

    async def get_many(self, keys: Sequence[str], /) -> dict[str, tuple[bytes, str]]:
        names = {self._stored(key): key for key in keys}
        found = await self._inner.get_many(list(names))
        return {names[stored]: self._opened(stored, *sealed)[1:] for stored, sealed in found.items()}

    async def put(self, key: str, body: bytes, codec: str, /, *, version: int, expires_at: int | None) -> None:
        await self._inner.put(*self._sealed(key, body, codec), version=version, expires_at=expires_at)

    async def put_many(self, items: Sequence[Item], /) -> None:
        await self._inner.put_many([(*self._sealed(*item[:3]), *item[3:]) for item in items])

    async def create(self, key: str, body: bytes, codec: str, /, *, version: int, expires_at: int | None) -> bool:
        return await self._inner.create(*self._sealed(key, body, codec), version=version, expires_at=expires_at)

    async def update(self, key: str, body: bytes, codec: str, /, *, version: int) -> bool:
        return await self._inner.update(*self._sealed(key, body, codec), version=version)

    async def replace(
        self, key: str, body: bytes, codec: str, /, *, expected: int, version: int, expires_at: int | None
    ) -> bool:
        sealed = self._sealed(key, body, codec)
        return await self._inner.replace(*sealed, expected=expected, version=version, expires_at=expires_at)

    async def delete(self, key: str, /) -> bool:
        return await self._inner.delete(self._stored(key))

    async def delete_many(self, keys: Sequence[str], /) -> int:
        return await self._inner.delete_many([self._stored(key) for key in keys])

    async def increment(self, key: str, delta: int, /, *, version: int) -> int:
        """The engine cannot count what it cannot read: read, add, compare and set, until nobody came between."""
        while True:
            record = await self.entry(key)
            value = delta + (0 if record is None else _integer(record))
            if not -MAX_INTEGER - 1 <= value <= MAX_INTEGER:
                raise StorageDataError("the result is beyond 64 bits", field="delta")
            if await self._count(key, b"%d" % value, record, version):
                return value

    async def touch(self, key: str, /, *, expires_at: int | None) -> bool:
        return await self._inner.touch(self._stored(key), expires_at=expires_at)

    async def page(self, prefix: str, after: str | None, limit: int, /) -> Page[tuple[str, Record]]:
        self._room.check_prefix(prefix)
        page = await self._inner.page(prefix, after, limit)
        return Page([self._record(stored, record) for stored, record in page.items], page.after)

    async def count(self, prefix: str, /) -> int:
        self._room.check_prefix(prefix)
        return await self._inner.count(prefix)

    async def _count(self, key: str, body: bytes, record: Record | None, version: int) -> bool:
        if record is None:
            return await self.create(key, body, "json", version=version, expires_at=None)
        expected, expires_at = record.version, record.expires_at
        return await self.replace(key, body, "json", expected=expected, version=version, expires_at=expires_at)

    def _stored(self, key: str) -> str:
        return self._room.stored(key, VALUE)

    def _sealed(self, key: str, body: bytes, codec: str) -> tuple[str, bytes, str]:
        """Name, body and tag as they are stored; neither tags nor keys hold U+0000."""
        stored = self._stored(key)
        data = b"\0".join((codec.encode(), self._room.kept(key).encode(), body))
        return stored, self._room.seal(data, VALUE, stored), TAG

    def _opened(self, stored: str, body: bytes, tag: str) -> tuple[str, bytes, str]:
        """Name, body and tag as they were given."""
        if tag != TAG:
            raise StorageCorruptError("a stored value was written without encryption", field="key")
        codec, kept, data = self._room.open(body, VALUE, stored).split(b"\0", 2)
        return self._room.shown(stored, kept.decode()), data, codec.decode()

    def _record(self, stored: str, record: Record) -> tuple[str, Record]:
        key, body, codec = self._opened(stored, record.body, record.codec)
        return key, record._replace(body=body, codec=codec)


def resealed(room: Room, stored: str, record: Record) -> bytes | None:
    """The body under the current key; None where it is already, or is not sealed at all."""
    if record.codec != TAG or room.keyring.is_current(record.body):
        return None
    return room.seal(room.open(record.body, VALUE, stored), VALUE, stored)


def _integer(record: Record) -> int:
    if record.codec != "json" or not _INTEGER.fullmatch(record.body):
        raise StorageDataError("the stored value is not an integer of 64 bits", field="key")
    return int(record.body)
