"""Compression (LAY-1): what is stored, what still reads, what is refused."""

import base64
import random
from pathlib import Path
from typing import Any

import apsw
import pytest
import zstandard
from layers.layered import LONG, opened

import polymem
from polymem import F, Store
from polymem.errors import StorageCorruptError, StorageDataError, StorageUnsupportedError
from polymem.layers.compression import KV_MARK, MAX_BYTES, Compression

pytestmark = pytest.mark.anyio


EDGE = 1024 - len('""')


async def test_values_from_the_threshold_on_are_frames(compressed: Store, plain: Store) -> None:
    await compressed.kv.put_many({"below": "x" * (EDGE - 1), "at": "x" * EDGE, "long": LONG})
    raw = plain.engine.drivers("").kv
    stored = await raw.get_many(["below", "at", "long"])
    assert stored["below"] == (b'"' + b"x" * (EDGE - 1) + b'"', "json")
    assert stored["at"][1] == stored["long"][1] == f"{KV_MARK}json"
    assert len(stored["long"][0]) < 200
    assert await compressed.kv.get_many(["below", "at", "long"]) == {
        "below": "x" * (EDGE - 1), "at": "x" * EDGE, "long": LONG
    }  # fmt: skip


async def test_every_write_compresses_and_every_read_unpacks(compressed: Store, plain: Store) -> None:
    kv, raw = compressed.kv, plain.engine.drivers("").kv
    version = await kv.create("a", LONG)
    version = await kv.compare_and_set("a", version, {**LONG, "n": 1})
    assert (await raw.get("a"))[1] == "zstd+json"
    await kv.update("a", {**LONG, "n": 2})
    assert (await raw.get("a"))[1] == "zstd+json"
    entry = await kv.entry("a")
    assert entry is not None
    assert entry.value == await kv.get("a") == {**LONG, "n": 2}
    assert [e.value async for e in kv.entries()] == [{**LONG, "n": 2}]


async def test_what_does_not_shrink_stays(engine: Any, plain: Store) -> None:
    compressed = await opened(Compression(threshold=64), engine=engine)
    noise = "".join(random.Random(1).choices("".join(map(chr, range(0x4E00, 0x9000))), k=30))
    await compressed.kv.put("a", noise)
    assert (await plain.engine.drivers("").kv.get("a"))[1] == "json"
    assert await compressed.kv.get("a") == noise


async def test_turns_that_do_not_shrink_stay(compressed: Store, plain: Store) -> None:
    """Text form costs a third: what zstd makes only a little smaller is not worth it."""
    noise = base64.b64encode(random.Random(1).randbytes(3000)).decode()
    await compressed.turns.append("s", "user", noise)
    assert (await plain.engine.drivers("").turns.get("s", 1, include_expired=False)).content == f'"{noise}"'
    assert [turn.content async for turn in compressed.turns.scan("s")] == [noise]


async def test_older_values_read_through_the_layer(compressed: Store, plain: Store) -> None:
    """Data written before compression was switched on still reads."""
    await plain.kv.put("a", LONG)
    await plain.turns.append("s", "user", LONG["text"])
    assert await compressed.kv.get("a") == LONG
    assert [turn.content async for turn in compressed.turns.scan("s")] == [LONG["text"]]


async def test_without_the_layer_reads_are_refused_by_name(compressed: Store, plain: Store) -> None:
    """The other way round there is a clear error, never bytes taken for a value."""
    await compressed.kv.put("a", LONG)
    await compressed.turns.append("s", "user", LONG["text"])
    with pytest.raises(StorageDataError, match=r"written as 'zstd\+json'.*compression="):
        await plain.kv.get("a")
    with pytest.raises(StorageDataError, match=r"written through a layer \(zstd\)"):
        await plain.turns.get("s", 1)


async def test_turn_contents(compressed: Store, plain: Store) -> None:
    parts = [{"type": "tool", "output": "line\n" * 1000}]
    metadata = {"m": "x" * 3000}
    await compressed.turns.append("s", "user", "short")
    await compressed.turns.append("s", "tool", parts, metadata=metadata)
    rows = await plain.engine.drivers("").turns.page("s", None, 10, include_expired=False)
    assert rows[0].content == '"short"'
    assert rows[1].content.startswith("zstd:")
    assert len(rows[1].content) < 200
    found = await compressed.turns.recent("s", newest_first=False)
    assert [turn.content for turn in found] == ["short", parts]
    assert found[1].metadata == metadata


