"""Compression (LAY-1): what is stored, what still reads, what is refused."""

import asyncio
import base64
import random
import threading
from pathlib import Path
from typing import Any

import apsw
import pytest
import zstandard

import polymem
from polymem import F, Store
from polymem.core.registry import create_engine
from polymem.errors import StorageCorruptError, StorageDataError, StorageUnsupportedError
from polymem.layers.cache import CachePolicy
from polymem.layers.compression import KV_MARK, MAX_BYTES, Compression
from polymem.opened import Session

LONG = {"text": "all work and no play " * 200}
EDGE = 1024 - len('""')


def _pair(layer: Compression | None = None) -> tuple[Store, Store]:
    """One engine seen through compression and without it."""
    engine = create_engine("memory:")
    plain, layered = (
        Session(engine, sweep_every=None),
        Session(engine, sweep_every=None, layers=[layer or Compression()]),
    )
    return Store(layered), Store(plain)


async def _open(layer: Compression | None = None) -> tuple[Store, Store]:
    layered, plain = _pair(layer)
    return await layered, await plain


def _run(scenario: Any) -> None:
    asyncio.run(scenario())


def test_values_from_the_threshold_on_are_frames() -> None:
    async def scenario() -> None:
        store, plain = await _open()
        await store.kv.put_many({"below": "x" * (EDGE - 1), "at": "x" * EDGE, "long": LONG})
        raw = plain.engine.drivers("").kv
        stored = await raw.get_many(["below", "at", "long"])
        assert stored["below"] == (b'"' + b"x" * (EDGE - 1) + b'"', "json")
        assert stored["at"][1] == stored["long"][1] == f"{KV_MARK}json"
        assert len(stored["long"][0]) < 200
        assert await store.kv.get_many(["below", "at", "long"]) == {
            "below": "x" * (EDGE - 1), "at": "x" * EDGE, "long": LONG
        }  # fmt: skip

    _run(scenario)


def test_every_write_compresses_and_every_read_unpacks() -> None:
    async def scenario() -> None:
        store, plain = await _open()
        kv, raw = store.kv, plain.engine.drivers("").kv
        version = await kv.create("a", LONG)
        version = await kv.compare_and_set("a", version, {**LONG, "n": 1})
        assert (await raw.get("a"))[1] == "zstd+json"
        await kv.update("a", {**LONG, "n": 2})
        assert (await raw.get("a"))[1] == "zstd+json"
        entry = await kv.entry("a")
        assert entry is not None
        assert entry.value == await kv.get("a") == {**LONG, "n": 2}
        assert [e.value async for e in kv.entries()] == [{**LONG, "n": 2}]

    _run(scenario)


def test_what_does_not_shrink_stays() -> None:
    async def scenario() -> None:
        store, plain = await _open(Compression(threshold=64))
        noise = "".join(random.Random(1).choices("".join(map(chr, range(0x4E00, 0x9000))), k=30))
        await store.kv.put("a", noise)
        assert (await plain.engine.drivers("").kv.get("a"))[1] == "json"
        assert await store.kv.get("a") == noise

    _run(scenario)


def test_turns_that_do_not_shrink_stay() -> None:
    """Text form costs a third: what zstd makes only a little smaller is not worth it."""

    async def scenario() -> None:
        store, plain = await _open()
        noise = base64.b64encode(random.Random(1).randbytes(3000)).decode()
        await store.turns.append("s", "user", noise)
        assert (await plain.engine.drivers("").turns.get("s", 1, include_expired=False)).content == f'"{noise}"'
        assert (await store.turns.get("s", 1)).content == noise

    _run(scenario)


def test_older_values_read_through_the_layer() -> None:
    """Data written before compression was switched on still reads."""

    async def scenario() -> None:
        store, plain = await _open()
        await plain.kv.put("a", LONG)
        await plain.turns.append("s", "user", LONG["text"])
        assert await store.kv.get("a") == LONG
        assert [turn.content async for turn in store.turns.scan("s")] == [LONG["text"]]

    _run(scenario)


def test_without_the_layer_reads_are_refused_by_name() -> None:
    """The other way round there is a clear error, never bytes taken for a value."""

    async def scenario() -> None:
        store, plain = await _open()
        await store.kv.put("a", LONG)
        await store.turns.append("s", "user", LONG["text"])
        with pytest.raises(StorageDataError, match=r"written as 'zstd\+json'.*compression="):
            await plain.kv.get("a")
        with pytest.raises(StorageDataError, match=r"written through a layer \(zstd\)"):
            await plain.turns.get("s", 1)

    _run(scenario)


def test_turn_contents() -> None:
    async def scenario() -> None:
        store, plain = await _open()
        parts = [{"type": "tool", "output": "line\n" * 1000}]
        metadata = {"m": "x" * 3000}
        await store.turns.append("s", "user", "short")
        await store.turns.append("s", "tool", parts, metadata=metadata)
        rows = await plain.engine.drivers("").turns.page("s", None, 10, include_expired=False)
        assert rows[0].content == '"short"'
        assert rows[1].content.startswith("zstd:")
        assert len(rows[1].content) < 200
        found = await store.turns.recent("s", newest_first=False)
        assert [turn.content for turn in found] == ["short", parts]
        assert (await store.turns.get("s", 2)).metadata == metadata

    _run(scenario)


