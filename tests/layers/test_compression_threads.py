"""Compression of what is large is done in threads (LAY-1, CCH-1)."""

import asyncio
import threading
from typing import Any

import pytest
from layers.layered import LONG

import polymem
from polymem import Store
from polymem.layers.cache import CachePolicy
from polymem.layers.compression import Compression

pytestmark = pytest.mark.anyio


async def test_threads_have_compressors_of_their_own() -> None:
    """One layer may serve stores on several loops."""
    layer, data = Compression(), b"abc" * 100_000

    def work() -> bool:
        return all(layer.decompress(layer.compress(data) or b"") == data for _ in range(50))

    assert all(await asyncio.gather(*(asyncio.to_thread(work) for _ in range(4))))


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


async def test_large_work_does_not_stall_the_loop(compressed: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever operation it is; small values are done at once."""
    threads, large = Threads(monkeypatch), "words " * 200_000
    kv, turns = compressed.kv, compressed.turns
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


async def _replace(kv: Any, value: Any) -> None:
    await kv.compare_and_set("a", await kv.put("a", 0), value)


async def _create(kv: Any, value: Any) -> None:
    await kv.delete("a")
    await kv.create("a", value)


async def _first(items: Any) -> Any:
    return [item async for item in items]


async def test_a_put_cancelled_while_it_is_compressed_writes_nothing(
    compressed: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Event(), threading.Event()
    compress = Compression.compress

    def waiting(layer: Compression, data: bytes) -> bytes | None:
        begun.set()
        go.wait()
        return compress(layer, data)

    await compressed.kv.put("a", "old")
    monkeypatch.setattr(Compression, "compress", waiting)
    put = asyncio.create_task(compressed.kv.put("a", "new " * 200_000))
    await asyncio.to_thread(begun.wait)
    put.cancel()
    with pytest.raises(asyncio.CancelledError):
        await put
    go.set()
    assert await compressed.kv.get("a") == "old"


async def test_readers_of_one_large_value_share_its_unpacking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Single flight holds though it is unpacked in a thread (CCH-1)."""
    async with polymem.open("memory:", compression=True, cache=CachePolicy(mode="write_around")) as store:
        await store.kv.put("a", "words " * 200_000)
        threads = Threads(monkeypatch)
        values = await asyncio.gather(*(store.kv.get("a") for _ in range(20)))
        assert values == ["words " * 200_000] * 20
        assert threads.taken() == ([], ["decompress"])
