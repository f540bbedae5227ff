"""Key-value records in the file (KV-1 to KV-4, KV-6)."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from polymem.contracts.kv import Item, KVFeatures
from polymem.engines._tables.kv import TableKV
from polymem.engines._tables.views import View
from polymem.engines.json_file._saver import Saver

R = TypeVar("R")


class JsonFileKV(TableKV):
    """Reads what is saved; a write returns once it is. Inside a transaction, and without autosave, it is a `TableKV`."""

    __slots__ = ("_saver",)

    def __init__(self, view: View, namespace: str, features: KVFeatures, saver: Saver) -> None:
        super().__init__(view, namespace, features)
        self._saver = saver

    async def put(self, key: str, body: bytes, codec: str, /, *, version: int, expires_at: int | None) -> None:
        await self._save(lambda kv: kv.put(key, body, codec, version=version, expires_at=expires_at))

    async def put_many(self, items: Sequence[Item], /) -> None:
        await self._save(lambda kv: kv.put_many(items))

    async def create(self, key: str, body: bytes, codec: str, /, *, version: int, expires_at: int | None) -> bool:
        return await self._save(lambda kv: kv.create(key, body, codec, version=version, expires_at=expires_at))

    async def update(self, key: str, body: bytes, codec: str, /, *, version: int) -> bool:
        return await self._save(lambda kv: kv.update(key, body, codec, version=version))

    async def replace(
        self, key: str, body: bytes, codec: str, /, *, expected: int, version: int, expires_at: int | None
    ) -> bool:
        return await self._save(
            lambda kv: kv.replace(key, body, codec, expected=expected, version=version, expires_at=expires_at)
        )

    async def delete_many(self, keys: Sequence[str], /) -> int:
        return await self._save(lambda kv: kv.delete_many(keys))

    async def increment(self, key: str, delta: int, /, *, version: int) -> int:
        return await self._save(lambda kv: kv.increment(key, delta, version=version))

    async def touch(self, key: str, /, *, expires_at: int | None) -> bool:
        return await self._save(lambda kv: kv.touch(key, expires_at=expires_at))

    async def clear(self) -> int:
        return await self._save(lambda kv: kv.clear())

    async def _save(self, operation: Callable[[TableKV], Awaitable[R]]) -> R:
        return await self._saver.write(lambda view: operation(TableKV(view, self._namespace, self.features)))
