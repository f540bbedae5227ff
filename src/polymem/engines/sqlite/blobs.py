"""Blobs: what is known of them in `pm_blobs`, their bytes in rows of 256 kB in `pm_blob_parts` (BLO-1).

The parts belong to an upload, and a blob names the upload it shows; `pm_uploads` says to whom the upload belongs.
"""

from collections.abc import Sequence
from typing import Any, Final

import apsw

from polymem.contracts.blobs import PART_BYTES, BlobFeatures, BlobInfo
from polymem.core.clock import Clock
from polymem.core.codec import decode_json, encode_json
from polymem.core.ids import uuid7
from polymem.core.page import Page
from polymem.engines.sqlite._database import Runner
from polymem.engines.sqlite._schema import UPLOAD_LIFETIME
from polymem.engines.sqlite.kv import key_bound
from polymem.errors import StorageDataError, StorageNotFoundError

_INFO: Final = "key, size, checksum, content_type, metadata, created_at, upload"
_PLACE: Final = "namespace = ?1 and container = ?2"
_BEGIN: Final = "insert into pm_uploads(upload, namespace, container, started_at, committed) values(?, ?, ?, ?, ?)"
_OPEN: Final = f"select 1 from pm_uploads where {_PLACE} and upload = ?3 and not committed and started_at >= ?4"
_WRITE: Final = "insert or replace into pm_blob_parts(upload, number, data) values(?, ?, ?)"
_SIZES: Final = "select number, length(data) from pm_blob_parts where upload = ? order by number"
_FIND: Final = f"select {_INFO} from pm_blobs where {_PLACE} and key = ?3"
_SHOWN: Final = f"select 1 from pm_uploads where {_PLACE} and upload = ?3 and committed"
_READ: Final = "select data from pm_blob_parts where upload = ? and number between ? and ? order by number"
_NEXT: Final = "select min(container) from pm_blobs where namespace = ? and container > ?"
_COPY: Final = (
    "insert into pm_blob_parts(upload, number, data) select ?1, number, data from pm_blob_parts where upload = ?2"
)


