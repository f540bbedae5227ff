"""A store belongs to the event loop that opened it (G-8)."""

import asyncio
import threading

import pytest

import polymem
from polymem.errors import StorageConnectionError


async def refused(store: polymem.Store) -> None:
    for call in (store.open, store.close):
        with pytest.raises(StorageConnectionError, match="another event loop"):
            await call()


@pytest.mark.anyio
async def test_another_loop_can_neither_open_nor_close_it() -> None:
    async with polymem.open("memory:") as store:
        thread = threading.Thread(target=lambda: asyncio.run(refused(store)))
        thread.start()
        await asyncio.to_thread(thread.join)
        await store.kv.put("still", "open")
        assert await store.kv.get("still") == "open"


def test_a_later_loop_can_only_close_it() -> None:
    """Nobody else is left to do so; its sweeper ended with its loop."""

    async def opened() -> polymem.Store:
        return await polymem.open("memory:")

    async def closed(store: polymem.Store) -> None:
        with pytest.raises(StorageConnectionError, match="another event loop"):
            await store.open()
        await store.close()
        async with store:
            await store.kv.put("a", 1)

    asyncio.run(closed(asyncio.run(opened())))
