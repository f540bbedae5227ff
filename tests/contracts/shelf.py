"""A blob driver in two dictionaries, for tests of what is above it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from polymem.contracts.blobs import BlobFeatures, BlobInfo
from polymem.core.clock import ManualClock
from polymem.core.page import Page
from polymem.errors import StorageNotFoundError

CLOCK = ManualClock()
PART = 4


class Shelf:
    """A blob driver in two dictionaries, with parts of four bytes and a hook before every call."""

    features = BlobFeatures(part_bytes=PART)

    def __init__(self, before: Callable[[str], Awaitable[None]] | None = None) -> None:
        self.before = before
        self.uploads: dict[str, list[bytes]] = {}
        self.contents: dict[str, bytes] = {}
        self.blobs: dict[str, BlobInfo] = {}
        self.calls: list[str] = []

    async def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.before is not None:
            await self.before(name)

    async def begin(self, container: str, /) -> str:
        await self._called("begin")
        upload = f"upload{len(self.calls)}"
        self.uploads[upload] = []
        return upload

    async def write_part(self, container: str, upload: str, number: int, data: bytes, /) -> None:
        await self._called("write_part")
        assert number == len(self.uploads[upload])
        assert not self.uploads[upload] or len(self.uploads[upload][-1]) == PART
        self.uploads[upload].append(data)

    async def commit(self, container: str, upload: str, info: BlobInfo, /) -> None:
        await self._called("commit")
        self.contents[info.version] = b"".join(self.uploads.pop(upload))
        self.blobs[info.key] = info

    async def abort(self, container: str, upload: str, /) -> None:
        await self._called("abort")
        self.uploads.pop(upload, None)

    async def info(self, container: str, key: str, /) -> BlobInfo | None:
        await self._called("info")
        return self.blobs.get(key)

    async def read(self, container: str, version: str, start: int, length: int, /) -> bytes:
        await self._called("read")
        assert 0 < length <= PART
        if version not in {info.version for info in self.blobs.values()} or version not in self.contents:
            raise StorageNotFoundError("gone")
        return self.contents[version][start : start + length]

    async def copy(self, container: str, source: str, info: BlobInfo, /) -> bool:
        await self._called("copy")
        found = self.blobs.get(source)
        if found is None or found.checksum != info.checksum:
            return False
        self.contents[info.version] = self.contents[found.version]
        self.blobs[info.key] = info
        return True

    async def delete(self, container: str, key: str, /) -> bool:
        return self.blobs.pop(key, None) is not None

    async def page(self, container: str, prefix: str, after: str | None, limit: int, /) -> Page[BlobInfo]:
        keys = sorted(key for key in self.blobs if key.startswith(prefix) and key > (after or ""))[:2]
        return Page([self.blobs[key] for key in keys], keys[-1] if keys else None)

    async def containers(self, after: str | None, limit: int, /) -> Page[str]:
        raise NotImplementedError

    async def clear(self, container: str, /) -> int:
        count = len(self.blobs)
        self.blobs.clear()
        return count


async def in_chunks(*chunks: Any) -> AsyncIterator[Any]:
    for chunk in chunks:
        await asyncio.sleep(0)
        yield chunk


async def collected(stream: AsyncIterator[bytes]) -> bytes:
    return b"".join([part async for part in stream])