async def test_damage_is_an_error(compressed: Store, plain: Store) -> None:
    raw = plain.engine.drivers("").kv
    await compressed.kv.put("a", LONG)
    body, tag = await raw.get("a")
    for number in range(len(body)):
        changed = body[:number] + bytes([body[number] ^ 1]) + body[number + 1 :]
        await raw.put("a", changed, tag, version=1, expires_at=None)
        with pytest.raises(StorageCorruptError):
            await compressed.kv.get("a")
    for changed in (b"", body[:-1], body + b"x", body + body):
        await raw.put("a", changed, tag, version=1, expires_at=None)
        with pytest.raises(StorageCorruptError):
            await compressed.kv.get("a")


def test_a_frame_cannot_ask_for_all_memory() -> None:
    """A header that claims more than any value may hold is refused before memory is set aside."""
    huge = b"\x28\xb5\x2f\xfd\xe0" + (MAX_BYTES + 1).to_bytes(8, "little") + b"\x01\x00\x00"
    unknown = zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 2000)
    for frame in (huge, unknown):
        with pytest.raises(StorageCorruptError, match="impossible size"):
            Compression().decompress(frame)


async def test_damaged_turns(compressed: Store, plain: Store) -> None:
    await compressed.turns.append("s", "user", LONG["text"])
    raw = plain.engine.drivers("").turns
    row = await raw.get("s", 1, include_expired=False)
    damaged = (row.content[:-8], row.content[:-4] + "****", row.content[:20] + "AAAA" + row.content[24:])
    for content in ("zstd:", "zstd:****", *damaged):
        await raw.append([row._replace(content=content)], replace=True)
        with pytest.raises(StorageCorruptError):
            await compressed.turns.get("s", 1)


async def test_counting_goes_on(engine: Any) -> None:
    """Numbers stay numbers the engine can add to."""
    compressed = await opened(Compression(threshold=64), engine=engine)
    await compressed.kv.put("n", 2**63 - 2)
    assert await compressed.kv.increment("n") == 2**63 - 1
    await compressed.kv.put("n", LONG)
    with pytest.raises(StorageDataError):
        await compressed.kv.increment("n")
    assert await compressed.kv.get("n") == LONG


async def test_queries_are_refused_and_the_rest_passes(compressed: Store, plain: Store) -> None:
    """A query would look into compressed bytes: it is gone. What the layer does not alter is there."""
    await compressed.kv.put("a", LONG)
    assert not compressed.supports("query")
    with pytest.raises(StorageUnsupportedError):
        await compressed.kv.count(where=F("text") == LONG["text"])
    with pytest.raises(StorageUnsupportedError):
        [entry async for entry in compressed.kv.query(F("text") == LONG["text"])]
    assert set(plain.features()) - set(compressed.features()) == {"query"}
    await compressed.blobs().put("b", LONG["text"].encode() * 100)
    assert await plain.blobs().get("b") == LONG["text"].encode() * 100


async def test_transactions_are_compressed_too(compressed: Store, plain: Store) -> None:
    async with compressed.transaction() as tx:
        await tx.kv.put("a", LONG)
        assert await tx.kv.get("a") == LONG
        await tx.namespace("n").kv.put("b", LONG)
    raw = plain.engine.drivers
    assert (await raw("").kv.get("a"))[1] == (await raw("n/").kv.get("b"))[1] == "zstd+json"


async def test_a_file_gets_smaller(tmp_path: Path) -> None:
    """Through `polymem.open`, and the file holds what it says."""
    url = f"sqlite:///{tmp_path}/a.db"
    async with polymem.open(url, compression=True, sweep_every=None) as store:
        await store.kv.put("a", LONG)
    async with polymem.open(url, compression=Compression(level=19), sweep_every=None) as store:
        assert await store.kv.get("a") == LONG
    connection = apsw.Connection(str(tmp_path / "a.db"))
    [(kind, length, tag)] = connection.execute("select typeof(value), length(value), type from pm_kv").fetchall()
    assert (kind, tag) == ("blob", "zstd+json")
    assert isinstance(length, int)
    assert length < 200


def test_bad_options() -> None:
    bad: list[tuple[str, Any]] = [("level", 0), ("level", 20), ("level", "3"), ("level", True)]
    bad += [("threshold", 63), ("threshold", 64.0), ("threshold", None)]
    for name, value in bad:
        with pytest.raises(StorageDataError) as caught:
            Compression(**{name: value})
        assert caught.value.field == name
    value: Any
    for value in ("zstd", 3, None, object()):
        with pytest.raises(StorageDataError) as caught:
            polymem.open("memory:", compression=value)
        assert caught.value.field == "compression"