class SqliteBlobs:
    """The blob containers of one namespace."""

    features = BlobFeatures()

    def __init__(self, runner: Runner, clock: Clock, namespace: str) -> None:
        self._runner, self._clock, self._namespace = runner, clock, namespace

    async def begin(self, container: str, /) -> str:
        upload = uuid7()
        row = (upload, self._namespace, container, self._clock.now(), False)
        await self._runner.write(lambda c: c.execute(_BEGIN, row) and None, savepoint=False)
        return upload

    async def write_part(self, container: str, upload: str, number: int, data: bytes, /) -> None:
        if len(data) > PART_BYTES:
            raise StorageDataError(f"expected a part of at most {PART_BYTES} bytes", field="data")
        place, oldest = (self._namespace, container, upload), self._clock.now() - UPLOAD_LIFETIME

        def write(connection: apsw.Connection) -> None:
            _check_open(connection, (*place, oldest))
            connection.execute(_WRITE, (upload, number, data))

        await self._runner.write(write, savepoint=False)

    async def commit(self, container: str, upload: str, info: BlobInfo, /) -> None:
        place, oldest = (self._namespace, container, upload), self._clock.now() - UPLOAD_LIFETIME
        row = (self._namespace, container, *_row(info._replace(version=upload)))

        def commit(connection: apsw.Connection) -> None:
            _check_open(connection, (*place, oldest))
            _check_parts(connection.execute(_SIZES, (upload,)).fetchall())
            connection.execute("update pm_uploads set committed = 1 where upload = ?", (upload,))
            _show(connection, row)

        await self._runner.write(commit)

    async def abort(self, container: str, upload: str, /) -> None:
        place = (self._namespace, container, upload)

        def abort(connection: apsw.Connection) -> None:
            if connection.execute(
                f"select 1 from pm_uploads where {_PLACE} and upload = ?3 and not committed", place
            ).get:
                _remove(connection, upload)

        await self._runner.write(abort)

    async def info(self, container: str, key: str, /) -> BlobInfo | None:
        row = await self._runner.point(_FIND, (self._namespace, container, key))
        return None if row is None else _info(row)

    async def read(self, container: str, version: str, start: int, length: int, /) -> bytes:
        place = (self._namespace, container, version)
        first, last = start // PART_BYTES, (start + length) // PART_BYTES

        def read(connection: apsw.Connection) -> bytes:
            if connection.execute(_SHOWN, place).get is None:
                raise StorageNotFoundError("this version of the blob was replaced or deleted", field="version")
            return b"".join(data for (data,) in connection.execute(_READ, (version, first, last)))

        offset = start - first * PART_BYTES
        return (await self._runner.read(read))[offset : offset + length]

    async def copy(self, container: str, source: str, info: BlobInfo, /) -> bool:
        place, row = (self._namespace, container, source), (self._namespace, container, *_row(info))
        upload = (info.version, self._namespace, container, self._clock.now(), True)

        def copy(connection: apsw.Connection) -> bool:
            found = connection.execute(_FIND, place).fetchall()
            if not found or _info(found[0]).checksum != info.checksum:
                return False
            connection.execute(_BEGIN, upload)
            connection.execute(_COPY, (info.version, _info(found[0]).version))
            _show(connection, row)
            return True

        return await self._runner.write(copy)

    async def delete(self, container: str, key: str, /) -> bool:
        place = (self._namespace, container, key)
        return await self._runner.write(lambda c: _hide(c, place))

    async def page(self, container: str, prefix: str, after: str | None, limit: int, /) -> Page[BlobInfo]:
        start = prefix if after is None else max(prefix, after + "\x00")
        row = (self._namespace, container, start, key_bound(prefix), limit)
        query = f"select {_INFO} from pm_blobs where {_PLACE} and key >= ?3 and key < ?4 order by key limit ?5"
        infos = await self._runner.read(lambda c: [_info(found) for found in c.execute(query, row)])
        return Page(infos, infos[-1].key if infos and len(infos) == limit else None)

    async def clear(self, container: str, /) -> int:
        place = (self._namespace, container)

        def clear(connection: apsw.Connection) -> int:
            uploads = f"select upload from pm_uploads where {_PLACE}"
            connection.execute(f"delete from pm_blob_parts where upload in ({uploads})", place)
            connection.execute(f"delete from pm_uploads where {_PLACE}", place)
            connection.execute(f"delete from pm_blobs where {_PLACE}", place)
            return connection.changes()

        return await self._runner.write(clear)

    async def containers(self, after: str | None, limit: int, /) -> Page[str]:
        def containers(connection: apsw.Connection) -> list[str]:
            """One look into the key for each name, however many blobs it holds."""
            found: list[str] = []
            last = after or ""
            while len(found) < limit and (row := connection.execute(_NEXT, (self._namespace, last)).get) is not None:
                last = str(row)
                found.append(last)
            return found

        names = await self._runner.read(containers)
        return Page(names, names[-1] if len(names) == limit else None)


def _check_open(connection: apsw.Connection, place: tuple[Any, ...]) -> None:
    if connection.execute(_OPEN, place).get is None:
        raise StorageNotFoundError("there is no such upload: it was committed, aborted or swept", field="upload")


def _check_parts(sizes: Sequence[tuple[Any, ...]]) -> None:
    """Parts from 0 without gaps, all but the last one full; otherwise nothing is committed."""
    if [number for number, _ in sizes] != list(range(len(sizes))):
        raise StorageDataError("expected part numbers from 0 without gaps", field="number")
    if any(size != PART_BYTES for _, size in sizes[:-1]):
        raise StorageDataError(f"expected {PART_BYTES} bytes in every part but the last", field="data")


def _show(connection: apsw.Connection, row: tuple[Any, ...]) -> None:
    """Make a row (namespace, container, key, ...) the blob of that key."""
    _hide(connection, row[:3])
    connection.execute(f"insert into pm_blobs(namespace, container, {_INFO}) values(?, ?, ?, ?, ?, ?, ?, ?, ?)", row)


def _hide(connection: apsw.Connection, place: tuple[Any, ...]) -> bool:
    """Remove the blob at (namespace, container, key) with its bytes; whether it was there."""
    upload = connection.execute(f"delete from pm_blobs where {_PLACE} and key = ?3 returning upload", place).get
    if upload is not None:
        _remove(connection, upload)
    return upload is not None


def _remove(connection: apsw.Connection, upload: str) -> None:
    connection.execute("delete from pm_blob_parts where upload = ?", (upload,))
    connection.execute("delete from pm_uploads where upload = ?", (upload,))


def _row(info: BlobInfo) -> tuple[Any, ...]:
    return info._replace(metadata=encode_json(info.metadata, field="metadata").decode())  # type: ignore[arg-type]


def _info(row: tuple[Any, ...]) -> BlobInfo:
    info = BlobInfo(*row)
    return info._replace(metadata=decode_json(row[4]))
