"""BLO-1, G-2, G-3, G-8: streaming, checksums, and nothing left behind by a put that fails or is cancelled."""

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymem.contracts.blobs import Blob, BlobFeatures, BlobInfo, Blobs
from polymem.core.clock import ManualClock, to_datetime
from polymem.core.page import Page
from polymem.errors import StorageConnectionError, StorageCorruptError, StorageDataError, StorageNotFoundError

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

    async def clear(self, container: str, /) -> int:
        count = len(self.blobs)
        self.blobs.clear()
        return count


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def blobs(shelf: Shelf) -> Blobs:
    return Blobs(shelf, CLOCK)


async def in_chunks(*chunks: Any) -> AsyncIterator[Any]:
    for chunk in chunks:
        await asyncio.sleep(0)
        yield chunk


async def collected(stream: AsyncIterator[bytes]) -> bytes:
    return b"".join([part async for part in stream])


@given(st.lists(st.binary(max_size=11), max_size=6))
def test_any_chunks_come_back_as_their_bytes(chunks: list[bytes]) -> None:
    """The driver sees full parts whatever the source gives; the checksum is of the whole."""
    whole = b"".join(chunks)

    async def run() -> None:
        shelf = Shelf()
        blobs = Blobs(shelf, CLOCK)
        blob = await blobs.put("k", in_chunks(*chunks))
        assert (blob.size, blob.checksum) == (len(whole), hashlib.sha256(whole).hexdigest())
        assert await blobs.get("k") == await collected(blobs.stream("k")) == whole
        assert shelf.uploads == {}
        assert shelf.calls.count("write_part") == -(-len(whole) // PART)

    asyncio.run(run())


@pytest.mark.parametrize(
    "source", [b"0123456789", bytearray(b"0123456789"), memoryview(b"0123456789"), io.BytesIO(b"0123456789")]
)
def test_put_takes_bytes_and_files(blobs: Blobs, source: Any) -> None:
    async def run() -> None:
        await blobs.put("k", source)
        assert await blobs.get("k") == b"0123456789"

    asyncio.run(run())


def test_what_is_known_of_a_blob(blobs: Blobs) -> None:
    metadata = {"tags": ["a"]}

    async def run() -> Blob:
        put = await blobs.put("a/1 🎉", b"12345", metadata=metadata, content_type="text/plain")
        metadata["tags"].append("b")
        assert await blobs.info("a/1 🎉") == put
        assert await blobs.exists("a/1 🎉") is True
        assert await blobs.exists("a") is False
        assert await blobs.info("a") is None
        return put

    put = asyncio.run(run())
    assert put == Blob(
        key="a/1 🎉",
        size=5,
        checksum=hashlib.sha256(b"12345").hexdigest(),
        content_type="text/plain",
        metadata={"tags": ["a"]},
        created_at=to_datetime(CLOCK.now()),
        version=put.version,
    )


@pytest.mark.parametrize("start", [0, 3, 4, 9, 10, 11])
@pytest.mark.parametrize("length", [None, 0, 1, 4, 5, 100])
def test_range_read_is_a_slice(blobs: Blobs, start: int, length: int | None) -> None:
    async def run() -> bytes:
        await blobs.put("k", b"0123456789")
        return await blobs.read("k", start, length)

    assert asyncio.run(run()) == b"0123456789"[start:][:length]


def test_what_is_absent(blobs: Blobs) -> None:
    async def run() -> None:
        assert await blobs.get("k") is None
        assert await blobs.delete("k") is False
        for call in (blobs.read("k"), collected(blobs.stream("k")), blobs.copy("k", "l")):
            with pytest.raises(StorageNotFoundError):
                await call

    asyncio.run(run())


@pytest.mark.parametrize("stored", [b"01x3456789", b"0123", b""])
def test_damage_is_noticed(blobs: Blobs, shelf: Shelf, stored: bytes) -> None:
    async def run() -> None:
        blob = await blobs.put("k", b"0123456789")
        shelf.contents[blob.version] = stored
        with pytest.raises(StorageCorruptError):
            await blobs.get("k")
        with pytest.raises(StorageCorruptError):
            await collected(blobs.stream("k"))

    asyncio.run(run())


def test_a_range_cut_short_is_damage(blobs: Blobs, shelf: Shelf) -> None:
    async def run() -> None:
        blob = await blobs.put("k", b"0123456789")
        shelf.contents[blob.version] = b"01234"
        assert await blobs.read("k", 0, 5) == b"01234"
        with pytest.raises(StorageCorruptError):
            await blobs.read("k", 2)

    asyncio.run(run())


def test_lost_bytes_are_damage_not_absence(blobs: Blobs, shelf: Shelf) -> None:
    async def run() -> None:
        await blobs.put("k", b"0123456789")
        shelf.contents.clear()
        with pytest.raises(StorageCorruptError):
            await blobs.get("k")

    asyncio.run(run())


def test_get_reads_the_new_blob_when_it_is_replaced_meanwhile(shelf: Shelf, blobs: Blobs) -> None:
    async def replace(name: str) -> None:
        if name == "read":
            shelf.before = None
            await blobs.put("k", b"the new one")

    async def run() -> None:
        await blobs.put("k", b"the old one")
        shelf.before = replace
        assert await blobs.get("k") == b"the new one"
        stream = blobs.stream("k")
        assert await anext(stream) == b"the "
        await blobs.put("k", b"another")
        with pytest.raises(StorageNotFoundError):
            await collected(stream)

    asyncio.run(run())


def test_copy_takes_everything_but_key_version_and_time(blobs: Blobs) -> None:
    async def run() -> None:
        old = await blobs.put("a", b"12345", metadata={"k": 1}, content_type="text/plain")
        copy = await blobs.copy("a", "b")
        assert (copy.key, copy.size, copy.checksum, copy.metadata) == ("b", 5, old.checksum, {"k": 1})
        assert copy.version != old.version
        await blobs.delete("a")
        assert await blobs.get("b") == b"12345"
        assert await blobs.info("b") == copy

    asyncio.run(run())


def test_copy_of_a_blob_replaced_meanwhile_is_of_the_new_one(shelf: Shelf, blobs: Blobs) -> None:
    async def replace(name: str) -> None:
        if name == "copy":
            shelf.before = None
            await blobs.put("a", b"new and longer")

    async def run() -> None:
        await blobs.put("a", b"old")
        shelf.before = replace
        assert (await blobs.copy("a", "b")).size == 14
        assert await blobs.get("b") == b"new and longer"

    asyncio.run(run())


def test_scan_counts_and_clears(blobs: Blobs) -> None:
    async def run() -> None:
        for key in ("a1", "a2", "a3", "b1"):
            await blobs.put(key, b"")
        assert [blob.key async for blob in blobs.scan()] == ["a1", "a2", "a3", "b1"]
        assert [blob.key async for blob in blobs.scan("a")] == ["a1", "a2", "a3"]
        assert await blobs.count("a") == 3
        assert await blobs.delete("a1") is True
        assert await blobs.clear() == 3

    asyncio.run(run())


class OwnError(Exception):
    """Raised by a caller's own source."""


async def breaks_off() -> AsyncIterator[bytes]:
    yield b"0123456789"
    raise OwnError


def test_an_error_of_the_source_passes_untouched_and_leaves_nothing(blobs: Blobs, shelf: Shelf) -> None:
    async def run() -> None:
        await blobs.put("k", b"old")
        with pytest.raises(OwnError):
            await blobs.put("k", breaks_off())
        assert await blobs.get("k") == b"old"

    asyncio.run(run())
    assert shelf.uploads == {}
    assert len(shelf.contents) == 1


@pytest.mark.parametrize("source", [in_chunks(b"0123456789", "text"), io.StringIO("text"), "text", 3, [b"1"]])
def test_a_source_of_anything_but_bytes_is_refused_and_leaves_nothing(blobs: Blobs, shelf: Shelf, source: Any) -> None:
    with pytest.raises(StorageDataError) as refused:
        asyncio.run(blobs.put("k", source))
    assert refused.value.field == "source"
    assert not shelf.uploads
    assert not shelf.blobs


@pytest.mark.parametrize("where", ["begin", "write_part", "commit"])
def test_a_failing_driver_leaves_nothing_and_its_error_is_what_is_raised(where: str) -> None:
    async def fail(name: str) -> None:
        if name in (where, "abort"):
            raise StorageConnectionError(name)

    shelf = Shelf(fail)
    with pytest.raises(StorageConnectionError, match=where):
        asyncio.run(Blobs(shelf, CLOCK).put("k", b"0123456789"))
    assert shelf.blobs == {}
    assert shelf.calls[-1] == ("begin" if where == "begin" else "abort")


@pytest.mark.parametrize("where", ["begin", "write_part", "commit", "abort"])
def test_a_put_cancelled_within_a_call_lets_it_finish_then_undoes_it(where: str) -> None:
    """No part may arrive after the abort; a commit that is under way stands."""

    async def run() -> None:
        reached, go_on = asyncio.Event(), asyncio.Event()

        async def stop_there(name: str) -> None:
            if name == where:
                reached.set()
                await go_on.wait()

        shelf = Shelf(stop_there)
        source = breaks_off() if where == "abort" else in_chunks(b"0123456789")
        put = asyncio.create_task(Blobs(shelf, CLOCK).put("k", source))
        await reached.wait()
        put.cancel()
        await asyncio.sleep(0)
        assert not put.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await put
        assert shelf.uploads == {}
        assert list(shelf.blobs) == (["k"] if where == "commit" else [])
        assert shelf.calls[-1] == ("commit" if where == "commit" else "abort")

    asyncio.run(run())


def test_a_put_cancelled_while_it_waits_for_its_source_leaves_nothing(shelf: Shelf, blobs: Blobs) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"0123456789"
        await asyncio.Event().wait()

    async def run() -> None:
        put = asyncio.create_task(blobs.put("k", endless()))
        while "write_part" not in shelf.calls:
            await asyncio.sleep(0)
        put.cancel()
        with pytest.raises(asyncio.CancelledError):
            await put

    asyncio.run(run())
    assert not shelf.uploads
    assert not shelf.blobs


def test_a_call_that_fails_after_the_cancellation_is_still_a_cancellation() -> None:
    async def run() -> None:
        reached = asyncio.Event()

        async def fail_late(name: str) -> None:
            if name == "write_part":
                reached.set()
                await asyncio.sleep(0)
                raise StorageConnectionError("late")

        put = asyncio.create_task(Blobs(Shelf(fail_late), CLOCK).put("k", b"0123456789"))
        await reached.wait()
        put.cancel()
        with pytest.raises(asyncio.CancelledError):
            await put

    asyncio.run(run())


BAD: list[tuple[str, Callable[[Blobs], Any]]] = [
    ("key", lambda b: b.put("", b"")),
    ("key", lambda b: b.put(b"k", b"")),  # type: ignore[arg-type]
    ("metadata", lambda b: b.put("k", b"", metadata=[])),  # type: ignore[arg-type]
    ("metadata.x", lambda b: b.put("k", b"", metadata={"x": b""})),
    ("content_type", lambda b: b.put("k", b"", content_type="")),
    ("key", lambda b: b.get("x" * 513)),
    ("key", lambda b: b.info("a\0")),
    ("start", lambda b: b.read("k", -1)),
    ("length", lambda b: b.read("k", 0, -1)),
    ("source", lambda b: b.copy("", "x")),
    ("target", lambda b: b.copy("x", "")),
    ("key", lambda b: b.delete("")),
    ("prefix", lambda b: b.count(None)),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("field", "call"), BAD)
def test_bad_input_names_the_field_and_calls_nothing(
    blobs: Blobs, shelf: Shelf, field: str, call: Callable[[Blobs], Any]
) -> None:
    with pytest.raises(StorageDataError) as refused:
        asyncio.run(call(blobs))
    assert refused.value.field == field
    assert shelf.calls == []


def test_scan_and_name_are_checked_at_once(shelf: Shelf, blobs: Blobs) -> None:
    with pytest.raises(StorageDataError):
        blobs.scan("\ud800")
    with pytest.raises(StorageDataError) as refused:
        Blobs(shelf, CLOCK, "no/name")
    assert refused.value.field == "name"
    assert blobs.features.part_bytes == PART
