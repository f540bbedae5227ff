"""Blobs: what is known of them in `pm_blobs`, their bytes in rows of 256 kB in `pm_blob_parts` (BLO-1).

The parts belong to an upload, and a blob names the upload it shows; `pm_uploads` says to whom the upload belongs.
"""

from collections.abc import Sequence
from typing import Any, Final

from polymem.contracts.blobs import PART_BYTES, BlobFeatures, BlobInfo
from polymem.core.clock import Clock
from polymem.core.codec import decode_json, encode_json
from polymem.core.ids import uuid7
from polymem.core.page import Page
from polymem.core.text import prefix_end
from polymem.engines.postgres._pool import Link
from polymem.engines.postgres._runner import Runner
from polymem.errors import StorageDataError, StorageNotFoundError

LIFETIME: Final = 86_400_000_000
"""Microseconds after which an upload that was not committed is given up."""
_INFO: Final = "key, size, checksum, content_type, metadata, created_at, upload"
_PLACE: Final = "namespace = $1 and container = $2"
_BEGIN: Final = "insert into pm_uploads(namespace, container, upload, started_at, committed) values($1, $2, $3, $4, $5)"
# the lock keeps sweeper, abort and commit apart from a part under way
_OPEN: Final = (
    f"select 1 from pm_uploads where {_PLACE} and upload = $3 and not committed and started_at >= $4 for no key update"
)
_WRITE: Final = (
    f"with open as ({_OPEN}) insert into pm_blob_parts(upload, number, data) select $3, $5::int, $6::bytea from open "
    "on conflict (upload, number) do update set data = excluded.data returning 1"
)
_SIZES: Final = "select number, length(data) from pm_blob_parts where upload = $1 order by number"
_FIND: Final = f"select {_INFO} from pm_blobs where {_PLACE} and key = $3"
_READ: Final = (
    f"with shown as (select 1 from pm_uploads where {_PLACE} and upload = $3 and committed) "
    "select p.data from shown left join pm_blob_parts p on p.upload = $3 and p.number between $4 and $5 order by p.number"
)
_SHOW: Final = (
    f"insert into pm_blobs(namespace, container, {_INFO}) values($1, $2, $3, $4, $5, $6, $7, $8, $9) "
    "on conflict (namespace, container, key) do update set size = excluded.size, checksum = excluded.checksum, "
    "content_type = excluded.content_type, metadata = excluded.metadata, created_at = excluded.created_at, "
    "upload = excluded.upload"
)
_NAMES: Final = """
with recursive names(found) as (
    (select min(container) from pm_blobs where namespace = $1 and container > $2)
    union all
    select (select min(container) from pm_blobs where namespace = $1 and container > found)
    from names where found is not null)
select found from names where found is not null limit $3"""
# two first uploads of a key have no row yet that one could wait for
_LOCK: Final = "select pg_advisory_xact_lock(hashtextextended($1, 0))"
SWEEP: Final = "delete from pm_uploads where not committed and started_at < $1"