def test_damage_is_an_error() -> None:
    async def scenario() -> None:
        store, plain = await _open()
        raw = plain.engine.drivers("").kv
        await store.kv.put("a", LONG)
        body, tag = await raw.get("a")
        for number in range(len(body)):
            changed = body[:number] + bytes([body[number] ^ 1]) + body[number + 1 :]
            await raw.put("a", changed, tag, version=1, expires_at=None)
            with pytest.raises(StorageCorruptError):
                await store.kv.get("a")
        for changed in (b"", body[:-1], body + b"x", body + body):
            await raw.put("a", changed, tag, version=1, expires_at=None)
            with pytest.raises(StorageCorruptError):
                await store.kv.get("a")

    _run(scenario)


def test_a_frame_cannot_ask_for_all_memory() -> None:
    """A header that claims more than any value may hold is refused before memory is set aside."""
    huge = b"\x28\xb5\x2f\xfd\xe0" + (MAX_BYTES + 1).to_bytes(8, "little") + b"\x01\x00\x00"
    unknown = zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 2000)
    for frame in (huge, unknown):
        with pytest.raises(StorageCorruptError, match="impossible size"):
            Compression().decompress(frame)


def test_damaged_turns() -> None:
    async def scenario() -> None:
        store, plain = await _open()
        await store.turns.append("s", "user", LONG["text"])
        raw = plain.engine.drivers("").turns
        row = await raw.get("s", 1, include_expired=False)
        damaged = (row.content[:-8], row.content[:-4] + "****", row.content[:20] + "AAAA" + row.content[24:])
        for content in ("zstd:", "zstd:****", *damaged):
            await raw.append([row._replace(content=content)], replace=True)
            with pytest.raises(StorageCorruptError):
                await store.turns.get("s", 1)

    _run(scenario)


def test_counting_goes_on() -> None:
    """Numbers stay numbers the engine can add to."""

    async def scenario() -> None:
        store, _ = await _open(Compression(threshold=64))
        await store.kv.put("n", 2**63 - 2)
        assert await store.kv.increment("n") == 2**63 - 1
        await store.kv.put("n", LONG)
        with pytest.raises(StorageDataError):
            await store.kv.increment("n")
        assert await store.kv.get("n") == LONG

    _run(scenario)


def test_queries_are_refused_and_the_rest_passes() -> None:
    """A query would look into compressed bytes: it is gone. What the layer does not alter is there."""

    async def scenario() -> None:
        store, plain = await _open()
        await store.kv.put("a", LONG)
        assert not store.supports("query")
        with pytest.raises(StorageUnsupportedError):
            await store.kv.count(where=F("text") == LONG["text"])
        with pytest.raises(StorageUnsupportedError):
            [entry async for entry in store.kv.query(F("text") == LONG["text"])]
        assert set(plain.features()) - set(store.features()) == {"query"}
        await store.blobs().put("b", LONG["text"].encode() * 100)
        assert await plain.blobs().get("b") == LONG["text"].encode() * 100

    _run(scenario)


def test_unknown_contracts_do_not_pass() -> None:
    """A contract that comes later must be thought about first: only the ones named in the layer pass."""
    from dataclasses import fields

    from polymem.contracts.drivers import Drivers

    everything: Any = Drivers(
        **{field.name: object() for field in fields(Drivers) if field.name not in ("kv", "turns")}
    )
    passed = {name for name in everything.__slots__ if getattr(Compression()(everything, ""), name) is not None}
    assert passed == {"vectors", "text", "graph", "blobs", "sql", "transactions", "events"}


def test_transactions_are_compressed_too() -> None:
    async def scenario() -> None:
        store, plain = await _open()
        async with store.transaction() as tx:
            await tx.kv.put("a", LONG)
            assert await tx.kv.get("a") == LONG
            await tx.namespace("n").kv.put("b", LONG)
        raw = plain.engine.drivers
        assert (await raw("").kv.get("a"))[1] == (await raw("n/").kv.get("b"))[1] == "zstd+json"

    _run(scenario)


def test_a_file_gets_smaller(tmp_path: Path) -> None:
    """Through `polymem.open`, and the file holds what it says."""

    async def scenario() -> None:
        url = f"sqlite:///{tmp_path}/a.db"
        async with polymem.open(url, compression=True, sweep_every=None) as store:
            await store.kv.put("a", LONG)
        async with polymem.open(url, compression=Compression(level=19), sweep_every=None) as store:
            assert await store.kv.get("a") == LONG

    _run(scenario)
    rows = (
        apsw.Connection(str(tmp_path / "a.db"))
        .execute("select typeof(value), length(value), type from pm_kv")
        .fetchall()
    )
    assert rows[0][0] == "blob"
    assert rows[0][1] < 200
    assert rows[0][2] == "zstd+json"


