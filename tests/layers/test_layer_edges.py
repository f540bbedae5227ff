"""What the layers say where something they need is missing or damaged (LAY-1, LAY-2, G-2)."""

import asyncio
import dataclasses
import importlib.util
import sys
from types import ModuleType
from typing import Any

import pytest
from layers.layered import NEW_RING, OLD_RING, opened, sealing

from polymem import Store
from polymem.contracts.drivers import Drivers, Layer
from polymem.core.registry import create_engine
from polymem.engines.memory.engine import MemoryEngine
from polymem.errors import StorageCorruptError, StorageDataError, StorageError, StorageUnsupportedError
from polymem.layers import _keyring, compression
from polymem.layers.cache import CachedEngine, CachePolicy
from polymem.layers.encryption import Encryption, Keyring, rotate

pytestmark = pytest.mark.anyio


def _loaded_without(library: str, module: ModuleType) -> None:
    spec = importlib.util.spec_from_file_location("loaded_again", str(module.__file__))
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.parametrize(
    ("library", "module", "extra"),
    [("zstandard", compression, "polymem[compression]"), ("cryptography.exceptions", _keyring, "polymem[encryption]")],
)
def test_a_missing_library_is_named(
    monkeypatch: pytest.MonkeyPatch, library: str, module: ModuleType, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(StorageUnsupportedError) as caught:
        _loaded_without(library, module)
    assert extra in str(caught.value)


def test_what_encryption_is_made_with() -> None:
    with pytest.raises(StorageDataError) as caught:
        Encryption("a password")  # type: ignore[arg-type]
    assert caught.value.field == "encryption"
    with pytest.raises(StorageDataError) as caught:
        OLD_RING.hide(("k",))
    assert caught.value.field == "names"


@pytest.mark.parametrize(
    ("layer", "altered", "passed"),
    [
        (compression.Compression(), {"kv", "turns"}, {"vectors", "text", "graph", "blobs", "sql", "transactions", "events"}),
        (Encryption(OLD_RING), {"kv", "turns", "blobs"}, {"transactions", "events"}),
    ],
)  # fmt: skip
def test_only_contracts_that_a_layer_names_pass(layer: Layer, altered: set[str], passed: set[str]) -> None:
    """Fails closed: a contract that comes later must be thought about first. Events tell of keys only."""
    others: dict[str, Any] = {f.name: object() for f in dataclasses.fields(Drivers) if f.name not in altered}
    seen = layer(Drivers(**others), "")
    assert {name for name in others if getattr(seen, name) is not None} == passed


async def _store(engine: Any, ring: Keyring = OLD_RING) -> Store:
    return await opened(sealing(ring), engine=engine)


class Partly(MemoryEngine):
    """An engine with a few contracts, whatever the memory engine has."""

    has: tuple[str, ...] = ()

    def drivers(self, namespace: str) -> Drivers:
        whole = super().drivers(namespace)
        return Drivers(**{f.name: getattr(whole, f.name) for f in dataclasses.fields(Drivers) if f.name in self.has})


@pytest.mark.parametrize("contract", ["kv", "turns", "blobs"])
async def test_rotation_of_an_engine_with_one_contract(contract: str) -> None:
    engine = Partly()
    engine.has = ("kv", "turns", "blobs", "transactions")
    store = await _store(engine)
    await store.kv.put("k", 1)
    await store.turns.append("s", "user", "hello")
    await store.blobs().put("b", b"x")
    engine.has = (contract, "transactions")
    done = await rotate(await _store(engine, NEW_RING), NEW_RING)
    assert (done.contract, done.seen, done.rewritten) == (contract, 1, 1)


async def test_rotation_reads_page_after_page() -> None:
    engine = create_engine("memory:")
    store = await _store(engine)
    for number in range(3):
        await store.blobs().put(f"{number}", b"x")
    assert (await rotate(store, NEW_RING, batch=1)).rewritten == 3


async def test_rotation_needs_transactions() -> None:
    engine = Partly()
    engine.has = ("kv",)
    store = await _store(engine)
    await store.kv.put("k", 1)
    with pytest.raises(StorageUnsupportedError, match="rotation needs transactions"):
        await rotate(store, NEW_RING)
    assert await store.kv.get("k") == 1


@pytest.mark.parametrize(("raised", "heard"), [(ZeroDivisionError, ZeroDivisionError), (OSError, StorageError)])
async def test_errors_of_the_engine_during_a_rotation(raised: type[Exception], heard: type[Exception]) -> None:
    """What the engine knows is translated, what nobody knows passes as it is."""

    class Failing(MemoryEngine):
        async def delete_expired(self, limit: int) -> int:
            raise raised

        def translate(self, error: Exception) -> StorageError | None:
            return StorageError("the disk is gone") if isinstance(error, OSError) else None

    store = await _store(Failing())
    with pytest.raises(heard) as caught:
        await rotate(store, NEW_RING)
    assert type(caught.value) is heard


async def _damaged(change: dict[str, Any]) -> Store:
    """A store with one encrypted blob, of which the engine keeps something else than was written."""
    engine = create_engine("memory:")
    store = await _store(engine)
    await store.blobs("c").put("b", b"x")
    blobs = engine.drivers("").blobs
    info = await blobs.info("c", "b")
    upload = await blobs.begin("c")
    await blobs.write_part("c", upload, 0, b"")
    await blobs.commit("c", upload, info._replace(version=upload, **change))
    return store


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"metadata": {}}, "damaged"),
        ({"metadata": {"sealed": "no base64!"}}, "damaged"),
        ({"content_type": "text/plain"}, "written without encryption"),
    ],
)
async def test_a_blob_whose_description_was_changed(change: dict[str, Any], words: str) -> None:
    store = await _damaged(change)
    with pytest.raises(StorageCorruptError, match=words):
        await store.blobs("c").info("b")


