"""Binary objects (BLO-1)."""

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator
from copy import deepcopy
from typing import Any

from polymem.core.clock import to_datetime
from polymem.errors import StorageDataError, StorageNotFoundError
from polymem.testing.clause import clause
from polymem.testing.clauses.names import HOSTILE, NOT_TEXT, TOO_LONG, VALUES
from polymem.testing.clauses.samples import in_pieces, some_bytes
from polymem.testing.expect import listed, refused, same
from polymem.testing.kit import Kit


@clause("blobs")
async def every_size(kit: Kit) -> None:
    """Whatever the size, nothing and the edges of a part included, the bytes come back and the checksum is theirs."""
    blobs, part = kit.store.blobs(), kit.features("blobs").part_bytes
    for size in (0, 1, part - 1, part, part + 1, 2 * part, 3 * part + 7):
        data = some_bytes(size)
        made = await blobs.put(f"{size}", data)
        assert (made.size, made.checksum) == (size, hashlib.sha256(data).hexdigest())
        assert await blobs.get(f"{size}") == data
        assert b"".join(await listed(blobs.stream(f"{size}"))) == data
        assert await blobs.info(f"{size}") == made


@clause("blobs")
async def every_source(kit: Kit) -> None:
    """Bytes, byte arrays, views, asynchronous streams of any piece size and files are the same blob."""
    blobs, data = kit.store.blobs(), some_bytes(kit.features("blobs").part_bytes + 1000)
    sources: list[Any] = [
        data,
        bytearray(data),
        memoryview(data),
        in_pieces(data, 777),
        in_pieces(data, 10**7),
        io.BytesIO(data),
    ]
    for number, source in enumerate(sources):
        await blobs.put(f"{number}", source)
        assert await blobs.get(f"{number}") == data
    await blobs.put("none", in_pieces(b"", 1))
    await blobs.put("empty pieces", _with_empty_pieces())
    assert (await blobs.get("none"), await blobs.get("empty pieces")) == (b"", b"ab")


async def _with_empty_pieces() -> AsyncIterator[bytes]:
    for piece in (b"", b"a", b"", b"b", b""):
        yield piece


@clause("blobs")
async def ranges(kit: Kit) -> None:
    """Read gives any part of a blob, over the edges of its parts; nothing beyond the end."""
    blobs, part = kit.store.blobs(), kit.features("blobs").part_bytes
    data = some_bytes(2 * part + 100)
    await blobs.put("a", data)
    for start in (0, 1, part - 1, part, part + 1, 2 * part, len(data) - 1, len(data), len(data) + 1):
        for length in (0, 1, 2, part, part + 1, len(data), None):
            wanted = data[start:] if length is None else data[start : start + length]
            assert await blobs.read("a", start, length) == wanted, (start, length)


@clause("blobs")
async def what_is_known_of_it(kit: Kit) -> None:
    """Type, metadata of any JSON, instant and version are kept; a put replaces all of it."""
    blobs, metadata = kit.store.blobs(), {f"{n}": value for n, value in enumerate(VALUES)}
    first = await blobs.put("a", b"1", metadata=metadata, content_type="text/plain; charset=utf-8")
    found = await blobs.info("a")
    assert found is not None
    assert await blobs.exists("a")
    assert same(found.metadata, metadata)
    assert found.content_type == "text/plain; charset=utf-8"
    assert found.created_at == to_datetime(kit.clock.now())
    kit.clock.advance(1)
    second = await blobs.put("a", b"22")
    assert await blobs.info("a") == second
    assert second.metadata == {}
    assert second.size == 2
    assert second.version != first.version
    assert second.created_at > first.created_at
    assert await blobs.count() == 1


@clause("blobs")
async def absent(kit: Kit) -> None:
    """What is absent is None, False or 0; a stream, range or copy of it is not found."""
    blobs = kit.store.blobs()
    assert await blobs.get("a") is None
    assert await blobs.info("a") is None
    assert not await blobs.exists("a")
    assert not await blobs.delete("a")
    assert await blobs.count() == await blobs.clear() == 0
    assert await listed(blobs.scan()) == []
    with refused(StorageNotFoundError):
        await listed(blobs.stream("a"))
    with refused(StorageNotFoundError):
        await blobs.read("a")
    with refused(StorageNotFoundError):
        await blobs.copy("a", "b")


@clause("blobs")
async def listing_by_prefix(kit: Kit) -> None:
    """Scan and count take a prefix literally and list in order of key."""
    blobs = kit.store.blobs()
    await asyncio.gather(*(blobs.put(key, key.encode()) for key in HOSTILE))
    assert [blob.key async for blob in blobs.scan()] == sorted(HOSTILE)
    for prefix in {key[:length] for key in HOSTILE for length in (1, 2)}:
        wanted = sorted(key for key in HOSTILE if key.startswith(prefix))
        assert [blob.key async for blob in blobs.scan(prefix)] == wanted, ascii(prefix)
    assert await blobs.count("a") == sum(key.startswith("a") for key in HOSTILE)
    for key in HOSTILE:
        assert await blobs.get(key) == key.encode()


@clause("blobs")
async def copying(kit: Kit) -> None:
    """A copy has all of its source and is a blob of its own."""
    blobs, data = kit.store.blobs(), some_bytes(kit.features("blobs").part_bytes + 5)
    made = await blobs.put("a", data, metadata={"n": 1}, content_type="x/y")
    kit.clock.advance(1)
    copied = await blobs.copy("a", "b")
    assert (copied.checksum, copied.metadata, copied.content_type) == (made.checksum, {"n": 1}, "x/y")
    assert copied.key == "b"
    assert copied.version != made.version
    assert await blobs.info("b") == copied
    await blobs.delete("a")
    assert await blobs.get("b") == data
    assert await blobs.get("a") is None
    await blobs.put("a", b"new")
    await blobs.copy("a", "b")
    await blobs.copy("a", "a")
    assert await blobs.get("b") == await blobs.get("a") == b"new"
    assert await blobs.count() == 2


