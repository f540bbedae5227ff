"""Transactions on one file, in one process and in two; nothing of them is ever left behind."""

import asyncio
import contextvars
import threading
from pathlib import Path

import apsw
import pytest
from conftest import NewStore

from polymem.engines.sqlite.engine import SqliteEngine
from polymem.errors import (
    StorageConflictError,
    StorageConnectionError,
    StorageDataError,
    StorageQueryError,
    StorageTimeoutError,
)
from polymem.store import Store, TransactionStore

pytestmark = pytest.mark.anyio


async def still_works(store: Store) -> None:
    """The writer serves the next caller, alone and with a transaction."""
    await asyncio.wait_for(store.kv.put("next", 1), 20)
    async with store.transaction() as tx:
        await tx.kv.put("next", 2)
    assert await store.kv.get("next") == 2


async def write_everything(store: Store) -> None:
    await store.kv.put("k", 1)
    await store.turns.append("s", "user", "hello")
    await store.graph().create_nodes([{"label": "P", "id": "a"}, {"label": "P", "id": "b"}])
    await store.graph().create_edge(("P", "a"), ("P", "b"), "KNOWS")
    await store.blobs().put("b", b"x" * 300_000)
    await store.namespace("n").kv.put("k", 2)


async def sizes(store: Store) -> list[object]:
    counted = [await store.kv.count(), await store.turns.count(), tuple(await store.graph().count())]
    return [*counted, await store.blobs().count(), await store.namespace("n").kv.count()]


NOTHING: list[object] = [0, 0, (0, 0), 0, 0]
EVERYTHING: list[object] = [1, 1, (2, 1), 1, 1]


async def test_commit_shows_everything_at_once(store: Store) -> None:
    async with store.transaction() as tx:
        await write_everything(tx)
        assert await sizes(tx) == EVERYTHING
        assert await tx.blobs().get("b") == b"x" * 300_000
        assert await sizes(store) == NOTHING
    assert await sizes(store) == EVERYTHING


async def test_an_exception_undoes_everything_and_passes(store: Store) -> None:
    with pytest.raises(ZeroDivisionError):
        async with store.transaction() as tx:
            await write_everything(tx)
            raise ZeroDivisionError
    assert await sizes(store) == NOTHING
    await still_works(store)


async def test_explicit_ends(store: Store) -> None:
    begin = store.engine.drivers("").transactions.begin
    for end, how in (("rollback", "rolled back"), ("commit", "committed")):
        opened = await begin(timeout=300)
        kv = opened.drivers("").kv
        await kv.put(end, b"1", "json", version=1, expires_at=None)
        await getattr(opened, end)()
        await getattr(opened, end)()
        await opened.rollback()  # harmless now
        for call in (kv.get(end), kv.count(""), opened.savepoint("s")):
            with pytest.raises(StorageConnectionError, match=how):
                await call
    assert [key async for key in store.kv.scan()] == ["commit"]


async def test_what_was_rolled_back_cannot_be_committed(store: Store) -> None:
    opened = await store.engine.drivers("").transactions.begin(timeout=300)
    await opened.rollback()
    with pytest.raises(StorageConnectionError, match="rolled back"):
        await opened.commit()


async def test_a_failed_operation_leaves_the_transaction_usable(store: Store) -> None:
    await store.turns.append("s", "user", "there", turn_id=1)
    async with store.transaction() as tx:
        await tx.kv.put("a", 1)
        with pytest.raises(StorageConflictError):
            await tx.turns.append_many(
                "s", [{"role": "user", "content": "x", "turn_id": 2}, {"role": "user", "content": "x", "turn_id": 1}]
            )
        await tx.kv.put("b", 1)
    assert await store.kv.count() == 2
    assert await store.turns.count("s") == 1


async def test_savepoints_nest(store: Store) -> None:
    async with store.transaction() as tx:
        await tx.kv.put("kept", 1)
        with pytest.raises(ZeroDivisionError):
            async with tx.savepoint():
                await tx.kv.put("undone", 1)
                async with tx.savepoint("inner"):
                    await tx.kv.put("undone too", 1)
                raise ZeroDivisionError
        async with tx.savepoint("outer"):
            await tx.kv.put("kept too", 1)
            with pytest.raises(ZeroDivisionError):
                async with tx.savepoint("within"):
                    await tx.kv.put("undone", 1)
                    raise ZeroDivisionError
    assert [key async for key in store.kv.scan()] == ["kept", "kept too"]