class PostgresBlobs:
    """The blob containers of one namespace."""

    features = BlobFeatures()

    def __init__(self, runner: Runner, clock: Clock, namespace: str) -> None:
        self._runner, self._clock, self._namespace = runner, clock, namespace

    async def begin(self, container: str, /) -> str:
        upload = uuid7()
        await self._runner.fetch(_BEGIN, self._namespace, container, upload, self._clock.now(), False)
        return upload

    async def write_part(self, container: str, upload: str, number: int, data: bytes, /) -> None:
        if len(data) > PART_BYTES:
            raise StorageDataError(f"expected a part of at most {PART_BYTES} bytes", field="data")
        if not await self._runner.fetch(_WRITE, *self._open(container, upload), number, data):
            raise _gone()

    async def commit(self, container: str, upload: str, info: BlobInfo, /) -> None:
        async with self._runner.unit() as link:
            if not await link.fetch(_OPEN, *self._open(container, upload)):
                raise _gone()
            _check_parts(await link.fetch(_SIZES, upload))
            await link.fetch("update pm_uploads set committed = true where upload = $1", upload)
            await self._show(link, container, info._replace(version=upload))

    async def abort(self, container: str, upload: str, /) -> None:
        statement = f"delete from pm_uploads where {_PLACE} and upload = $3 and not committed"
        await self._runner.fetch(statement, self._namespace, container, upload)

    async def info(self, container: str, key: str, /) -> BlobInfo | None:
        rows = await self._runner.fetch(_FIND, self._namespace, container, key)
        return _info(rows[0]) if rows else None

    async def read(self, container: str, version: str, start: int, length: int, /) -> bytes:
        first, last = start // PART_BYTES, (start + length) // PART_BYTES
        rows = await self._runner.fetch(_READ, self._namespace, container, version, first, last)
        if not rows:
            raise StorageNotFoundError("this version of the blob was replaced or deleted", field="version")
        offset = start - first * PART_BYTES
        return b"".join(data for (data,) in rows if data is not None)[offset : offset + length]

    async def copy(self, container: str, source: str, info: BlobInfo, /) -> bool:
        async with self._runner.unit() as link:
            found = await link.fetch(f"{_FIND} for share", self._namespace, container, source)
            if not found or _info(found[0]).checksum != info.checksum:
                return False
            upload = (self._namespace, container, info.version, self._clock.now(), True)
            await link.fetch(_BEGIN, *upload)
            await link.fetch(
                "insert into pm_blob_parts(upload, number, data) "
                "select $1, number, data from pm_blob_parts where upload = $2",
                info.version, _info(found[0]).version,
            )  # fmt: skip
            await self._show(link, container, info)
            return True

    async def delete(self, container: str, key: str, /) -> bool:
        async with self._runner.unit() as link:
            statement = f"delete from pm_blobs where {_PLACE} and key = $3 returning upload"
            gone = await link.fetch(statement, self._namespace, container, key)
            await _remove(link, gone)
            return bool(gone)

    async def page(self, container: str, prefix: str, after: str | None, limit: int, /) -> Page[BlobInfo]:
        sign, start = (">", after) if after is not None and after >= prefix else (">=", prefix)
        end = prefix_end(prefix)
        query = f"select {_INFO} from pm_blobs where {_PLACE} and key {sign} $3{' and key < $5' if end else ''} order by key limit $4"
        rows = await self._runner.fetch(query, self._namespace, container, start, limit, *([end] if end else []))
        infos = [_info(row) for row in rows]
        return Page(infos, infos[-1].key if infos and len(infos) == limit else None)

    async def clear(self, container: str, /) -> int:
        place = (self._namespace, container)
        async with self._runner.unit() as link:
            # uploads first: one that is being committed is waited for, and then its blob is seen
            uploads = await link.fetch(f"delete from pm_uploads where {_PLACE} returning upload", *place)
            statement = f"delete from pm_blobs where {_PLACE} and upload = any($3) returning 1"
            return len(await link.fetch(statement, *place, [upload for (upload,) in uploads]))

    async def containers(self, after: str | None, limit: int, /) -> Page[str]:
        names = [name for (name,) in await self._runner.fetch(_NAMES, self._namespace, after or "", limit)]
        return Page(names, names[-1] if len(names) == limit else None)

    def _open(self, container: str, upload: str) -> tuple[str, str, str, int]:
        return self._namespace, container, upload, self._clock.now() - LIFETIME

    async def _show(self, link: Link, container: str, info: BlobInfo) -> None:
        """Make a blob that of its key; the bytes of an earlier one go."""
        place = (self._namespace, container, info.key)
        await link.fetch(_LOCK, "\n".join(place))
        earlier = await link.fetch(f"select upload from pm_blobs where {_PLACE} and key = $3 for update", *place)
        row = info._replace(metadata=encode_json(info.metadata, field="metadata").decode())  # type: ignore[arg-type]
        await link.fetch(_SHOW, self._namespace, container, *row)
        await _remove(link, earlier)


def _gone() -> StorageNotFoundError:
    return StorageNotFoundError("there is no such upload: it was committed, aborted or swept", field="upload")


def _check_parts(sizes: Sequence[tuple[Any, ...]]) -> None:
    """Parts from 0 without gaps, all but the last one full; otherwise nothing is committed."""
    if [number for number, _ in sizes] != list(range(len(sizes))):
        raise StorageDataError("expected part numbers from 0 without gaps", field="number")
    if any(size != PART_BYTES for _, size in sizes[:-1]):
        raise StorageDataError(f"expected {PART_BYTES} bytes in every part but the last", field="data")


async def _remove(link: Link, uploads: Sequence[Any]) -> None:
    await link.fetch("delete from pm_uploads where upload = any($1)", [upload for (upload,) in uploads])


def _info(row: Any) -> BlobInfo:
    info = BlobInfo(*row)
    return info._replace(metadata=decode_json(row[4]))
