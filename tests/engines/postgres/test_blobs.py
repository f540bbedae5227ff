"""Blobs on PostgreSQL: uploads that meet, and what is left of them (BLO-1)."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.anyio, pytest.mark.integration, pytest.mark.server("postgres")]
Open = Callable[..., Any]
LEFT = """
select (select count(*) from pm_uploads where namespace = 'meeting/')::int as uploads, (select count(*) from pm_blob_parts
join pm_uploads using(upload) where namespace = 'meeting/')::int as parts"""


async def left(store: Any) -> tuple[int, int]:
    uploads, parts = (await store.sql.query(LEFT))[0]
    return uploads, parts


async def test_uploads_that_meet_leave_one(opened: Open) -> None:
    """The first of a key too: the bytes of all but the last go at once."""
    root = await opened()
    store = root.namespace("meeting")
    for key in ("a", "b"):
        await asyncio.gather(*(store.blobs().put(key, bytes([n]) * 300_000) for n in range(8)))
        blob = await store.blobs().get(key)
        assert len(set(blob)) == 1
    assert await left(root) == (2, 4)
    await asyncio.gather(*(store.blobs().copy("a", "b") for _ in range(4)))
    assert await left(root) == (2, 4)
    assert await store.blobs().clear() == 2
    assert await left(root) == (0, 0)


async def test_the_first_upload_waits_for_another_first_one(opened: Open) -> None:
    """There is no row yet that it could wait for, and still only one upload is left."""
    root, other = await opened(), (await opened()).namespace("meeting")
    async with root.namespace("meeting").transaction(isolation="read_committed") as tx:
        await tx.blobs().put("first", b"a")
        waiting = asyncio.create_task(other.blobs().put("first", b"b"))
        while not await blocked(root):
            await asyncio.sleep(0.01)
    await waiting
    assert await other.blobs().get("first") == b"b"
    assert await left(root) == (1, 1)
    await other.blobs().clear()


async def blocked(store: Any) -> bool:
    """Whether anybody waits for a lock in this database."""
    waiting = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    return bool(await store.sql.query(waiting))


async def test_dropping_a_namespace_leaves_no_bytes(opened: Open) -> None:
    root = await opened()
    await root.namespace("meeting").blobs("c").put("a", b"x" * 300_000)
    await root.drop_namespace("meeting")
    assert await left(root) == (0, 0)


async def test_clear_beside_puts_leaves_what_is_whole(opened: Open) -> None:
    root = await opened()
    blobs = root.namespace("meeting").blobs()
    for _ in range(10):
        await asyncio.gather(*(blobs.put(f"{n}", b"x" * 1000) for n in range(4)), blobs.clear(), return_exceptions=True)
        keys = [blob.key async for blob in blobs.scan()]
        assert [await blobs.get(key) for key in keys] == [b"x" * 1000] * len(keys)
        assert await left(root) == (len(keys), len(keys))
    await root.drop_namespace("meeting")
