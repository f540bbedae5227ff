"""Large key-value bodies and turn contents are kept as zstd frames (LAY-1).

What is compressed says so itself, in its codec tag or in front of its text, so what was written before the layer
was there is read like anything else, and a store without the layer refuses what it cannot read. Everything the
layer does not alter passes, blobs too: their parts have a fixed size and are read by range. A query on stored
values would look into compressed ones, so there is none. What takes longer than it takes to ask a thread is done in
one, so that megabytes of one task do not stall the others.
"""

import asyncio
import base64
import binascii
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from polymem.contracts.drivers import Drivers
from polymem.contracts.kv import Item, KeyValueDriver, KVFeatures, Record
from polymem.contracts.turns import TurnDriver, TurnFeatures, TurnRow
from polymem.core.page import Page
from polymem.errors import StorageCorruptError, StorageDataError, StorageUnsupportedError

try:
    import zstandard
except ModuleNotFoundError as error:
    raise StorageUnsupportedError("zstandard is missing: pip install 'polymem[compression]'") from error

KV_MARK: Final = "zstd+"
"""In front of the codec tag of a compressed body."""
TURN_MARK: Final = "zstd:"
"""In front of a compressed content, which is base64; JSON never starts with a letter z."""
MAX_BYTES: Final = 1 << 30
"""Larger values stay as they are; a frame that claims to hold more is damaged."""
COMPRESS_IN_THREAD: Final = 256 << 10
"""Bytes: about a millisecond's work, twenty times what the thread costs."""
UNPACK_IN_THREAD: Final = 1 << 20
_HEADER: Final = 24
"""Characters of base64 that hold the header of any frame."""
Result = TypeVar("Result")
_LEAST: Final = 64
"""No integer that `increment` can count is as long as this."""
_LEVELS: Final = range(1, 20)


