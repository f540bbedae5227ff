"""Binary objects whose writing fails, is cancelled, is slow or comes too late (BLO-1, G-8)."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from polymem.contracts.blobs import Blob
from polymem.errors import Outcome, StorageConnectionError, StorageCorruptError, StorageDataError
from polymem.testing.clause import clause
from polymem.testing.clauses.samples import in_pieces, some_bytes
from polymem.testing.expect import listed, refused
from polymem.testing.faults import Fault, Faults
from polymem.testing.kit import Kit


async def _failing(data: bytes) -> AsyncIterator[bytes]:
    yield data
    raise KeyError("the source broke")


@clause("blobs")
async def a_failed_put_leaves_nothing(kit: Kit) -> None:
    """When the source fails its error passes untouched, the earlier blob stays and nothing new appears."""
    blobs, part = kit.store.blobs(), kit.features("blobs").part_bytes
    await blobs.put("a", b"old")
    for key in ("a", "b"):
        try:
            await blobs.put(key, _failing(some_bytes(2 * part + 1)))
        except KeyError:
            pass
        else:
            raise AssertionError("the error of the source was swallowed")
        with refused(StorageDataError, field="source"):
            await blobs.put(key, _not_bytes())
    assert await blobs.get("a") == b"old"
    assert [blob.key async for blob in blobs.scan()] == ["a"]


async def _not_bytes() -> AsyncIterator[Any]:
    yield b"a" * 1_000_000
    yield "text"


@clause("blobs")
async def a_cancelled_put_leaves_nothing(kit: Kit) -> None:
    """Wherever it is cancelled, the blob is the old one or, once complete, the new one, and the store goes on."""
    blobs, part = kit.store.blobs(), kit.features("blobs").part_bytes
    new = some_bytes(2 * part + 1)
    await blobs.put("a", b"old")
    for pauses in (0, 1, 2, 3, 5, 8, 13):
        task = asyncio.create_task(blobs.put("a", in_pieces(new, part // 2)))
        for _ in range(pauses):
            await asyncio.sleep(0)
        task.cancel()
        result = (await asyncio.gather(task, return_exceptions=True))[0]
        assert isinstance(result, (asyncio.CancelledError, Blob))
        assert await blobs.get("a") in ((b"old", new) if pauses else (b"old",))
        assert await blobs.count() == 1


@clause("blobs")
async def visible_when_complete(kit: Kit) -> None:
    """Until put returns nobody sees a byte of it; a reader that began with the old version never mixes in the new."""
    blobs, part = kit.store.blobs(), kit.features("blobs").part_bytes
    gate, started = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"x" * (part + 1)
        started.set()
        await gate.wait()
        yield b"y"

    task = asyncio.create_task(blobs.put("a", slow()))
    await started.wait()
    assert await blobs.get("a") is None
    assert await listed(blobs.scan()) == []
    gate.set()
    await task
    assert await blobs.get("a") == b"x" * (part + 1) + b"y"


@clause("blobs")
async def readers_and_writers(kit: Kit) -> None:
    """Many who write one key and read it: each read is one of the values, whole."""
    blobs, part = kit.store.blobs(), kit.features("blobs").part_bytes
    values = [bytes([65 + number]) * (part + 3) for number in range(4)]
    await blobs.put("a", values[0])

    async def work(number: int) -> None:
        for step in range(3):
            if number % 2:
                await blobs.put("a", values[(number + step) % 4])
            else:
                assert await blobs.get("a") in values

    await kit.together(work, 8)
    assert await blobs.get("a") in values
    assert await blobs.count() == 1


@clause("blobs")
async def a_put_behind_a_bad_connection(kit: Kit) -> None:
    """Parts are sent again; a put that fails at its end leaves the old blob or is wholly there."""
    faults, data = Faults(), some_bytes(kit.features("blobs").part_bytes * 2)
    store = await kit.faulty(faults)
    faults.plan("blobs.write_part", Fault.LOST, Fault.REPLY_LOST)
    await store.blobs().put("a", data)
    assert await kit.store.blobs().get("a") == data
    faults.plan("blobs.commit", Fault.LOST)
    with refused(StorageConnectionError) as caught:
        await store.blobs().put("a", b"new")
    assert caught.error.outcome is Outcome.UNKNOWN
    assert await kit.store.blobs().get("a") == data
    faults.plan("blobs.commit", Fault.REPLY_LOST)
    with refused(StorageConnectionError):
        await store.blobs().put("a", b"new")
    assert await kit.store.blobs().get("a") == b"new"


@clause("blobs")
async def damage_is_noticed(kit: Kit) -> None:
    """Bytes that are not what was put are an error, at the end of a stream at the latest; a range is not verified."""
    faults, data = Faults(), some_bytes(1000)
    store = await kit.faulty(faults)
    await store.blobs().put("a", data)
    faults.plan("blobs.read", Fault.GARBAGE)
    with refused(StorageCorruptError):
        await store.blobs().get("a")
    faults.plan("blobs.read", Fault.GARBAGE)
    with refused(StorageCorruptError):
        await listed(store.blobs().stream("a"))
    assert await store.blobs().get("a") == data


@clause("blobs")
async def unfinished_uploads_are_swept(kit: Kit) -> None:
    """What a put that died left behind is swept after a day; nothing that is visible goes."""
    faults = Faults()
    store = await kit.faulty(faults)
    await store.blobs().put("a", b"stays")
    faults.plan("blobs.commit", Fault.LOST)
    faults.plan("blobs.abort", *[Fault.LOST] * 3)
    with refused(StorageConnectionError):
        await store.blobs().put("b", some_bytes(1000))
    kit.clock.advance(2 * 86_400)
    await kit.store.delete_expired()
    assert await kit.store.blobs().get("a") == b"stays"
    assert await kit.store.blobs().count() == 1
