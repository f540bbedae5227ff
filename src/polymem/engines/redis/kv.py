"""Key-value records: one Redis string each, in order by an index beside them (KV-10)."""

from collections.abc import Sequence
from typing import Any, Final

from polymem.contracts.kv import Item, KVFeatures, Record
from polymem.core.page import Page
from polymem.engines.redis import _record
from polymem.engines.redis._batches import Write
from polymem.engines.redis._keys import Names, names
from polymem.engines.redis._scripts import CLEAR, COUNT, INCREMENT, TOUCH, WRITE_IF
from polymem.engines.redis._server import Server, raised
from polymem.errors import StorageDataError

_LARGEST_BATCH: Final = 100_000
_CHUNK: Final = 1000
"""Keys of one MGET, and of one step of `clear`, so that the server is never busy for long."""
_PAST_PREFIX: Final = b"\xff"
"""Above every character of UTF-8."""


class RedisKV:
    """The records of one namespace. What has expired is hidden by the client's clock and removed by the server."""

    def __init__(self, server: Server, prefix: str, namespace: str) -> None:
        self._server, self._namespace = server, namespace
        self._names: Names = names(prefix, namespace)
        self._prefix = self._names.records

    @property
    def features(self) -> KVFeatures:
        return KVFeatures(durable=self._server.durable)

    async def get(self, key: str, /) -> tuple[bytes, str] | None:
        stored = await self._server.reads.submit((self._names, self._prefix + key.encode()))
        return _record.value(stored, self._server.clock.now())

    async def entry(self, key: str, /) -> Record | None:
        stored = await self._server.reads.submit((self._names, self._prefix + key.encode()))
        return self._live(stored)

    async def get_many(self, keys: Sequence[str], /) -> dict[str, tuple[bytes, str]]:
        wanted = list(dict.fromkeys(keys))
        stored = await self._stored([key.encode() for key in wanted])
        now = self._server.clock.now()
        found = ((key, _record.value(one, now)) for key, one in zip(wanted, stored, strict=True))
        return {key: value for key, value in found if value is not None}

    def put(self, key: str, body: bytes, codec: str, /, *, version: int, expires_at: int | None) -> Any:
        """No coroutine of its own: that would be felt."""
        server = self._server
        rest = _record.rest(body, codec, version, server.clock.now(), expires_at)
        write = self._names, (self._prefix + key.encode(),), (rest,)
        return server.writes.submit(write) if self._namespace in server.known else self._write_first(write)

    async def _write_first(self, write: Write) -> None:
        await self._server.register(self._namespace)
        await self._server.writes.submit(write)

    async def put_many(self, items: Sequence[Item], /) -> None:
        if len(items) > _LARGEST_BATCH:
            raise StorageDataError(
                f"expected at most {_LARGEST_BATCH} items, since all are written at once", field="items"
            )
        await self._server.register(self._namespace)
        now = self._server.clock.now()
        keys = [self._prefix + item[0].encode() for item in items]
        rests = [_record.rest(body, codec, version, now, until) for _, body, codec, version, until in items]
        await self._server.writes.submit((self._names, keys, rests))

    async def create(self, key: str, body: bytes, codec: str, /, *, version: int, expires_at: int | None) -> bool:
        return await self._write_if(b"-", key, body, codec, version, expires_at)

    async def update(self, key: str, body: bytes, codec: str, /, *, version: int) -> bool:
        return await self._write_if(b"+", key, body, codec, version, None)

    async def replace(
        self, key: str, body: bytes, codec: str, /, *, expected: int, version: int, expires_at: int | None
    ) -> bool:
        if not 0 <= expected < 2**63:
            return False  # no version of ours
        return await self._write_if(_record.instant(expected), key, body, codec, version, expires_at)

    async def delete(self, key: str, /) -> bool:
        return await self.delete_many([key]) > 0

    async def delete_many(self, keys: Sequence[str], /) -> int:
        unique = [self._prefix + key.encode() for key in dict.fromkeys(keys)]
        if not unique:
            return 0
        return await self._server.writes.submit((self._names, unique, [b""] * len(unique)))

    async def increment(self, key: str, delta: int, /, *, version: int) -> int:
        await self._server.register(self._namespace)
        now = self._server.clock.now()
        head = _record.pack(Record(b"", "json", version, now, now, None))
        answer = await self._server.run(
            INCREMENT, [*self._keys(key), self._names.scratch], [*self._server.basis(self._names, now), delta, head]
        )
        if isinstance(answer, list):
            raise _not_counted(answer[0])
        return int(answer)

    async def touch(self, key: str, /, *, expires_at: int | None) -> bool:
        until = _record.instant(_record.expiry(expires_at))
        basis = self._server.basis(self._names, self._server.clock.now())
        return bool(await self._server.run(TOUCH, self._keys(key), [*basis, until]))

    async def page(self, prefix: str, after: str | None, limit: int, /) -> Page[tuple[str, Record]]:
        start = prefix.encode()
        low = b"(" + after.encode() if after is not None and after >= prefix else b"[" + start
        high = b"(" + start + _PAST_PREFIX if prefix else b"+"
        items: list[tuple[str, Record]] = []
        while True:
            members: list[bytes] = await self._server.call(
                "ZRANGEBYLEX", self._names.keys, low, high, "LIMIT", 0, limit - len(items)
            )
            items += await self._records(members)
            if len(members) < limit - len(items) or not members:
                return Page(items, None)
            low = b"(" + members[-1]
            if len(items) >= limit:
                return Page(items, members[-1].decode())

    async def count(self, prefix: str, /) -> int:
        now = self._server.clock.now()
        keys = [self._names.keys, self._names.expiries]
        return int(await self._server.run(COUNT, keys, [now, prefix], finish=False))

    async def clear(self) -> int:
        now, removed, left = self._server.clock.now(), 0, 1
        while left:
            live, left = await self._server.run(CLEAR, self._indexes(), [now, self._prefix, _CHUNK, removed])
            removed += live
        return removed

    async def _write_if(  # noqa: PLR0917 - a record and what must hold
        self, condition: bytes, key: str, body: bytes, codec: str, version: int, expires_at: int | None
    ) -> bool:
        await self._server.register(self._namespace)
        now = self._server.clock.now()
        rest = _record.rest(body, codec, version, now, expires_at)
        arguments = [*self._server.basis(self._names, now), condition, _record.instant(now), rest]
        (answer,) = await self._server.write((WRITE_IF, self._keys(key), arguments))
        return bool(raised(answer))

    def _keys(self, key: str) -> list[bytes]:
        return [*self._indexes(), self._prefix + key.encode()]

    def _indexes(self) -> list[bytes]:
        return [self._names.keys, self._names.expiries, self._names.log]

    async def _records(self, members: Sequence[bytes]) -> list[tuple[str, Record]]:
        """The live records of keys; one that was evicted is missing."""
        found = ((member, self._live(one)) for member, one in zip(members, await self._stored(members), strict=True))
        return [(member.decode(), record) for member, record in found if record is not None]

    async def _stored(self, members: Sequence[bytes]) -> list[bytes | None]:
        chunks = [members[at : at + _CHUNK] for at in range(0, len(members), _CHUNK)]
        replies: list[Any] = await self._server.calls(
            [("MGET", *(self._prefix + member for member in chunk)) for chunk in chunks]
        )
        return [one for reply in replies for one in reply]

    def _live(self, stored: bytes | None) -> Record | None:
        record = _record.unpack(stored)
        if record is None or (record.expires_at is not None and record.expires_at <= self._server.clock.now()):
            return None
        return record


def _not_counted(why: bytes) -> StorageDataError:
    if why == b"overflow":
        return StorageDataError("the result is beyond 64 bits", field="delta")
    return StorageDataError("the stored value is not an integer of 64 bits", field="key")
