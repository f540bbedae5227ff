"""Streamed binary objects with checksums (BLO-1)."""

import asyncio
import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, Final, NamedTuple, Protocol, final

from polymem.contracts._input import PAGE, json_object, stream
from polymem.core.cancellation import to_the_end
from polymem.core.clock import Clock, to_datetime
from polymem.core.ids import uuid7
from polymem.core.page import Page
from polymem.core.text import check_key, check_limit, check_name, check_text
from polymem.errors import StorageCorruptError, StorageDataError, StorageError, StorageNotFoundError

PART_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class BlobFeatures:
    """What a blobs cell can do."""

    durable: bool = True
    part_bytes: int = PART_BYTES
    """The size of one stored part; `write_part` takes exactly this much, the last part less."""
    ordered: bool = True
    """`scan` lists blobs in order of key."""


class BlobInfo(NamedTuple):
    """A blob as a driver keeps it: `created_at` in microseconds, `version` the id of its upload."""

    key: str
    size: int
    checksum: str
    content_type: str
    metadata: dict[str, Any]
    created_at: int
    version: str


class BlobDriver(Protocol):
    """The blob containers of one namespace, each under its name. A blob is visible after `commit`, whole."""

    @property
    def features(self) -> BlobFeatures: ...

    async def begin(self, container: str, /) -> str:
        """Start an upload; its opaque id. Uploads not committed within a day are swept."""
        ...

    async def write_part(self, container: str, upload: str, number: int, data: bytes, /) -> None:
        """Parts count from 0 without gaps."""
        ...

    async def commit(self, container: str, upload: str, info: BlobInfo, /) -> None:
        """Make the upload the blob `info.key`, replacing an earlier one."""
        ...

    async def abort(self, container: str, upload: str, /) -> None:
        """Remove an upload and its parts; harmless when it is gone or was committed."""
        ...

    async def info(self, container: str, key: str, /) -> BlobInfo | None: ...

    async def read(self, container: str, version: str, start: int, length: int, /) -> bytes:
        """Bytes [start, start + length) of a version; `StorageNotFoundError` once it is replaced or gone."""
        ...

    async def copy(self, container: str, source: str, info: BlobInfo, /) -> bool:
        """Copy the blob `source` to `info.key`; False where there is none of that name and `info.checksum`.

        `info.version` is new, everything else is what `info` says of the source.
        """
        ...

    async def delete(self, container: str, key: str, /) -> bool: ...

    async def page(self, container: str, prefix: str, after: str | None, limit: int, /) -> Page[BlobInfo]:
        """Blobs whose keys start with `prefix`, in key order."""
        ...

    async def clear(self, container: str, /) -> int: ...

    async def containers(self, after: str | None, limit: int, /) -> Page[str]:
        """The names of the containers that hold a blob, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Blob:
    """What is known of a blob."""

    key: str
    size: int
    """Bytes."""
    checksum: str
    """SHA-256, in hex."""
    content_type: str
    metadata: dict[str, Any]
    created_at: datetime
    version: str
    """Changes with every put and copy."""


Source = bytes | bytearray | memoryview | AsyncIterable[bytes] | BinaryIO
"""Bytes, an asynchronous stream of them, or a file opened for reading bytes (read in a thread)."""


@final
class Blobs:
    """What users hold: `store.blobs(name)`, one container of binary objects.

    A blob appears whole, once `put` has returned, and is read whole or in ranges. Bad input is a
    `StorageDataError` that names the field.
    """

    def __init__(self, driver: BlobDriver, clock: Clock, name: str = "default") -> None:
        self._driver, self._clock, self._name = driver, clock, check_name(name, field="name")

    @property
    def features(self) -> BlobFeatures:
        return self._driver.features

    async def put(
        self,
        key: str,
        source: Source,
        *,
        metadata: Mapping[str, Any] | None = None,
        content_type: str = "application/octet-stream",
    ) -> Blob:
        """Store a blob, replacing an earlier one; only one part of it is held in memory.

        When it fails or is cancelled, the earlier blob stays and nothing else is left. What `source` raises
        passes untouched.
        """
        described = json_object(metadata, field="metadata")
        check_key(key)
        check_key(content_type, field="content_type")
        upload = _Upload(self._driver, self._name)
        try:
            await to_the_end(upload.begin())
            async for part in _parts(_chunks(source), self._driver.features.part_bytes):
                await to_the_end(upload.write(part))
            info = upload.info(key, content_type, described, self._clock.now())
            await to_the_end(upload.commit(info))
        except BaseException:
            await to_the_end(upload.abort())
            raise
        return _blob(info)

    async def get(self, key: str) -> bytes | None:
        """The whole blob, None where there is none; `StorageCorruptError` when it is not what was put."""
        missed = None
        while (info := await self._driver.info(self._name, check_key(key))) is not None:
            try:
                return b"".join([part async for part in self._verified(info)])
            except StorageNotFoundError:
                # replaced between the two calls: read the new one; if it is the same one, its bytes are lost
                if info.version == missed:
                    raise StorageCorruptError("the bytes of a blob are missing") from None
                missed = info.version
        return None

    async def stream(self, key: str) -> AsyncIterator[bytes]:
        """The blob part by part; after the last one `StorageCorruptError` when it is not what was put.

        `StorageNotFoundError` where there is none, or when it is replaced or deleted meanwhile.
        """
        async for part in self._verified(await self._found(key)):
            yield part

    async def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """At most `length` bytes from `start` (None: to the end), not verified; b"" from beyond the end.

        `StorageNotFoundError` where there is no such blob.
        """
        check_limit(start, field="start")
        if length is not None:
            check_limit(length, field="length")
        info = await self._found(key)
        end = info.size if length is None else min(start + length, info.size)
        return b"".join([part async for part in self._range(info, start, end)])

    async def info(self, key: str) -> Blob | None:
        """What is known of a blob, None where there is none."""
        found = await self._driver.info(self._name, check_key(key))
        return None if found is None else _blob(found)

    async def exists(self, key: str) -> bool:
        return await self.info(key) is not None

    async def delete(self, key: str) -> bool:
        """Remove; whether it was there."""
        return await self._driver.delete(self._name, check_key(key))

    async def copy(self, source: str, target: str) -> Blob:
        """Copy a blob with all that is known of it to another key, replacing what is there.

        `StorageNotFoundError` where there is no such blob.
        """
        check_key(source, field="source")
        check_key(target, field="target")
        while (found := await self._driver.info(self._name, source)) is not None:
            info = found._replace(key=target, created_at=self._clock.now(), version=uuid7())
            if await self._driver.copy(self._name, source, info):
                return _blob(info)
        raise StorageNotFoundError("no such blob", field="source")

    def scan(self, prefix: str = "") -> AsyncIterator[Blob]:
        """What is known of the blobs whose keys start with `prefix`, in order of key; no snapshot."""
        check_text(prefix, field="prefix")

        async def page(after: str | None) -> Page[Blob]:
            found = await self._driver.page(self._name, prefix, after, PAGE)
            return Page([_blob(info) for info in found.items], found.after)

        return stream(page)

    async def count(self, prefix: str = "") -> int:
        """How many keys start with `prefix`; takes as long as listing them."""
        return sum([1 async for _ in self.scan(prefix)])

    async def clear(self) -> int:
        """Remove every blob of the container; how many there were."""
        return await self._driver.clear(self._name)

    async def _found(self, key: str) -> BlobInfo:
        info = await self._driver.info(self._name, check_key(key))
        if info is None:
            raise StorageNotFoundError("no such blob", field="key")
        return info

    async def _verified(self, info: BlobInfo) -> AsyncIterator[bytes]:
        digest = hashlib.sha256()
        async for part in self._range(info, 0, info.size):
            digest.update(part)
            yield part
        if digest.hexdigest() != info.checksum:
            raise StorageCorruptError("a blob is not what was put: its checksum differs")

    async def _range(self, info: BlobInfo, start: int, end: int) -> AsyncIterator[bytes]:
        step = self._driver.features.part_bytes
        for at in range(start, end, step):
            wanted = min(step, end - at)
            part = await self._driver.read(self._name, info.version, at, wanted)
            if len(part) != wanted:
                raise StorageCorruptError("a blob is shorter than what was put")
            yield part


class _Upload:
    """A put under way."""

    def __init__(self, driver: BlobDriver, container: str) -> None:
        self.id = ""
        self._driver, self._container = driver, container
        self._number = self._size = 0
        self._digest = hashlib.sha256()

    async def begin(self) -> None:
        self.id = await self._driver.begin(self._container)

    async def write(self, part: bytes) -> None:
        await self._driver.write_part(self._container, self.id, self._number, part)
        self._number += 1
        self._size += len(part)
        self._digest.update(part)

    async def commit(self, info: BlobInfo) -> None:
        await self._driver.commit(self._container, self.id, info)
        self.id = ""

    async def abort(self) -> None:
        """What cannot be removed now is swept within a day; the failure that led here is to be reported."""
        if self.id:
            with suppress(StorageError):
                await self._driver.abort(self._container, self.id)

    def info(self, key: str, content_type: str, metadata: dict[str, Any], now: int) -> BlobInfo:
        return BlobInfo(key, self._size, self._digest.hexdigest(), content_type, metadata, now, self.id)


async def _chunks(source: Source) -> AsyncIterator[bytes]:
    if isinstance(source, (bytes, bytearray, memoryview)):
        yield bytes(source)
    elif isinstance(source, AsyncIterable):
        async for chunk in source:
            yield _bytes(chunk)
    elif callable(getattr(source, "read", None)):
        while chunk := _bytes(await asyncio.to_thread(source.read, PART_BYTES)):
            yield chunk
    else:
        raise StorageDataError("expected bytes, an asynchronous iterable of bytes or a binary file", field="source")


def _bytes(chunk: object) -> bytes:
    if isinstance(chunk, (bytes, bytearray, memoryview)):
        return bytes(chunk)
    raise StorageDataError(f"expected bytes, got {type(chunk).__name__}", field="source")


async def _parts(chunks: AsyncIterator[bytes], size: int) -> AsyncIterator[bytes]:
    """The same bytes in pieces of `size`, the last one shorter."""
    held = bytearray()
    async for chunk in chunks:
        held += chunk
        whole = len(held) - len(held) % size
        for start in range(0, whole, size):
            yield bytes(held[start : start + size])
        del held[:whole]
    if held:
        yield bytes(held)


def _blob(info: BlobInfo) -> Blob:
    return Blob(
        info.key,
        info.size,
        info.checksum,
        info.content_type,
        info.metadata,
        to_datetime(info.created_at),
        info.version,
    )