def test_threads_have_compressors_of_their_own() -> None:
    """One layer may serve stores on several loops."""
    layer, data = Compression(), b"abc" * 100_000

    def work() -> bool:
        return all(layer.decompress(layer.compress(data) or b"") == data for _ in range(50))

    async def scenario() -> None:
        assert all(await asyncio.gather(*(asyncio.to_thread(work) for _ in range(4))))

    _run(scenario)


def test_bad_options() -> None:
    bad: list[tuple[str, Any]] = [("level", 0), ("level", 20), ("level", "3"), ("level", True)]
    bad += [("threshold", 63), ("threshold", 64.0), ("threshold", None)]
    for name, value in bad:
        with pytest.raises(StorageDataError) as caught:
            Compression(**{name: value})
        assert caught.value.field == name
    for value in ("zstd", 3, None, object()):
        with pytest.raises(StorageDataError) as caught:
            polymem.open("memory:", compression=value)
        assert caught.value.field == "compression"


class Threads:
    """Which of compressing and unpacking was done on the loop's thread, and which elsewhere."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.here: list[str] = []
        self.elsewhere: list[str] = []
        for name in ("compress", "decompress"):
            monkeypatch.setattr(Compression, name, self._noting(name, getattr(Compression, name)))

    def _noting(self, name: str, work: Any) -> Any:
        def noting(layer: Compression, data: bytes) -> Any:
            on_loop = threading.current_thread() is threading.main_thread()
            (self.here if on_loop else self.elsewhere).append(name)
            return work(layer, data)

        return noting

    def taken(self) -> tuple[list[str], list[str]]:
        """Since it was last asked."""
        taken = self.here[:], self.elsewhere[:]
        self.here.clear()
        self.elsewhere.clear()
        return taken


def test_large_work_does_not_stall_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever operation it is; small values are done at once."""
    threads, large = Threads(monkeypatch), "words " * 200_000

    async def scenario() -> None:
        store, _ = await _open()
        kv, turns = store.kv, store.turns
        writes: list[tuple[str, Any]] = [
            ("put", lambda value: kv.put("a", value)),
            ("put_many", lambda value: kv.put_many({"a": value})),
            ("update", lambda value: kv.update("a", value)),
            ("cas", lambda value: _replace(kv, value)),
            ("create", lambda value: _create(kv, value)),
            ("append", lambda value: turns.append("s", "user", value)),
        ]
        reads: list[tuple[str, Any]] = [
            ("get", lambda: kv.get("a")),
            ("get_many", lambda: kv.get_many(["a"])),
            ("entry", lambda: kv.entry("a")),
            ("entries", lambda: _first(kv.entries())),
            ("turn", lambda: turns.get("s", 1)),
            ("recent", lambda: turns.recent("s")),
            ("turns", lambda: _first(turns.scan("s"))),
        ]
        for name, write in writes:
            await write(large)
            assert threads.taken() == ([], ["compress"]), name
        for name, read in reads:
            await read()
            assert threads.taken() == ([], ["decompress"]), name
        await turns.clear("s")
        for name, write in writes:
            await write(LONG["text"])
            assert threads.taken() == (["compress"], []), name
        for name, read in reads:
            await read()
            assert threads.taken() == (["decompress"], []), name
        await kv.put_many({f"{n:03}": LONG["text"] for n in range(300)})  # many small ones are much as well
        assert threads.taken() == ([], ["compress"] * 300)

    _run(scenario)


async def _replace(kv: Any, value: Any) -> None:
    await kv.compare_and_set("a", await kv.put("a", 0), value)


async def _create(kv: Any, value: Any) -> None:
    await kv.delete("a")
    await kv.create("a", value)


async def _first(items: Any) -> Any:
    return [item async for item in items]


def test_a_put_cancelled_while_it_is_compressed_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go = threading.Event(), threading.Event()
    compress = Compression.compress

    def waiting(layer: Compression, data: bytes) -> bytes | None:
        begun.set()
        go.wait()
        return compress(layer, data)

    async def scenario() -> None:
        store, _ = await _open()
        await store.kv.put("a", "old")
        monkeypatch.setattr(Compression, "compress", waiting)
        put = asyncio.create_task(store.kv.put("a", "new " * 200_000))
        await asyncio.to_thread(begun.wait)
        put.cancel()
        with pytest.raises(asyncio.CancelledError):
            await put
        go.set()
        assert await store.kv.get("a") == "old"

    _run(scenario)


def test_readers_of_one_large_value_share_its_unpacking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Single flight holds though it is unpacked in a thread (CCH-1)."""

    async def scenario() -> None:
        async with polymem.open("memory:", compression=True, cache=CachePolicy(mode="write_around")) as store:
            await store.kv.put("a", "words " * 200_000)
            threads = Threads(monkeypatch)
            values = await asyncio.gather(*(store.kv.get("a") for _ in range(20)))
            assert values == ["words " * 200_000] * 20
            assert threads.taken() == ([], ["decompress"])

    _run(scenario)
