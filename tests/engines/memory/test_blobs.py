"""BLO-1 on the driver."""

import pytest

from polymem.contracts.blobs import PART_BYTES, BlobDriver, BlobInfo
from polymem.core.clock import ManualClock
from polymem.engines.memory.engine import MemoryEngine
from polymem.errors import StorageDataError, StorageNotFoundError

pytestmark = pytest.mark.anyio


@pytest.fixture
def blobs(engine: MemoryEngine) -> BlobDriver:
    driver = engine.drivers("").blobs
    assert driver is not None
    return driver


def info(key: str, version: str, size: int = 0) -> BlobInfo:
    return BlobInfo(key, size, f"sum {size}", "text/plain", {"a": [1]}, 5, version)


async def put(blobs: BlobDriver, key: str, version: str, *parts: bytes) -> None:
    upload = await blobs.begin("c")
    for number, part in enumerate(parts):
        await blobs.write_part("c", upload, number, part)
    await blobs.commit("c", upload, info(key, version, sum(map(len, parts))))


async def test_ranges_across_parts(blobs: BlobDriver) -> None:
    whole = bytes(range(256)) * (PART_BYTES // 256) + b"tail"
    await put(blobs, "k", "v", whole[:PART_BYTES], whole[PART_BYTES:])
    for start, length in (
        (0, len(whole)),
        (PART_BYTES - 3, 5),
        (PART_BYTES, 4),
        (3, 0),
        (len(whole) + 9, 5),
        (1, 10**9),
    ):
        assert await blobs.read("c", "v", start, length) == whole[start : start + length]


async def test_visible_after_commit_and_replaced(blobs: BlobDriver) -> None:
    upload = await blobs.begin("c")
    await blobs.write_part("c", upload, 0, b"one")
    assert await blobs.info("c", "k") is None
    await blobs.commit("c", upload, info("k", "v1"))
    assert await blobs.info("c", "k") == info("k", "v1")
    await put(blobs, "k", "v2")
    assert await blobs.read("c", "v2", 0, 9) == b""
    with pytest.raises(StorageNotFoundError):
        await blobs.read("c", "v1", 0, 1)
    with pytest.raises(StorageNotFoundError):
        await blobs.commit("c", upload, info("k", "v3"))
    assert await blobs.delete("c", "k")
    assert not await blobs.delete("c", "k")
    with pytest.raises(StorageNotFoundError):
        await blobs.read("c", "v2", 0, 1)


async def test_gaps_are_refused_and_nothing_is_visible(blobs: BlobDriver) -> None:
    upload = await blobs.begin("c")
    await blobs.write_part("c", upload, 1, b"x")
    with pytest.raises(StorageDataError):
        await blobs.commit("c", upload, info("k", "v"))
    await blobs.write_part("c", upload, 0, b"short")
    with pytest.raises(StorageDataError):
        await blobs.commit("c", upload, info("k", "v"))
    with pytest.raises(StorageDataError):
        await blobs.write_part("c", upload, 0, b"x" * (PART_BYTES + 1))
    assert await blobs.info("c", "k") is None
    await blobs.abort("c", upload)
    await blobs.abort("c", upload)
    await blobs.abort("never", upload)
    with pytest.raises(StorageNotFoundError):
        await blobs.write_part("c", upload, 0, b"x")


async def test_copy_survives_the_source(blobs: BlobDriver) -> None:
    await put(blobs, "k", "v1", b"body")
    assert not await blobs.copy("c", "none", info("x", "v2", 4))
    assert not await blobs.copy("c", "k", info("x", "v2", 5)), "another checksum: replaced meanwhile"
    assert await blobs.copy("c", "k", info("x", "v2", 4))
    assert await blobs.copy("c", "x", info("x", "v3", 4)), "onto itself"
    await blobs.delete("c", "k")
    assert await blobs.read("c", "v3", 0, 9) == b"body"
    assert await blobs.clear("c") == 1


async def test_pages_by_prefix(blobs: BlobDriver) -> None:
    for number, key in enumerate(("a/2", "b", "a/1", "a/3")):
        await put(blobs, key, str(number))
    page = await blobs.page("c", "a/", None, 2)
    assert ([i.key for i in page.items], page.after) == (["a/1", "a/2"], "a/2")
    page = await blobs.page("c", "a/", "a/2", 2)
    assert ([i.key for i in page.items], page.after) == (["a/3"], None)


async def test_abandoned_uploads_are_swept(engine: MemoryEngine, blobs: BlobDriver, clock: ManualClock) -> None:
    upload = await blobs.begin("c")
    assert (await engine.namespaces("", None, 9)).items == []
    clock.advance(86_400)
    with pytest.raises(StorageNotFoundError):
        await blobs.write_part("c", upload, 0, b"x")
    assert await engine.delete_expired(9) == 0, "an upload is no record"
    assert not engine._view.tables