class Compression(threading.local):
    """The layer: values of at least `threshold` bytes are compressed where that makes them smaller.

    `level` is zstd's, 1 (fastest) to 19 (smallest).
    """

    def __init__(self, *, level: int = 3, threshold: int = 1024) -> None:  # once per thread: contexts can't be shared
        if type(level) is not int or level not in _LEVELS:
            raise StorageDataError("expected a whole number from 1 to 19", field="level")
        if type(threshold) is not int or threshold < _LEAST:
            raise StorageDataError(f"expected a whole number of at least {_LEAST} bytes", field="threshold")
        self.level, self.threshold = level, threshold
        self._compressor = zstandard.ZstdCompressor(level=level, write_checksum=True)
        self._decompressor = zstandard.ZstdDecompressor()

    def __repr__(self) -> str:
        return f"Compression(level={self.level}, threshold={self.threshold})"

    def __call__(self, drivers: Drivers, _namespace: str) -> Drivers:
        """The same drivers with kv and turns compressed; contracts this layer has never heard of are left out."""
        return Drivers(
            kv=None if drivers.kv is None else CompressedKV(drivers.kv, self),
            turns=None if drivers.turns is None else CompressedTurns(drivers.turns, self),
            vectors=drivers.vectors,
            text=drivers.text,
            graph=drivers.graph,
            blobs=drivers.blobs,
            sql=drivers.sql,
            transactions=drivers.transactions,
            events=drivers.events,
        )

    def compress(self, data: bytes) -> bytes | None:
        """The frame, None where it is not worth it."""
        if not self.threshold <= len(data) <= MAX_BYTES:
            return None
        frame = self._compressor.compress(data)
        return frame if len(frame) < len(data) else None

    def decompress(self, frame: bytes) -> bytes:
        """What a frame holds; `StorageCorruptError` where it is damaged."""
        size_of(frame)  # it is believed when memory is set aside
        try:
            return self._decompressor.decompress(frame, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise StorageCorruptError("a compressed value is damaged") from error


def size_of(frame: bytes) -> int:
    """How many bytes a frame says it holds."""
    try:
        size: int = zstandard.get_frame_parameters(frame).content_size
    except zstandard.ZstdError as error:
        raise StorageCorruptError("a compressed value is damaged") from error
    if size > MAX_BYTES:
        raise StorageCorruptError("a compressed value claims an impossible size")
    return size


async def _done(work: Callable[..., Result], *args: Any, in_thread: bool) -> Result:
    return await asyncio.to_thread(work, *args) if in_thread else work(*args)


class CompressedKV:
    """Key-value records whose large bodies are frames."""

    def __init__(self, inner: KeyValueDriver, zstd: Compression) -> None:
        self._inner, self._zstd = inner, zstd
        # a number is never long enough to be compressed, so the engine can count
        self.increment, self.touch, self.count, self.clear = inner.increment, inner.touch, inner.count, inner.clear
        self.delete, self.delete_many = inner.delete, inner.delete_many

    @property
    def features(self) -> KVFeatures:
        return self._inner.features

    async def get(self, key: str, /) -> tuple[bytes, str] | None:
        found = await self._inner.get(key)
        if found is None or not found[1].startswith(KV_MARK):
            return found
        return await _done(self._unpacked, *found, in_thread=size_of(found[0]) >= UNPACK_IN_THREAD)

    async def entry(self, key: str, /) -> Record | None:
        record = await self._inner.entry(key)
        return None if record is None else (await self._records([record]))[0]

    async def get_many(self, keys: Sequence[str], /) -> dict[str, tuple[bytes, str]]:
        found = await self._inner.get_many(keys)

        def unpacked() -> dict[str, tuple[bytes, str]]:
            return {key: self._unpacked(*stored) for key, stored in found.items()}

        return await _done(unpacked, in_thread=_unpacks_much(found.values()))

    async def put(self, key: str, body: bytes, codec: str, /, *, version: int, expires_at: int | None) -> None:
        await self._inner.put(key, *await self._to_store(body, codec), version=version, expires_at=expires_at)

    async def put_many(self, items: Sequence[Item], /) -> None:
        def packed() -> list[Item]:
            return [(item[0], *self._packed(*item[1:3]), *item[3:]) for item in items]

        much = sum(len(item[1]) for item in items) >= COMPRESS_IN_THREAD
        await self._inner.put_many(await _done(packed, in_thread=much))

    async def create(self, key: str, body: bytes, codec: str, /, *, version: int, expires_at: int | None) -> bool:
        stored = await self._to_store(body, codec)
        return await self._inner.create(key, *stored, version=version, expires_at=expires_at)

    async def update(self, key: str, body: bytes, codec: str, /, *, version: int) -> bool:
        return await self._inner.update(key, *await self._to_store(body, codec), version=version)

    async def replace(
        self, key: str, body: bytes, codec: str, /, *, expected: int, version: int, expires_at: int | None
    ) -> bool:
        stored = await self._to_store(body, codec)
        return await self._inner.replace(key, *stored, expected=expected, version=version, expires_at=expires_at)

    async def page(self, prefix: str, after: str | None, limit: int, /) -> Page[tuple[str, Record]]:
        page = await self._inner.page(prefix, after, limit)
        records = await self._records([record for _, record in page.items])
        return Page([(key, record) for (key, _), record in zip(page.items, records, strict=True)], page.after)

    async def _to_store(self, body: bytes, codec: str) -> tuple[bytes, str]:
        if len(body) < self._zstd.threshold:
            return body, codec
        return await _done(self._packed, body, codec, in_thread=len(body) >= COMPRESS_IN_THREAD)

    async def _records(self, records: Sequence[Record]) -> list[Record]:
        much = _unpacks_much([(record.body, record.codec) for record in records])
        return await _done(lambda: [self._record(record) for record in records], in_thread=much)

    def _packed(self, body: bytes, codec: str) -> tuple[bytes, str]:
        frame = self._zstd.compress(body)
        return (body, codec) if frame is None else (frame, KV_MARK + codec)

    def _unpacked(self, body: bytes, codec: str) -> tuple[bytes, str]:
        if not codec.startswith(KV_MARK):
            return body, codec
        return self._zstd.decompress(body), codec.removeprefix(KV_MARK)

    def _record(self, record: Record) -> Record:
        body, codec = self._unpacked(record.body, record.codec)
        return record._replace(body=body, codec=codec)


def _unpacks_much(stored: Iterable[tuple[bytes, str]]) -> bool:
    return sum(size_of(body) for body, codec in stored if codec.startswith(KV_MARK)) >= UNPACK_IN_THREAD


class CompressedTurns:
    """Turns whose long contents are frames in base64; their metadata stays as it is."""

    def __init__(self, inner: TurnDriver, zstd: Compression) -> None:
        self._inner, self._zstd = inner, zstd
        self.delete, self.clear, self.count, self.sessions = inner.delete, inner.clear, inner.count, inner.sessions
        self.touch = inner.touch

    @property
    def features(self) -> TurnFeatures:
        return self._inner.features

    async def append(self, rows: Sequence[TurnRow], /, *, replace: bool) -> list[int]:
        much = sum(len(row.content) for row in rows) >= COMPRESS_IN_THREAD
        packed = await _done(lambda: [self._packed(row) for row in rows], in_thread=much)
        return await self._inner.append(packed, replace=replace)

    async def get(self, session_id: str, turn_id: int, /, *, include_expired: bool) -> TurnRow | None:
        row = await self._inner.get(session_id, turn_id, include_expired=include_expired)
        return None if row is None else (await self._rows([row]))[0]

    async def recent(self, session_id: str, /, *, limit: int, offset: int, include_expired: bool) -> list[TurnRow]:
        return await self._rows(
            await self._inner.recent(session_id, limit=limit, offset=offset, include_expired=include_expired)
        )

    async def page(self, session_id: str, after: int | None, limit: int, /, *, include_expired: bool) -> list[TurnRow]:
        return await self._rows(await self._inner.page(session_id, after, limit, include_expired=include_expired))

    async def _rows(self, rows: Sequence[TurnRow]) -> list[TurnRow]:
        much = sum(_held(row.content) for row in rows if row.content.startswith(TURN_MARK)) >= UNPACK_IN_THREAD
        return await _done(lambda: [self._unpacked(row) for row in rows], in_thread=much)

    def _packed(self, row: TurnRow) -> TurnRow:
        frame = self._zstd.compress(row.content.encode())
        packed = "" if frame is None else TURN_MARK + base64.b64encode(frame).decode()
        return row._replace(content=packed) if 0 < len(packed) < len(row.content.encode()) else row

    def _unpacked(self, row: TurnRow) -> TurnRow:
        if not row.content.startswith(TURN_MARK):
            return row
        try:
            content = self._zstd.decompress(base64.b64decode(row.content[len(TURN_MARK) :], validate=True)).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise StorageCorruptError("a compressed turn is damaged") from error
        return row._replace(content=content)


def _held(content: str) -> int:
    """How many bytes a compressed content says it holds: that is in its first 18."""
    try:
        return size_of(base64.b64decode(content[len(TURN_MARK) :][:_HEADER], validate=True))
    except binascii.Error as error:
        raise StorageCorruptError("a compressed turn is damaged") from error
