"""The cell: how this engine keeps the kv contract. No operation awaits, so each is atomic."""

from collections.abc import Sequence

from polymem.contracts.kv import Item, KVFeatures, Record
from polymem.core.clock import Clock
from polymem.core.page import Page
from polymem.errors import StorageDataError
from polymem_log.file import LogFile

LIMIT = 1 << 63


class LogKV:
    """One namespace of the file."""

    features = KVFeatures()

    def __init__(self, file: LogFile, clock: Clock, namespace: str) -> None:
        self._file, self._clock, self._namespace = file, clock, namespace

    async def get(self, key: str, /) -> tuple[bytes, str] | None:
        record = self._live(key)
        return None if record is None else (record.body, record.codec)

    async def entry(self, key: str, /) -> Record | None:
        return self._live(key)

    async def get_many(self, keys: Sequence[str], /) -> dict[str, tuple[bytes, str]]:
        found = {key: self._live(key) for key in keys}
        return {key: (record.body, record.codec) for key, record in found.items() if record is not None}

    async def put(self, key: str, body: bytes, codec: str, /, *, version: int, expires_at: int | None) -> None:
        await self.put_many([(key, body, codec, version, expires_at)])

    async def put_many(self, items: Sequence[Item], /) -> None:
        self._file.write({(self._namespace, item[0]): self._new(*item) for item in items})

    async def create(self, key: str, body: bytes, codec: str, /, *, version: int, expires_at: int | None) -> bool:
        if self._live(key) is not None:
            return False
        await self.put(key, body, codec, version=version, expires_at=expires_at)
        return True

    async def update(self, key: str, body: bytes, codec: str, /, *, version: int) -> bool:
        present = self._live(key)
        if present is None:
            return False
        await self.put(key, body, codec, version=version, expires_at=present.expires_at)
        return True

    async def replace(
        self, key: str, body: bytes, codec: str, /, *, expected: int, version: int, expires_at: int | None
    ) -> bool:
        present = self._live(key)
        if present is None or present.version != expected:
            return False
        await self.put(key, body, codec, version=version, expires_at=expires_at)
        return True

    async def delete(self, key: str, /) -> bool:
        return await self.delete_many([key]) == 1

    async def delete_many(self, keys: Sequence[str], /) -> int:
        live = [key for key in keys if self._live(key) is not None]
        self._file.write({(self._namespace, key): None for key in keys})
        return len(live)

    async def increment(self, key: str, delta: int, /, *, version: int) -> int:
        present = self._live(key)
        value = delta + (0 if present is None else _integer(present))
        if not -LIMIT <= value < LIMIT:
            raise StorageDataError("the result is beyond 64 bits", field="delta")
        expires_at = None if present is None else present.expires_at
        await self.put(key, str(value).encode(), "json", version=version, expires_at=expires_at)
        return value

    async def touch(self, key: str, /, *, expires_at: int | None) -> bool:
        present = self._live(key)
        if present is None:
            return False
        self._file.write({(self._namespace, key): present._replace(expires_at=expires_at)})
        return True

    async def page(self, prefix: str, after: str | None, limit: int, /) -> Page[tuple[str, Record]]:
        found = [(key, record) for key, record in self._all(prefix) if after is None or key > after]
        return Page(found[:limit], found[limit - 1][0] if len(found) > limit else None)

    async def count(self, prefix: str, /) -> int:
        return len(self._all(prefix))

    async def clear(self) -> int:
        live = len(self._all(""))
        self._file.write({place: None for place in self._file.records if place[0] == self._namespace})
        return live

    def _all(self, prefix: str) -> list[tuple[str, Record]]:
        names = [k for n, k in self._file.records if n == self._namespace and k.startswith(prefix)]
        return [(key, record) for key in sorted(names) if (record := self._live(key)) is not None]

    def _live(self, key: str) -> Record | None:
        record = self._file.records.get((self._namespace, key))
        expired = record is not None and record.expires_at is not None and record.expires_at <= self._clock.now()
        return None if expired else record

    def _new(self, key: str, body: bytes, codec: str, version: int, expires_at: int | None) -> Record:
        present, now = self._live(key), self._clock.now()
        return Record(body, codec, version, now if present is None else present.created_at, now, expires_at)


def _integer(record: Record) -> int:
    text = record.body.decode()
    if record.codec != "json" or not text.removeprefix("-").isdecimal() or not -LIMIT <= int(text) < LIMIT:
        raise StorageDataError("the stored value is not a 64-bit integer", field="key")
    return int(text)