async def test_savepoints_differ_by_case(store: Store) -> None:
    """SQLite itself takes "a" and "A" for the same."""
    opened = await store.engine.drivers("").transactions.begin(timeout=5)
    kv = opened.drivers("").kv
    await opened.savepoint("A")
    await kv.put("one", b"1", "json", version=1, expires_at=None)
    await opened.savepoint("a")
    await kv.put("two", b"1", "json", version=1, expires_at=None)
    await opened.rollback_to("A")
    with pytest.raises(StorageDataError) as caught:
        await opened.rollback_to("a")
    assert caught.value.field == "name"
    await opened.commit()
    assert await store.kv.count() == 0


@pytest.mark.parametrize("name", ["", "a b", 'a"; rollback; --', "1a", 7])
async def test_bad_savepoint_names(store: Store, name: str) -> None:
    async with store.transaction() as tx:
        with pytest.raises(StorageDataError) as caught:
            async with tx.savepoint(name):
                pass
        assert caught.value.field == "name"
        await tx.kv.put("k", 1)
    assert await store.kv.get("k") == 1


async def test_reads_outside_see_committed_state_only(store: Store) -> None:
    await store.kv.put("k", "before")
    async with store.transaction() as tx:
        await tx.kv.put("k", "within")
        assert await store.kv.get("k") == "before"
        assert [e.value async for e in store.kv.entries()] == ["before"]
        assert await tx.kv.get("k") == "within"
        assert [e.value async for e in tx.kv.entries()] == ["within"]
    assert await store.kv.get("k") == "within"


async def test_operations_of_one_transaction_run_one_after_another(store: Store) -> None:
    running, most = 0, 0
    opened = await store.engine.drivers("").transactions.begin(timeout=30)
    runner = opened._runner  # type: ignore[attr-defined]

    def operation(_: apsw.Connection) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        threading.Event().wait(0.001)
        running -= 1

    await asyncio.gather(*(runner.write(operation) for _ in range(20)))
    await opened.commit()
    assert most == 1


async def test_transactions_wait_for_each_other(store: Store) -> None:
    await store.kv.put("n", 0)

    async def add() -> None:
        async with store.transaction(timeout=30) as tx:
            value = await tx.kv.get("n")
            await asyncio.sleep(0)
            await tx.kv.put("n", value + 1)

    await asyncio.gather(*(add() for _ in range(20)), *(store.kv.put(f"k{n}", n) for n in range(20)))
    assert await store.kv.get("n") == 20


async def test_a_write_through_the_outer_store_is_refused_at_once(store: Store) -> None:
    """It would wait for the very transaction that its own task holds open."""
    async with store.transaction() as tx:
        with pytest.raises(StorageQueryError, match="transaction is open in this task"):
            await store.kv.put("k", 1)
        with pytest.raises(StorageQueryError):
            await store.namespace("n").turns.append("s", "user", "x")
        with pytest.raises(StorageQueryError):
            await store.drop_namespace("n")
        await tx.kv.put("k", 2)
    await store.kv.put("after", 1)
    assert await store.kv.get("k") == 2


async def test_a_transaction_within_one_is_refused_at_once(store: Store) -> None:
    async with store.transaction():
        with pytest.raises(StorageQueryError):
            async with store.transaction():
                pass
    await still_works(store)


async def test_timeout_rolls_back_and_frees_the_writer(store: Store) -> None:
    with pytest.raises(StorageTimeoutError):
        async with store.transaction(timeout=0.05) as tx:
            await tx.kv.put("k", 1)
            await asyncio.wait_for(_outside(store), 20)  # waits until the writer is free, which is after the timeout
            await tx.kv.put("late", 1)
    assert [key async for key in store.kv.scan()] == ["outside"]


async def _outside(store: Store) -> None:
    """A write of another task, which does not hold the transaction."""
    engine = store.engine
    assert isinstance(engine, SqliteEngine)
    kv = engine.drivers("").kv
    assert kv is not None
    await kv.put("outside", b"1", "json", version=1, expires_at=None)


async def test_timeout_is_noticed_by_commit(store: Store) -> None:
    with pytest.raises(StorageTimeoutError):
        async with store.transaction(timeout=0.05) as tx:
            await tx.kv.put("k", 1)
            await _outside(store)
    assert await store.kv.get("k") is None


async def test_a_busy_transaction_ends_at_its_time_too(store: Store) -> None:
    """Operations that wait in line do not prolong it."""
    opened = await store.engine.drivers("").transactions.begin(timeout=0.05)
    runner = opened._runner  # type: ignore[attr-defined]
    step = [runner.write(lambda _: threading.Event().wait(0.02)) for _ in range(50)]
    results = await asyncio.gather(*step, return_exceptions=True)
    assert any(isinstance(result, StorageTimeoutError) for result in results)
    await still_works(store)


