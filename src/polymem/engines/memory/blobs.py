"""Blobs as tuples of parts; an upload becomes visible, whole, when it is committed (BLO-1)."""

from collections.abc import Iterator
from typing import ClassVar, Final, NamedTuple
from uuid import uuid4

from polymem.contracts.blobs import PART_BYTES, BlobFeatures, BlobInfo
from polymem.core.clock import MICROSECONDS
from polymem.core.page import Page
from polymem.engines._tables.expiring import ExpiringTable
from polymem.engines._tables.state import Table, detached, page_of, starting
from polymem.engines._tables.views import View
from polymem.errors import StorageDataError, StorageNotFoundError

_DAY: Final = 24 * 3600 * MICROSECONDS


class Upload(NamedTuple):
    """Parts not committed yet; an abandoned upload is swept like any expired record."""

    parts: dict[int, bytes]
    expires_at: int | None


class BlobTable(Table[str, BlobInfo]):
    """The visible blobs of a container by key."""


class ContentTable(Table[str, tuple[bytes, ...]]):
    """The parts of visible blobs by version."""

    counted: ClassVar[bool] = False


class UploadTable(ExpiringTable[str, Upload]):
    """Uploads by id."""

    counted: ClassVar[bool] = False


class MemoryBlobs:
    """The blob containers of one namespace."""

    __slots__ = ("_namespace", "_view")

    def __init__(self, view: View, namespace: str) -> None:
        self._view = view
        self._namespace = namespace

    @property
    def features(self) -> BlobFeatures:
        return BlobFeatures(durable=False)

    async def begin(self, container: str, /) -> str:
        await self._view.writable()
        upload = uuid4().hex
        expires_at = self._view.clock.now() + _DAY
        self._view.table(UploadTable, self._namespace, container).put(upload, Upload({}, expires_at))
        return upload

    async def write_part(self, container: str, upload: str, number: int, data: bytes, /) -> None:
        await self._view.writable()
        begun = self._upload(container, upload)
        if len(data) > PART_BYTES:
            raise StorageDataError(f"expected a part of at most {PART_BYTES} bytes", field="data")
        grown = begun._replace(parts={**begun.parts, number: bytes(data)})
        self._view.table(UploadTable, self._namespace, container).put(upload, grown)

    async def commit(self, container: str, upload: str, info: BlobInfo, /) -> None:
        await self._view.writable()
        parts = _in_order(self._upload(container, upload).parts)
        self._view.table(UploadTable, self._namespace, container).pop(upload)
        self._show(container, info, parts)

    async def abort(self, container: str, upload: str, /) -> None:
        await self._view.writable()
        if self._view.find(UploadTable, self._namespace, container) is not None:
            self._view.table(UploadTable, self._namespace, container).pop(upload)

    async def info(self, container: str, key: str, /) -> BlobInfo | None:
        info = self._blobs(container).get(key)
        return None if info is None else _copy(info)

    async def read(self, container: str, version: str, start: int, length: int, /) -> bytes:
        contents = self._view.find(ContentTable, self._namespace, container)
        parts = None if contents is None else contents.rows.get(version)
        if parts is None:
            raise StorageNotFoundError("this version of the blob was replaced or deleted", field="version")
        first, offset = divmod(start, PART_BYTES)
        last = (start + length) // PART_BYTES
        return b"".join(parts[first : last + 1])[offset : offset + length]

    async def copy(self, container: str, source: str, info: BlobInfo, /) -> bool:
        await self._view.writable()
        original = self._blobs(container).get(source)
        if original is None or original.checksum != info.checksum:
            return False
        contents = self._view.table(ContentTable, self._namespace, container)
        self._show(container, info, contents.rows[original.version])
        return True

    async def delete(self, container: str, key: str, /) -> bool:
        await self._view.writable()
        if key not in self._blobs(container):
            return False
        self._hide(container, key)
        return True

    async def page(self, container: str, prefix: str, after: str | None, limit: int, /) -> Page[BlobInfo]:
        return page_of(self._infos(container, prefix, after), limit, lambda info: info.key)

    async def clear(self, container: str, /) -> int:
        await self._view.writable()
        count = len(self._blobs(container))
        for kind in (BlobTable, ContentTable, UploadTable):
            self._view.drop(kind, self._namespace, container)
        return count

    async def containers(self, after: str | None, limit: int, /) -> Page[str]:
        tables = self._view.named(BlobTable, self._namespace)
        names = sorted(name for name, table in tables.items() if table.rows)
        return page_of(starting(names, "", after), limit, lambda name: name)

    def _blobs(self, container: str) -> dict[str, BlobInfo]:
        table = self._view.find(BlobTable, self._namespace, container)
        return {} if table is None else table.rows

    def _infos(self, container: str, prefix: str, after: str | None) -> Iterator[BlobInfo]:
        table = self._view.find(BlobTable, self._namespace, container)
        if table is not None:
            yield from (_copy(table.rows[key]) for key in starting(table.keys(), prefix, after))

    def _upload(self, container: str, upload: str) -> Upload:
        table = self._view.find(UploadTable, self._namespace, container)
        found = None if table is None else table.live(upload, self._view.clock.now())
        if found is None:
            raise StorageNotFoundError("there is no such upload: it was committed, aborted or swept", field="upload")
        return found

    def _show(self, container: str, info: BlobInfo, parts: tuple[bytes, ...]) -> None:
        self._hide(container, info.key)
        self._view.table(BlobTable, self._namespace, container).put(info.key, _copy(info))
        self._view.table(ContentTable, self._namespace, container).put(info.version, parts)

    def _hide(self, container: str, key: str) -> None:
        info = self._view.table(BlobTable, self._namespace, container).pop(key)
        if info is not None:
            self._view.table(ContentTable, self._namespace, container).pop(info.version)


def _in_order(parts: dict[int, bytes]) -> tuple[bytes, ...]:
    """The parts from 0 without gaps, all but the last one full; otherwise nothing is committed."""
    if set(parts) != set(range(len(parts))):
        raise StorageDataError("expected part numbers from 0 without gaps", field="number")
    ordered = tuple(parts[number] for number in range(len(parts)))
    if any(len(part) != PART_BYTES for part in ordered[:-1]):
        raise StorageDataError(f"expected {PART_BYTES} bytes in every part but the last", field="data")
    return ordered


def _copy(info: BlobInfo) -> BlobInfo:
    return info._replace(metadata=detached(info.metadata))
