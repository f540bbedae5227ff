"""Key rotation (LAY-2): everything moves to the new key, nothing else changes, and it may be interrupted."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from layers.layered import NEW, NEW_RING, OLD_RING, PART, opened, sealing

import polymem
from polymem import Store
from polymem.core.clock import ManualClock
from polymem.engines.memory.blobs import MemoryBlobs
from polymem.errors import StorageDataError, StorageQueryError
from polymem.layers.encryption import Key, Keyring, Progress, rotate

pytestmark = pytest.mark.anyio


async def test_rotation(tmp_path: Path) -> None:
    """Afterwards the old key is not needed any more, and nothing else has changed but the versions of blobs."""
    url, clock = f"sqlite:///{tmp_path}/a.db", ManualClock()
    async with polymem.open(url, encryption=OLD_RING, compression=True, clock=clock) as store:
        rooms = [store, store.namespace("a"), store.namespace("a", "b/c")]
        for room in rooms:
            await room.kv.put_many({f"{n}": [n, "words " * 400] for n in range(25)}, ttl=100)
            await room.turns.append_many("s", [{"role": "user", "content": f"{n}"} for n in range(25)])
            await room.blobs().put("b", b"x" * (PART + 1), metadata={"m": 1})
            await room.blobs("more").put("c", b"y")
        await store.kv.put("gone", 1, ttl=1)
        clock.advance(1)
        before = [await _content(room) for room in rooms]
    async with polymem.open(url, encryption=NEW_RING, compression=True, clock=clock) as store:
        await store.kv.put("new", 1)
        await store.namespace("a").blobs().copy("b", "copy")  # sealed anew, but its parts are the old ones
        seen: list[int] = []
        done = await rotate(store, NEW_RING, batch=10, progress=lambda p: seen.append(p.rewritten))
        assert (done.seen, done.rewritten) == (3 * (25 + 25 + 2) + 2, 3 * (25 + 25 + 2) + 1)
        assert seen == sorted(seen)
        assert len(seen) > 3 * 6
        assert (await rotate(store, NEW_RING)).rewritten == 0
    async with polymem.open(url, encryption=Keyring(Key("new", NEW)), compression=True, clock=clock) as store:
        assert await store.kv.delete("new")
        assert await store.namespace("a").blobs().get("copy") == b"x" * (PART + 1)
        assert await store.namespace("a").blobs().delete("copy")
        rooms = [store, store.namespace("a"), store.namespace("a", "b/c")]
        assert [await _content(room) for room in rooms] == before


async def _content(store: Store) -> Any:
    """Everything a reader sees, but for what rotation changes: updated_at of values, versions of blobs."""
    values = [entry._replace(updated_at=entry.created_at) async for entry in store.kv.entries()]
    turns = [turn async for turn in store.turns.scan("s")]
    found = [(blobs, blob) for blobs in (store.blobs(), store.blobs("more")) async for blob in blobs.scan()]
    known = [(b.key, b.size, b.checksum, b.metadata, b.created_at, await blobs.get(b.key)) for blobs, b in found]
    return values, turns, known


class Interruption(Exception):
    """Something stops the rotation."""


async def test_an_interrupted_rotation_goes_on(engine: Any, encrypted: Store) -> None:
    """What is done stays done, both keys are readable meanwhile, and the second run does the rest only."""
    await encrypted.kv.put_many({f"{n:02}": n for n in range(30)})
    store = await opened(sealing(NEW_RING), engine=engine)

    def stop(progress: Progress) -> None:
        if progress.rewritten == 20:
            raise Interruption

    with pytest.raises(Interruption):
        await rotate(store, NEW_RING, batch=10, progress=stop)
    assert await store.kv.get_many([f"{n:02}" for n in range(30)]) == {f"{n:02}": n for n in range(30)}
    done = await rotate(store, NEW_RING, batch=10)
    assert (done.seen, done.rewritten) == (30, 10)


async def test_writes_during_a_rotation_are_not_lost(engine: Any, encrypted: Store) -> None:
    """Between two pages others write, touch and delete; the rotation overwrites and revives nothing."""
    await encrypted.kv.put_many({f"{n:02}": "old" for n in range(40)})
    await encrypted.turns.append_many("s", [{"role": "user", "content": "old"}] * 40)
    await encrypted.blobs().put("b", b"old")
    store = await opened(sealing(NEW_RING), engine=engine)
    versions = {e.key: e.version async for e in store.kv.entries()}

    async def write() -> None:
        for n in range(0, 40, 4):
            await store.kv.put(f"{n:02}", "new")
            await store.kv.touch(f"{n + 1:02}", ttl=1000)
            await store.kv.delete(f"{n + 2:02}")
            await store.turns.delete("s", n + 1)
            await store.blobs().put("b", b"%d" % n)
            await asyncio.sleep(0)

    await asyncio.gather(rotate(store, NEW_RING, batch=1), write())
    fresh = await opened(sealing(Keyring(Key("new", NEW))), engine=engine)
    for n in range(0, 40, 4):
        assert await fresh.kv.get(f"{n:02}") == "new"
        assert await fresh.kv.ttl(f"{n + 1:02}") is not None
        assert not await fresh.kv.exists(f"{n + 2:02}")
        assert not await fresh.turns.exists("s", n + 1)
    assert await fresh.turns.count() == 30
    assert await fresh.blobs().get("b") == b"36"
    await fresh.kv.compare_and_set("03", versions["03"], "a version from before the rotation still counts")


@pytest.mark.parametrize("newer", [b"newer", None])
async def test_a_blob_replaced_while_it_is_written_anew(
    engine: Any, encrypted: Store, newer: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newer blob stays, and a deleted one stays deleted; the upload is given up."""
    await encrypted.blobs().put("b", b"older")
    store = await opened(sealing(NEW_RING), engine=engine)
    write_part, pending = MemoryBlobs.write_part, [1]

    async def interfered(self: MemoryBlobs, *arguments: Any) -> None:
        if pending and pending.pop():
            await (store.blobs().delete("b") if newer is None else store.blobs().put("b", newer))
        await write_part(self, *arguments)

    monkeypatch.setattr(MemoryBlobs, "write_part", interfered)
    done = await rotate(store, NEW_RING)
    assert (done.seen, done.rewritten) == (1, 0)
    assert await store.blobs().get("b") == newer
    assert not pending


async def test_rotation_leaves_plain_records_and_refuses_nonsense(plain: Store) -> None:
    await plain.kv.put("a", 1)
    await plain.turns.append("s", "user", "x")
    await plain.blobs().put("b", b"x")
    assert (await rotate(plain, NEW_RING)).rewritten == 0
    assert await plain.kv.get("a") == 1
    with pytest.raises(StorageDataError) as caught:
        await rotate(plain, NEW_RING, batch=0)
    assert caught.value.field == "batch"
    with pytest.raises(StorageDataError):
        await rotate(plain, "secret")  # type: ignore[arg-type]
    async with plain.transaction():
        with pytest.raises(StorageQueryError):
            await rotate(plain, NEW_RING)
