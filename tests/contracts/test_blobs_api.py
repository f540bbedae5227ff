"""Blobs over a driver that can be watched: streaming, checksums, damage, bad input (BLO-1, G-2, G-3)."""

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from contracts.shelf import CLOCK, PART, Shelf, collected, in_chunks
from hypothesis import given
from hypothesis import strategies as st

from polymem.contracts.blobs import Blobs
from polymem.errors import StorageCorruptError, StorageDataError, StorageNotFoundError

pytestmark = pytest.mark.anyio


@given(st.lists(st.binary(max_size=11), max_size=6))
async def test_any_chunks_come_back_as_their_bytes(chunks: list[bytes]) -> None:
    """The driver sees full parts whatever the source gives; the checksum is of the whole."""
    whole = b"".join(chunks)
    shelf = Shelf()
    blobs = Blobs(shelf, CLOCK)
    blob = await blobs.put("k", in_chunks(*chunks))
    assert (blob.size, blob.checksum) == (len(whole), hashlib.sha256(whole).hexdigest())
    assert await blobs.get("k") == await collected(blobs.stream("k")) == whole
    assert shelf.uploads == {}
    assert shelf.calls.count("write_part") == -(-len(whole) // PART)


@pytest.mark.parametrize("stored", [b"01x3456789", b"0123", b""])
async def test_damage_is_noticed(blobs: Blobs, shelf: Shelf, stored: bytes) -> None:
    blob = await blobs.put("k", b"0123456789")
    shelf.contents[blob.version] = stored
    with pytest.raises(StorageCorruptError):
        await blobs.get("k")
    with pytest.raises(StorageCorruptError):
        await collected(blobs.stream("k"))


async def test_a_range_cut_short_is_damage(blobs: Blobs, shelf: Shelf) -> None:
    blob = await blobs.put("k", b"0123456789")
    shelf.contents[blob.version] = b"01234"
    assert await blobs.read("k", 0, 5) == b"01234"
    with pytest.raises(StorageCorruptError):
        await blobs.read("k", 2)


async def test_lost_bytes_are_damage_not_absence(blobs: Blobs, shelf: Shelf) -> None:
    await blobs.put("k", b"0123456789")
    shelf.contents.clear()
    with pytest.raises(StorageCorruptError):
        await blobs.get("k")


async def test_get_reads_the_new_blob_when_it_is_replaced_meanwhile(shelf: Shelf, blobs: Blobs) -> None:
    async def replace(name: str) -> None:
        if name == "read":
            shelf.before = None
            await blobs.put("k", b"the new one")

    await blobs.put("k", b"the old one")
    shelf.before = replace
    assert await blobs.get("k") == b"the new one"
    stream = blobs.stream("k")
    assert await anext(stream) == b"the "
    await blobs.put("k", b"another")
    with pytest.raises(StorageNotFoundError):
        await collected(stream)


async def test_copy_of_a_blob_replaced_meanwhile_is_of_the_new_one(shelf: Shelf, blobs: Blobs) -> None:
    async def replace(name: str) -> None:
        if name == "copy":
            shelf.before = None
            await blobs.put("a", b"new and longer")

    await blobs.put("a", b"old")
    shelf.before = replace
    assert (await blobs.copy("a", "b")).size == 14
    assert await blobs.get("b") == b"new and longer"


async def test_scan_counts_and_clears(blobs: Blobs) -> None:
    for key in ("a1", "a2", "a3", "b1"):
        await blobs.put(key, b"")
    assert [blob.key async for blob in blobs.scan()] == ["a1", "a2", "a3", "b1"]
    assert [blob.key async for blob in blobs.scan("a")] == ["a1", "a2", "a3"]
    assert await blobs.count("a") == 3
    assert await blobs.delete("a1") is True
    assert await blobs.clear() == 3


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
async def test_bad_input_names_the_field_and_calls_nothing(
    blobs: Blobs, shelf: Shelf, field: str, call: Callable[[Blobs], Any]
) -> None:
    with pytest.raises(StorageDataError) as refused:
        await call(blobs)
    assert refused.value.field == field
    assert shelf.calls == []


def test_scan_and_name_are_checked_at_once(shelf: Shelf, blobs: Blobs) -> None:
    with pytest.raises(StorageDataError):
        blobs.scan("\ud800")
    with pytest.raises(StorageDataError) as refused:
        Blobs(shelf, CLOCK, "no/name")
    assert refused.value.field == "name"
    assert blobs.features.part_bytes == PART
