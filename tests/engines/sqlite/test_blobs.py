"""BLO-1 in the file: parts of 256 kB, visible whole, and no part left behind."""

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from polymem.contracts.blobs import PART_BYTES, BlobDriver, BlobInfo
from polymem.errors import StorageCorruptError, StorageDataError, StorageNotFoundError
from polymem.store import Store

pytestmark = pytest.mark.anyio
DATA = os.urandom(2 * PART_BYTES + 1000)


@pytest.fixture
def driver(store: Store) -> BlobDriver:
    found = store.engine.drivers("").blobs
    assert found is not None
    return found


async def stored(store: Store) -> tuple[int, int, int]:
    """Rows of parts, uploads and blobs in the whole file."""
    tables = ("pm_blob_parts", "pm_uploads", "pm_blobs")
    parts, uploads, blobs = [(await store.sql.query(f"select count(*) from {t}"))[0][0] for t in tables]
    return parts, uploads, blobs


@pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES, len(DATA)])
async def test_sizes_around_a_part(store: Store, size: int) -> None:
    blob = await store.blobs().put("k", DATA[:size], metadata={"a": [1, "ü"]}, content_type="text/plain")
    assert await store.blobs().get("k") == DATA[:size]
    assert await store.blobs().info("k") == blob
    assert await stored(store) == (-(-size // PART_BYTES), 1, 1)


async def test_ranges(store: Store) -> None:
    blobs = store.blobs()
    await blobs.put("k", DATA)
    for start in (0, 1, PART_BYTES - 1, PART_BYTES, 2 * PART_BYTES, len(DATA) - 1, len(DATA), len(DATA) + 9):
        for length in (0, 1, 2, PART_BYTES, PART_BYTES + 1, len(DATA), None):
            end = None if length is None else start + length
            assert await blobs.read("k", start, length) == DATA[start:end], (start, length)


async def test_replacing_and_deleting_remove_the_parts_at_once(store: Store) -> None:
    blobs = store.blobs()
    await blobs.put("k", DATA)
    await blobs.put("k", b"short")
    assert await blobs.get("k") == b"short"
    assert await stored(store) == (1, 1, 1)
    assert await blobs.delete("k") is True
    assert await blobs.delete("k") is False
    assert await stored(store) == (0, 0, 0)


async def test_copies_live_on_their_own(store: Store) -> None:
    blobs = store.blobs()
    blob = await blobs.put("k", DATA, metadata={"a": 1})
    await blobs.put("target", b"replaced by the copy")
    copy = await blobs.copy("k", "target")
    assert (copy.checksum, copy.metadata, copy.size) == (blob.checksum, {"a": 1}, len(DATA))
    assert copy.version != blob.version
    assert await stored(store) == (6, 2, 2)
    await blobs.delete("k")
    assert await blobs.get("target") == DATA
    onto_itself = await blobs.copy("target", "target")
    assert await blobs.get("target") == DATA
    assert onto_itself.version != copy.version
    assert await stored(store) == (3, 1, 1)
    with pytest.raises(StorageNotFoundError):
        await blobs.copy("absent", "x")


async def test_copy_of_something_else_than_described_is_not_made(store: Store, driver: BlobDriver) -> None:
    """The source was replaced between the two calls."""
    await store.blobs("c").put("k", DATA)
    found = await driver.info("c", "k")
    assert found is not None
    await store.blobs("c").put("k", b"other")
    assert await driver.copy("c", "k", found._replace(key="copy", version="v")) is False
    assert await stored(store) == (1, 1, 1)


async def test_nothing_is_visible_before_commit(store: Store, driver: BlobDriver) -> None:
    await store.blobs("c").put("k", b"old")
    upload = await driver.begin("c")
    await driver.write_part("c", upload, 0, b"new")
    assert await store.blobs("c").get("k") == b"old"
    with pytest.raises(StorageNotFoundError):
        await driver.read("c", upload, 0, 3)
    await driver.commit("c", upload, BlobInfo("k", 3, "", "text/plain", {}, 5, upload))
    assert await driver.read("c", upload, 0, 3) == b"new"


async def test_a_failed_or_cancelled_put_leaves_nothing(store: Store) -> None:
    await store.blobs().put("k", b"old")
    waiting = asyncio.Event()

    async def fails() -> AsyncIterator[bytes]:
        yield DATA
        raise ZeroDivisionError

    async def hangs() -> AsyncIterator[bytes]:
        yield DATA
        waiting.set()
        await asyncio.Event().wait()

    with pytest.raises(ZeroDivisionError):
        await store.blobs().put("k", fails())
    putting = asyncio.create_task(store.blobs().put("k", hangs()))
    await waiting.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert await store.blobs().get("k") == b"old"
    assert await stored(store) == (1, 1, 1)


async def test_uploads_that_do_not_fit_are_refused(store: Store, driver: BlobDriver) -> None:
    def info(upload: str) -> BlobInfo:
        return BlobInfo("k", 0, "", "text/plain", {}, 5, upload)

    gap = await driver.begin("c")
    await driver.write_part("c", gap, 1, b"x")
    short = await driver.begin("c")
    for number in range(2):
        await driver.write_part("c", short, number, b"x")
    for upload, field in ((gap, "number"), (short, "data")):
        with pytest.raises(StorageDataError) as caught:
            await driver.commit("c", upload, info(upload))
        assert caught.value.field == field
    with pytest.raises(StorageDataError):
        await driver.write_part("c", gap, 0, bytes(PART_BYTES + 1))
    for container, upload in (("other", gap), ("c", "made up")):
        with pytest.raises(StorageNotFoundError):
            await driver.write_part(container, upload, 0, b"x")
        await driver.abort(container, upload)
    assert await store.blobs("c").info("k") is None
    for upload in (gap, short):
        await driver.abort("c", upload)
    assert await stored(store) == (0, 0, 0)


async def test_a_finished_upload_cannot_be_changed_or_aborted(store: Store, driver: BlobDriver) -> None:
    blob = await store.blobs("c").put("k", b"done")
    await driver.abort("c", blob.version)
    with pytest.raises(StorageNotFoundError):
        await driver.write_part("c", blob.version, 0, b"x")
    assert await store.blobs("c").get("k") == b"done"


async def test_a_part_sent_twice_counts_once(store: Store, driver: BlobDriver) -> None:
    """A retry after a lost answer."""
    upload = await driver.begin("c")
    for data in (b"first", b"again"):
        await driver.write_part("c", upload, 0, data)
    await driver.commit("c", upload, BlobInfo("k", 5, "", "text/plain", {}, 5, upload))
    assert await driver.read("c", upload, 0, 9) == b"again"


async def test_damage_is_noticed(store: Store) -> None:
    await store.blobs().put("k", DATA)
    await store.blobs().put("gone", DATA)
    version = (await store.blobs().info("gone")).version  # type: ignore[union-attr]
    await store.sql.execute("delete from pm_blob_parts where upload = ? and number = 1", [version])
    with pytest.raises(StorageCorruptError):
        await store.blobs().get("gone")
    await store.sql.execute("update pm_blob_parts set data = zeroblob(length(data)) where number = 1")
    with pytest.raises(StorageCorruptError):
        await store.blobs().get("k")


async def test_scanning_by_prefix(store: Store) -> None:
    names = ["a", "a/1", "a/2", "a0", "b", "A", "a%", "ü", "\U0010ffff", "\U0010ffffx"]
    for name in names:
        await store.blobs().put(name, b"x")
    for prefix in ("", "a", "a/", "A", "ü", "\U0010ffff", "none"):
        assert [b.key async for b in store.blobs().scan(prefix)] == sorted(n for n in names if n.startswith(prefix))
    page = await store.engine.drivers("").blobs.page("default", "a", None, 2)
    assert ([info.key for info in page.items], page.after) == (["a", "a%"], "a%")


async def test_containers_and_namespaces_are_apart(store: Store, driver: BlobDriver) -> None:
    places = [store.blobs("c"), store.blobs("C"), store.namespace("n").blobs("c")]
    versions = [(await place.put("k", DATA)).version for place in places]
    upload = await driver.begin("c")
    await driver.write_part("c", upload, 0, b"x")
    with pytest.raises(StorageNotFoundError):
        await driver.read("c", versions[2], 0, 5)
    assert await places[0].clear() == 1
    assert [await place.exists("k") for place in places] == [False, True, True]
    assert await stored(store) == (6, 2, 2)


async def test_statements_search_indexes(store: Store) -> None:
    for statement in (
        "select data from pm_blob_parts where upload = 'u' and number between 1 and 2 order by number",
        "select upload from pm_uploads where namespace = '' and container = 'c'",
        "select key from pm_blobs where namespace = '' and container = 'c' and key >= 'a' order by key",
    ):
        plan = [step for *_, step in await store.sql.query(f"explain query plan {statement}")]
        assert all(step.startswith("SEARCH") for step in plan), plan
