"""Blobs sealed part by part; what is known of them is sealed too.

A part is bound to the upload that wrote it and to its number. A copy shares its parts' bytes with the original, so
each blob keeps, sealed, the upload its parts came from.
"""

import base64
import binascii
import hashlib
from dataclasses import replace
from typing import Any, Final

import msgspec

from polymem.contracts.blobs import BlobDriver, BlobFeatures, BlobInfo
from polymem.core.page import Page
from polymem.errors import StorageCorruptError
from polymem.layers._keyring import OVERHEAD
from polymem.layers._room import Room

BLOB: Final = "blob"
PART: Final = "part of a blob"
_SEALED: Final = "sealed"
_SEALED_TYPE: Final = "application/vnd.polymem.sealed"
_Body = tuple[str, str, int, str, str, dict[str, Any]]
_BODY: Final = msgspec.json.Decoder(_Body)
"""The key if it is hidden, the upload of the parts, size, checksum, content type, metadata."""


class Version(str):
    """A version that knows the upload its parts are bound to; `read` is given the version and nothing else."""

    __slots__ = ("upload",)
    upload: str


class EncryptedBlobs:
    """The sealed blob containers of one namespace."""

    def __init__(self, inner: BlobDriver, room: Room) -> None:
        self._inner, self._room = inner, room
        self._stored_part = inner.features.part_bytes
        self._part = self._stored_part - OVERHEAD
        self.begin, self.abort, self.clear = inner.begin, inner.abort, inner.clear
        self.containers = inner.containers

    @property
    def features(self) -> BlobFeatures:
        return replace(self._inner.features, part_bytes=self._part, ordered=not self._room.hides)

    async def write_part(self, container: str, upload: str, number: int, data: bytes, /) -> None:
        sealed = self._room.seal(data, PART, container, upload, number)
        await self._inner.write_part(container, upload, number, sealed)

    async def commit(self, container: str, upload: str, info: BlobInfo, /) -> None:
        await self._inner.commit(container, upload, self._sealed(container, info, upload))

    async def info(self, container: str, key: str, /) -> BlobInfo | None:
        info = await self._inner.info(container, self._key(container, key))
        return None if info is None else self._opened(container, info)

    async def read(self, container: str, version: str, start: int, length: int, /) -> bytes:
        """Whole parts are read and opened, and the bytes asked for cut out."""
        first, last = start // self._part, (start + max(length, 1) - 1) // self._part
        upload = _upload(version)
        parts = [await self._read_part(container, version, upload, number) for number in range(first, last + 1)]
        offset = start - first * self._part
        return b"".join(parts)[offset : offset + length]

    async def copy(self, container: str, source: str, info: BlobInfo, /) -> bool:
        stored = await self._inner.info(container, self._key(container, source))
        if stored is None:
            return False
        found = self._opened(container, stored)
        if found.checksum != info.checksum:
            return False
        copied = self._sealed(container, info, _upload(found.version))
        return await self._inner.copy(container, stored.key, copied)

    async def delete(self, container: str, key: str, /) -> bool:
        return await self._inner.delete(container, self._key(container, key))

    async def page(self, container: str, prefix: str, after: str | None, limit: int, /) -> Page[BlobInfo]:
        self._room.check_prefix(prefix)
        page = await self._inner.page(container, prefix, after, limit)
        return Page([self._opened(container, info) for info in page.items], page.after)

    async def _read_part(self, container: str, version: str, upload: str, number: int) -> bytes:
        sealed = await self._inner.read(container, str(version), number * self._stored_part, self._stored_part)
        return self._room.open(sealed, PART, container, upload, number) if sealed else b""

    def _key(self, container: str, key: str) -> str:
        return self._room.stored(key, BLOB, container)

    def _sealed(self, container: str, info: BlobInfo, upload: str) -> BlobInfo:
        key = self._key(container, info.key)
        body: _Body = (
            self._room.kept(info.key), str(upload), info.size, info.checksum, info.content_type, info.metadata
        )  # fmt: skip
        sealed = self._room.seal(msgspec.json.encode(body), BLOB, container, key, str(info.version))
        parts = -(-info.size // self._part)
        return info._replace(
            key=key,
            size=info.size + parts * OVERHEAD,
            checksum=_digest(upload),
            content_type=_SEALED_TYPE,
            metadata=_to_metadata(sealed),
        )

    def _opened(self, container: str, info: BlobInfo) -> BlobInfo:
        sealed = _from_metadata(info)
        body = _BODY.decode(self._room.open(sealed, BLOB, container, info.key, info.version))
        kept, upload, size, checksum, content_type, metadata = body
        version = Version(info.version)
        version.upload = upload
        key = self._room.shown(info.key, kept)
        return BlobInfo(key, size, checksum, content_type, metadata, info.created_at, version)


async def is_stale(inner: BlobDriver, room: Room, container: str, info: BlobInfo) -> bool:
    """Whether a previous key sealed a stored blob: what is known of it, or (in a copy) its parts."""
    if info.content_type != _SEALED_TYPE:
        return False
    if not room.keyring.is_current(_from_metadata(info)):
        return True
    start = await inner.read(container, info.version, 0, OVERHEAD)
    return bool(start) and not room.keyring.is_current(start)


async def rewrite(inner: BlobDriver, room: Room, container: str, info: BlobInfo, upload: str) -> BlobInfo:
    """Write the parts of a stored blob under the current key into an upload; what is to be stored of it then."""
    body = _BODY.decode(room.open(_from_metadata(info), BLOB, container, info.key, info.version))
    size = inner.features.part_bytes
    for number, start in enumerate(range(0, info.size, size)):
        sealed = await inner.read(container, info.version, start, size)
        data = room.open(sealed, PART, container, body[1], number)
        await inner.write_part(container, upload, number, room.seal(data, PART, container, upload, number))
    resealed = room.seal(msgspec.json.encode((body[0], upload, *body[2:])), BLOB, container, info.key, upload)
    return info._replace(version=upload, checksum=_digest(upload), metadata=_to_metadata(resealed))


def _to_metadata(sealed: bytes) -> dict[str, Any]:
    return {_SEALED: base64.b64encode(sealed).decode()}


def _from_metadata(info: BlobInfo) -> bytes:
    try:
        if info.content_type == _SEALED_TYPE:
            return base64.b64decode(info.metadata[_SEALED], validate=True)
    except (binascii.Error, LookupError, TypeError, ValueError) as error:
        raise StorageCorruptError("what is stored of a blob is damaged") from error
    raise StorageCorruptError("a stored blob was written without encryption")


def _digest(upload: str) -> str:
    """In place of a checksum: it tells contents apart and says nothing of them."""
    return hashlib.sha256(upload.encode()).hexdigest()


def _upload(version: str) -> str:
    """The upload that the parts of a version are bound to."""
    return version.upload if isinstance(version, Version) else version