async def test_cancelled_while_waiting_to_begin(store: Store) -> None:
    async with store.transaction() as first:
        # a context of its own, as a task begun within a transaction inherits the mark of it
        waiting = asyncio.create_task(_block(store, asyncio.Event(), asyncio.Event()), context=contextvars.Context())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await first.kv.put("k", 1)
    await still_works(store)
    assert await store.kv.get("k") == 1


async def _block(store: Store, entered: asyncio.Event, go: asyncio.Event) -> None:
    async with store.transaction(timeout=300) as tx:
        await tx.kv.put("blocked", 1)
        entered.set()
        await go.wait()


async def test_cancelled_in_the_middle(store: Store) -> None:
    entered = asyncio.Event()
    task = asyncio.create_task(_block(store, entered, asyncio.Event()))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await store.kv.count() == 0
    await still_works(store)


async def test_cancelled_during_an_operation(store: Store) -> None:
    entered, go, loop = asyncio.Event(), threading.Event(), asyncio.get_running_loop()

    def slow(connection: apsw.Connection) -> None:
        connection.execute("insert into pm_meta values('slow', '')")
        loop.call_soon_threadsafe(entered.set)
        go.wait()

    async def work() -> None:
        async with store.transaction(timeout=300) as tx:
            await tx._transaction._runner.write(slow)  # type: ignore[union-attr]

    task = asyncio.create_task(work())
    await entered.wait()
    task.cancel()
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await store.sql.query("select count(*) from pm_meta where name = 'slow'") == [(0,)]
    await still_works(store)


@pytest.mark.parametrize("ticks", range(6))
async def test_cancelled_at_any_tick_is_all_or_nothing(store: Store, ticks: int) -> None:
    """At begin, between, at commit: afterwards either both keys are there or none, and the writer is free."""

    async def work() -> None:
        async with store.transaction(timeout=300) as tx:
            await tx.kv.put("a", 1)
            await tx.kv.put("b", 1)

    task = asyncio.create_task(work())
    for _ in range(ticks * 3):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await still_works(store)
    assert sorted([key async for key in store.kv.scan()]) in (["next"], ["a", "b", "next"])


async def test_closing_the_store_rolls_an_open_transaction_back(new_store: NewStore) -> None:
    store = await new_store().open()
    with pytest.raises(StorageConnectionError):
        async with store.transaction(timeout=300) as tx:
            await tx.kv.put("k", 1)
            await asyncio.wait_for(store.close(), 20)
            await tx.kv.put("later", 1)
    async with new_store() as again:
        assert await again.kv.count() == 0


async def test_closing_refuses_transactions_that_wait_to_begin(new_store: NewStore) -> None:
    store = await new_store().open()
    begin = store.engine.drivers("").transactions.begin
    await begin(timeout=300)
    waiting = [asyncio.ensure_future(begin(timeout=300)) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.wait_for(store.close(), 20)
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, StorageConnectionError) for result in results)


async def test_run_in_transaction_tries_again(store: Store) -> None:
    attempts = 0

    async def work(tx: TransactionStore) -> str:
        nonlocal attempts
        attempts += 1
        await tx.kv.put(f"attempt {attempts}", 1)
        if attempts < 3:
            raise StorageConflictError("lost the race", retryable=True)
        return "done"

    assert await store.run_in_transaction(work) == "done"
    assert [key async for key in store.kv.scan()] == ["attempt 3"]


async def test_run_in_transaction_gives_up(store: Store) -> None:
    attempts = 0

    async def work(tx: TransactionStore) -> None:
        nonlocal attempts
        attempts += 1
        raise StorageConflictError("always", retryable=attempts < 100)

    with pytest.raises(StorageConflictError):
        await store.run_in_transaction(work, retries=2)
    assert attempts == 3
    attempts = 100
    with pytest.raises(StorageConflictError):
        await store.run_in_transaction(work)
    assert attempts == 101


async def test_a_transaction_of_another_process_is_waited_for(store: Store, path: Path) -> None:
    other = apsw.Connection(str(path))
    other.execute("begin immediate")
    begin = asyncio.ensure_future(store.engine.drivers("").transactions.begin(timeout=5))
    assert await store.kv.get("k") is None  # reading goes on
    other.execute("commit")
    other.close()
    opened = await begin
    await opened.rollback()