async def test_a_copy_of_what_is_not_there_or_is_another_by_now() -> None:
    """The driver is asked by its contract: the source may go, or change, between being looked at and copied."""
    engine = create_engine("memory:")
    store = await _store(engine)
    await store.blobs("c").put("b", b"x")
    blobs: Any = store._driver("blobs")
    info = await blobs.info("c", "b")
    copied = info._replace(key="copy", version=await blobs.begin("c"))
    assert not await blobs.copy("c", "absent", copied)
    assert not await blobs.copy("c", "b", copied._replace(checksum="of something else"))
    assert await blobs.info("c", "copy") is None


async def test_a_cache_by_itself_tells_nobody_of_evictions() -> None:
    """A store that is opened over it asks to be told."""
    engine = CachedEngine(MemoryEngine(), 1)
    await engine.open()
    kv: Any = engine.drivers("").kv
    for key in ("a", "b", "a"):
        await kv.put(key, b"1", "json", version=1, expires_at=None)
        assert await kv.get(key) == (b"1", "json")
    await engine.close()


async def test_a_round_of_writes_that_is_cancelled_leaves_them_waiting() -> None:
    """As at the end of a loop: closing writes them."""
    inner = MemoryEngine()
    engine = CachedEngine(inner, CachePolicy(mode="write_back", max_delay=1000.0))
    await engine.open()
    kv: Any = engine.drivers("").kv
    await kv.put("a", b"1", "json", version=1, expires_at=None)
    back: Any = engine._back
    task = back._start(lambda _: True)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(0)
    assert len(back) == 1
    stored: Any = inner.drivers("").kv
    assert await stored.get("a") is None
    await back.settle()
    assert await stored.get("a") == (b"1", "json")
    await engine.close()


async def test_of_a_key_twice_in_one_batch_the_cache_keeps_the_last() -> None:
    engine = CachedEngine(MemoryEngine(), 10)
    await engine.open()
    kv: Any = engine.drivers("").kv
    await kv.put_many([("a", b"1", "json", 1, None), ("b", b"2", "json", 2, None), ("a", b"3", "json", 3, None)])
    for _ in range(2):  # from the engine, from the cache
        assert await kv.get_many(["a", "b"]) == {"a": (b"3", "json"), "b": (b"2", "json")}
    await engine.close()
