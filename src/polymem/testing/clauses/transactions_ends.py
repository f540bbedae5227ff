"""How transactions end: on purpose, too late, by an error, by a cancellation (TXN-1, TXN-2)."""

import asyncio

from polymem.errors import StorageConnectionError, StorageTimeoutError
from polymem.store import Store
from polymem.testing.clause import clause
from polymem.testing.clauses.transactions_all import Undo
from polymem.testing.expect import refused
from polymem.testing.kit import Kit


@clause("transactions", uses=["kv"])
async def explicit_endings(kit: Kit) -> None:
    """After commit or rollback the block ends quietly, and the view can do nothing more."""
    async with kit.store.transaction() as tx:
        await tx.kv.put("a", 1)
        await tx.commit()
        assert await kit.store.kv.get("a") == 1
        with refused(StorageConnectionError):
            await tx.kv.put("b", 1)
    async with kit.store.transaction() as tx:
        await tx.kv.put("a", 2)
        await tx.rollback()
        await tx.rollback()
        with refused(StorageConnectionError):
            await tx.kv.get("a")
    assert await kit.store.kv.get("a") == 1
    assert not await kit.store.kv.exists("b")


@clause("transactions", uses=["kv"])
async def used_after_its_end(kit: Kit) -> None:
    """A view kept beyond its block is of no use."""
    async with kit.store.transaction() as tx:
        await tx.kv.put("a", 1)
    for call in (lambda: tx.kv.put("a", 2), lambda: tx.kv.get("a"), tx.kv.count):
        with refused(StorageConnectionError):
            await call()
    assert await kit.store.kv.get("a") == 1


@clause("transactions", uses=["kv"])
async def takes_no_longer_than_allowed(kit: Kit) -> None:
    """After its time a transaction is rolled back, its operations say so, and others can write."""
    with refused(StorageTimeoutError):
        async with kit.store.transaction(timeout=0.05) as tx:
            await tx.kv.put("a", 1)
            await asyncio.sleep(0.2)
            with refused(StorageTimeoutError):
                await tx.kv.put("b", 1)
    assert await kit.store.kv.count() == 0
    await kit.store.kv.put("c", 1)


@clause("transactions", uses=["kv"])
async def what_its_owner_does_wrong_says_nothing_of_the_engine(kit: Kit) -> None:
    """However often a transaction that is over is used, the store goes on working; another try would not help."""
    async with kit.store.transaction() as ended:
        await ended.kv.put("a", 1)
    with refused(StorageTimeoutError):
        async with kit.store.transaction(timeout=0.05) as late:
            await asyncio.sleep(0.2)
            for _ in range(6):
                with refused(StorageConnectionError):
                    await ended.kv.get("a")
                with refused(StorageTimeoutError) as caught:
                    await late.kv.get("a")
                assert not caught.error.retryable
    assert await kit.store.kv.get("a") == 1


@clause("transactions", uses=["kv"])
async def a_cancelled_block_is_rolled_back(kit: Kit) -> None:
    """Cancelled anywhere, also while it waits to begin, a transaction leaves nothing and frees the writer."""
    for pauses in range(8):
        task = asyncio.create_task(_long(kit.store))
        for _ in range(pauses):
            await asyncio.sleep(0.001)
        task.cancel()
        result = (await asyncio.gather(task, return_exceptions=True))[0]
        assert isinstance(result, asyncio.CancelledError)
        assert await kit.store.kv.count() == 0
    async with kit.store.transaction() as tx:
        waiting = asyncio.create_task(_long(kit.root.namespace("other")))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await tx.kv.put("a", 1)
    await kit.store.kv.put("b", 1)
    assert await kit.store.kv.count() == 2


async def _long(store: Store) -> None:
    from polymem.core.guard import in_transaction  # noqa: PLC0415 - an unrelated task, as above

    in_transaction.set(None)
    async with store.transaction() as tx:
        for number in range(1000):
            await tx.kv.put(f"{number}", 1)
            await asyncio.sleep(0.001)


@clause("transactions", uses=["kv"])
async def errors_pass_untouched(kit: Kit) -> None:
    """What the block raises comes out as it is."""
    error = Undo("mine")
    try:
        async with kit.store.transaction():
            raise error
    except Undo as caught:
        assert caught is error  # noqa: PT017 - runs without pytest