@clause("blobs")
async def deleting(kit: Kit) -> None:
    """Delete and clear say what was there and leave nothing of it."""
    blobs = kit.store.blobs()
    for key in "abc":
        await blobs.put(key, some_bytes(1000))
    assert await blobs.delete("a")
    assert not await blobs.delete("a")
    assert await blobs.get("a") is None
    assert await blobs.count() == 2
    assert await blobs.clear() == 2
    assert await listed(blobs.scan()) == []


@clause("blobs")
async def containers_are_listed(kit: Kit) -> None:
    """Those that hold a blob, each once, in order, and those of this namespace only."""
    for name in ("b", "a", "B", "default", "_"):
        for key in ("1", "2"):
            await kit.store.blobs(name).put(key, b"x")
    await kit.store.namespace("inner").blobs("inside").put("1", b"x")
    await kit.store.blobs("empty").put("1", b"x")
    await kit.store.blobs("empty").delete("1")
    assert await listed(kit.store.containers()) == ["B", "_", "a", "b", "default"]
    driver = kit.store._driver("blobs")  # noqa: SLF001 - users hold no pages
    first = await driver.containers(None, 2)
    second = await driver.containers(first.after, 9)
    assert (first.items, second.items, second.after) == (["B", "_"], ["a", "b", "default"], None)
    assert (await driver.containers("zzz", 9)).items == []


@clause("blobs", uses=["transactions"])
async def a_transaction_lists_its_own_containers(kit: Kit) -> None:
    """Those it made and not those it emptied, and nobody else sees that before the commit."""
    await kit.store.blobs("emptied").put("1", b"x")
    async with kit.store.transaction() as tx:
        await tx.blobs("made").put("1", b"x")
        await tx.blobs("emptied").delete("1")
        assert await listed(tx.containers()) == ["made"]
        assert await listed(kit.store.containers()) == ["emptied"]
    assert await listed(kit.store.containers()) == ["made"]


@clause("blobs")
async def containers_are_apart(kit: Kit) -> None:
    """Containers of other names and namespaces share nothing."""
    rooms = [kit.store.blobs(), kit.store.blobs("other"), kit.store.blobs("Other"), kit.store.namespace("n").blobs()]
    for number, blobs in enumerate(rooms):
        await blobs.put("a", f"{number}".encode())
    await rooms[1].delete("a")
    assert [await blobs.get("a") for blobs in rooms] == [b"0", None, b"2", b"3"]


@clause("blobs")
async def bad_input(kit: Kit) -> None:
    """Keys, sources, metadata, types and ranges are refused by their names, and nothing is written (G-2)."""
    blobs: Any = kit.store.blobs()
    for key in (*NOT_TEXT, *TOO_LONG):
        for call in (
            lambda k: blobs.put(k, b""),
            blobs.get,
            blobs.info,
            blobs.read,
            blobs.delete,
            lambda k: listed(blobs.stream(k)),
        ):
            with refused(StorageDataError, field="key"):
                await call(key)
        with refused(StorageDataError, field="source"):
            await blobs.copy(key, "a")
        with refused(StorageDataError, field="target"):
            await blobs.copy("a", key)
    for source in ("text", None, 1, [b"a"], io.StringIO("text"), object()):
        with refused(StorageDataError, field="source"):
            await blobs.put("a", source)
    for metadata in ("a", [1], {"a": float("nan")}, {1: 2}, {"a": b""}):
        with refused(StorageDataError, field="metadata"):
            await blobs.put("a", b"", metadata=metadata)
    for kind in ("", None, 1, "\x00"):
        with refused(StorageDataError, field="content_type"):
            await blobs.put("a", b"", content_type=kind)
    assert await blobs.count() == 0
    await blobs.put("a", b"abc")
    for number in (-1, 1.5, "1", True):
        with refused(StorageDataError, field="start"):
            await blobs.read("a", number)
        with refused(StorageDataError, field="length"):
            await blobs.read("a", 0, number)
    for prefix in (None, 1, "\ud800"):
        with refused(StorageDataError, field="prefix"):
            await listed(blobs.scan(prefix))
    with refused(StorageDataError, field="name"):
        kit.store.blobs("a b")


@clause("blobs")
async def input_is_not_mutated(kit: Kit) -> None:
    """Metadata and buffers come back untouched; later changes to them change nothing stored (G-3)."""
    metadata, data = {"a": [1]}, bytearray(b"abc")
    before = deepcopy(metadata)
    await kit.store.blobs().put("a", data, metadata=metadata)
    assert metadata == before
    assert data == b"abc"
    metadata["a"].append(2)
    data[0] = 0
    for _ in range(2):
        found = await kit.store.blobs().info("a")
        assert found is not None
        assert found.metadata == before
        found.metadata["a"].append(3)
    assert await kit.store.blobs().get("a") == b"abc"


@clause("blobs", needs=lambda f: f.durable)
async def survives_reopening(kit: Kit) -> None:
    """Bytes and all that is known of them are the same after closing and opening."""
    data = some_bytes(kit.features("blobs").part_bytes + 1)
    made = await kit.store.blobs().put("a", data, metadata={"n": [None]})
    store = await kit.reopen()
    assert await store.blobs().info("a") == made
    assert await store.blobs().get("a") == data
