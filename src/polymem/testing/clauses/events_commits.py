"""`watch` beside transactions, with two instances, after closing (EVT-1, EVT-2, TXN-2)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from polymem.errors import StorageConnectionError, StorageDataError, StorageUnsupportedError
from polymem.store import Store
from polymem.testing.clause import clause
from polymem.testing.clauses.events import PATIENCE, puts, told
from polymem.testing.clauses.transactions_all import Undo
from polymem.testing.expect import refused
from polymem.testing.kit import TASKS, Kit


@clause("events", uses=["transactions"])
async def only_what_is_committed(kit: Kit) -> None:
    """Nothing before the commit, then everything at once; nothing of what was rolled back."""
    kv = kit.store.kv
    async with kv.watch() as watch:
        async with kit.store.transaction() as tx:
            await tx.kv.put("a", 1)
            await tx.kv.put("b", 1)
            await tx.kv.delete("a")
            assert await watch.read() == []
        assert await told(watch, 3) == [*puts("a", "b"), ("delete", "a")]
        async with _undone(kit.store) as tx:
            await tx.kv.put("c", 1)
            await tx.kv.clear()
        async with kit.store.transaction() as tx:
            await tx.kv.put("d", 1)
            await tx.rollback()
        assert await watch.read(wait=0.03) == []


@clause("transactions", uses=["events"], needs=lambda f: f.savepoints)
async def changes_beside_savepoints(kit: Kit) -> None:
    """What a savepoint took back is not told to those who watch, what came before and after it is."""
    async with kit.store.kv.watch() as watch:
        async with kit.store.transaction() as tx:
            await tx.kv.put("a", 1)
            try:
                async with tx.savepoint("one"):
                    await tx.kv.put("b", 1)
                    async with tx.savepoint("two"):
                        await tx.kv.delete("a")
                    raise Undo
            except Undo:
                await tx.kv.put("c", 1)
            async with tx.transaction() as inner:
                await inner.namespace("n").kv.put("x", 1)
                await inner.kv.put("d", 1)
        assert await told(watch, 3) == puts("a", "c", "d")


@asynccontextmanager
async def _undone(store: Store) -> AsyncIterator[Store]:
    try:
        async with store.transaction() as tx:
            yield tx
            raise Undo
    except Undo:
        return


@clause("events", uses=["transactions"])
async def begun_beside_a_transaction(kit: Kit) -> None:
    """A transaction under way when a watch begins is in the data that is there, or among the changes."""
    ready, go = asyncio.Event(), asyncio.Event()

    async def transact() -> None:
        async with kit.store.transaction() as tx:
            await tx.kv.put("late", 1)
            ready.set()
            await go.wait()

    task = asyncio.create_task(transact())
    await ready.wait()
    asyncio.get_running_loop().call_later(0.02, go.set)
    async with kit.store.kv.watch() as watch:
        there = await kit.store.kv.exists("late")
        await task
        assert there or await told(watch, 1) == puts("late")


@clause("events", uses=["transactions"])
async def none_inside_a_transaction(kit: Kit) -> None:
    """A transaction's own store cannot be watched."""
    async with kit.store.transaction() as tx:
        with refused(StorageUnsupportedError):
            tx.kv.watch()


@clause("events", uses=["shared"], needs=lambda f: f.cross_process)
async def two_instances(kit: Kit) -> None:
    """Each instance sees what the other commits, whoever began to watch, and both in one order."""
    one, two = kit.store, await kit.second()
    async with one.kv.watch() as first:
        await two.kv.put("a", 1)
        async with two.kv.watch() as second:
            assert await told(first, 1) == puts("a")
            await kit.together(lambda number: (one, two)[number % 2].kv.put(f"{number}", 1))
            assert await told(first, TASKS) == await told(second, TASKS)
        following = two.kv.watch(after=first.position)
        await one.kv.delete("a")
        assert await told(first, 1) == await told(following, 1) == [("delete", "a")]


@clause("events", needs=lambda f: f.resumable)
async def after_a_reopening(kit: Kit) -> None:
    """A position is good after the database was closed, and what was done since without any reader is told."""
    async with kit.store.kv.watch() as watch:
        await kit.store.kv.put("a", 1)
        assert await told(watch, 1) == puts("a")
        position = watch.position
    store = await kit.reopen()
    await store.kv.put("b", 1)
    store = await kit.reopen()
    await store.kv.put("c", 1)
    assert await told(store.kv.watch(after=position), 2) == puts("b", "c")


@clause("events", needs=lambda f: not f.resumable)
async def lost_with_the_log(kit: Kit) -> None:
    """Where the log does not outlive the engine a position of before is refused, and watching begins anew."""
    async with kit.store.kv.watch() as watch:
        position = watch.position
    store = await kit.reopen()
    with refused(StorageDataError, field="after"):
        await store.kv.watch(after=position).read()
    async with store.kv.watch() as anew:
        await store.kv.put("a", 1)
        assert await told(anew, 1) == puts("a")


@clause("events")
async def closing_ends_it(kit: Kit) -> None:
    """A reader that waits is told when the store is closed."""
    async with kit.store.kv.watch() as watch:
        waiting = asyncio.create_task(anext(watch))
        await asyncio.sleep(0.02)
        await kit.root.close()
        done, _ = await asyncio.wait([waiting], timeout=PATIENCE)
        assert done
        assert isinstance(waiting.exception(), StorageConnectionError)
