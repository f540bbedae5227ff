"""Transactions as such: atomic over contracts, isolated, always released (TXN-1, TXN-2)."""

import asyncio
from typing import Any

from polymem.errors import (
    Outcome,
    StorageConflictError,
    StorageDataError,
    StorageQueryError,
)
from polymem.store import Store, TransactionStore
from polymem.testing.clause import clause
from polymem.testing.clauses.samples import offered
from polymem.testing.clauses.transactions_all import Undo
from polymem.testing.expect import refused
from polymem.testing.kit import TASKS, Kit


@clause("transactions")
async def all_contracts_together(kit: Kit) -> None:
    """What is done through several contracts and namespaces is committed together, or not at all."""
    samples = offered(kit)

    async def write(store: Store) -> None:
        for sample in samples:
            await sample.write(store, "a")
            await sample.write(store.namespace("n"), "a")

    try:
        async with kit.store.transaction() as tx:
            await write(tx)
            raise Undo
    except Undo:
        assert [await sample.count(kit.store) for sample in samples] == [0] * len(samples)
        assert [await sample.count(kit.store.namespace("n")) for sample in samples] == [0] * len(samples)
    async with kit.store.transaction() as tx:
        await write(tx)
    assert [await sample.count(kit.store) for sample in samples] == [1] * len(samples)
    assert [await sample.count(kit.store.namespace("n")) for sample in samples] == [1] * len(samples)


@clause("transactions", uses=["kv"], needs=lambda f: not f.optimistic)
async def serial_counters(kit: Kit) -> None:
    """Many transactions that read and write one key lose no update, with plain writes beside them."""

    async def work(number: int) -> None:
        for _ in range(3):
            async with kit.store.transaction(timeout=30) as tx:
                await tx.kv.put("n", (await tx.kv.get("n", 0)) + 1)
                await asyncio.sleep(0)
            await kit.store.kv.put(f"{number}", 1)

    await kit.together(work)
    assert await kit.store.kv.get("n") == TASKS * 3


@clause("transactions", uses=["kv"], needs=lambda f: f.optimistic)
async def one_of_two_that_meet_wins(kit: Kit) -> None:
    """Of two transactions that change what both have read, one fails with a retryable conflict; no update is lost."""
    await kit.store.kv.put("n", 1)
    with refused(StorageConflictError) as caught:
        async with kit.store.transaction() as tx:
            n = await tx.kv.get("n", 0)
            await asyncio.create_task(_count(kit.store))
            await tx.kv.put("n", n + 1)
    assert caught.error.retryable
    assert caught.error.outcome is Outcome.NOT_APPLIED
    assert await kit.store.kv.get("n") == 2


async def _count(store: Store) -> None:
    from polymem.core.guard import in_transaction  # noqa: PLC0415 - an unrelated task, as below

    in_transaction.set(None)
    async with store.transaction() as tx:
        await tx.kv.put("n", (await tx.kv.get("n", 0)) + 1)


@clause("transactions", uses=["kv", "shared"])
async def serial_counters_of_two_instances(kit: Kit) -> None:
    """The same with two instances."""
    stores = [kit.store, await kit.second()]

    async def count(tx: TransactionStore) -> None:
        await tx.kv.put("n", (await tx.kv.get("n", 0)) + 1)

    await kit.together(lambda number: stores[number % 2].run_in_transaction(count, retries=20, timeout=30), 12)
    assert await stores[0].kv.get("n") == await stores[1].kv.get("n") == 12


@clause("transactions", uses=["kv"])
async def a_failed_operation_spares_the_rest(kit: Kit) -> None:
    """A conflict or bad input inside a transaction undoes that one operation; the block may go on and commit."""
    await kit.store.kv.put("a", 1)
    async with kit.store.transaction() as tx:
        await tx.kv.put("b", 2)
        with refused(StorageConflictError):
            await tx.kv.create("a", 2)
        with refused(StorageDataError):
            await tx.kv.put("c", float("nan"))
        with refused(StorageDataError):
            await tx.kv.put_many({"c": 1, "": 2})
        await tx.kv.put("s", "text")
        with refused(StorageDataError):
            await tx.kv.increment("s")
        await tx.kv.put("d", 4)
    assert await kit.store.kv.get_many(list("abcds")) == {"a": 1, "b": 2, "d": 4, "s": "text"}


@clause("transactions", uses=["kv"])
async def versions_hold_inside(kit: Kit) -> None:
    """compare_and_set, ttl and entries work inside as outside."""
    version = await kit.store.kv.put("a", 1)
    async with kit.store.transaction() as tx:
        new = await tx.kv.compare_and_set("a", version, 2, ttl=5)
        with refused(StorageConflictError):
            await tx.kv.compare_and_set("a", version, 3)
        assert await tx.kv.ttl("a") == 5
        assert await tx.kv.increment("a") == 3
    entry = await kit.store.kv.entry("a")
    assert entry is not None
    assert entry.value == 3
    assert entry.version != new
    kit.clock.advance(5)
    async with kit.store.transaction() as tx:
        assert await tx.kv.get("a") is None
        assert await tx.kv.create("a", 1)


@clause("transactions", uses=["vectors"])
async def vector_search_inside(kit: Kit) -> None:
    """Search inside sees what is committed with the transaction's own changes; outside only what is committed."""
    vectors = kit.store.vectors("v", dimensions=2)
    await vectors.put_many([("a", [1, 0]), ("b", [0, 1])])
    async with kit.store.transaction() as tx:
        inside = tx.vectors("v", dimensions=2)
        await inside.put("c", [1, 0])
        await inside.delete("a")
        assert [hit.id for hit in await inside.search([1, 0])] == ["c", "b"]
        assert [hit.id for hit in await vectors.search([1, 0])] == ["a", "b"]
    assert [hit.id for hit in await vectors.search([1, 0])] == ["c", "b"]


@clause("transactions", uses=["text"])
async def text_search_inside(kit: Kit) -> None:
    """The same for words, statistics included."""
    text = kit.store.text("t")
    await text.put_many([("a", "river"), ("b", "mountain")])
    async with kit.store.transaction() as tx:
        inside = tx.text("t")
        await inside.put("c", "river bank")
        await inside.delete("a")
        assert [hit.id for hit in await inside.search("river")] == ["c"]
        assert [hit.id for hit in await text.search("river")] == ["a"]
        assert (await inside.frequencies(["river"]))[0] == (await text.frequencies(["river"]))[0] == 2
    assert [hit.id for hit in await text.search("river")] == ["c"]


@clause("transactions", uses=["turns"])
async def numbering_inside(kit: Kit) -> None:
    """Turns appended inside go on from the last one, and a rollback gives their numbers back."""
    await kit.store.turns.append("s", "user", "1")
    try:
        async with kit.store.transaction() as tx:
            assert [(await tx.turns.append("s", "user", "x")).turn_id for _ in range(2)] == [2, 3]
            raise Undo
    except Undo:
        assert (await kit.store.turns.append("s", "user", "2")).turn_id == 2


@clause("transactions", uses=["kv"])
async def writing_past_it_is_refused(kit: Kit) -> None:
    """A write through the outer store raises at once instead of waiting for ever; reads and other tasks go on."""
    async with kit.store.transaction() as tx:
        await tx.kv.put("a", 1)
        with refused(StorageQueryError):
            await kit.store.kv.put("b", 1)
        with refused(StorageQueryError):
            await kit.root.namespace("other").kv.delete("b")
        with refused(StorageQueryError):
            async with kit.store.transaction():
                raise AssertionError
        assert await kit.store.kv.get("a") is None
    await kit.store.kv.put("b", 2)
    assert await kit.store.kv.get_many(["a", "b"]) == {"a": 1, "b": 2}


@clause("transactions", uses=["kv"])
async def another_task_waits(kit: Kit) -> None:
    """A write of another task happens before or after a transaction, not within it; before it may be a conflict."""
    expected: dict[str, Any] = {"a": "outside", "b": 1}
    other: asyncio.Task[None] | None = None
    try:
        async with kit.store.transaction() as tx:
            await tx.kv.put("a", "inside")
            other = asyncio.create_task(_outside(kit.store))
            await asyncio.sleep(0.02)
            assert await tx.kv.get("a") == "inside"
            await tx.kv.put("b", 1)
    except StorageConflictError as error:
        assert kit.features("transactions").optimistic and error.retryable  # noqa: PT017 - runs without pytest
        del expected["b"]
    assert other is not None
    await other
    assert await kit.store.kv.get_many(["a", "b"]) == expected


async def _outside(store: Store) -> None:
    # a task begun within the block inherits its context; this one stands for an unrelated task
    from polymem.core.guard import in_transaction  # noqa: PLC0415 - see above

    in_transaction.set(None)
    await store.kv.put("a", "outside")


@clause("transactions", uses=["kv"])
async def the_whole_block_is_repeated(kit: Kit) -> None:
    """run_in_transaction repeats after a retryable error, each time from the start, and gives up in the end."""
    runs: list[int] = []

    async def work(tx: TransactionStore, failures: int) -> int:
        runs.append(await tx.kv.increment("n"))
        if len(runs) <= failures:
            raise StorageConflictError("lost a race", retryable=True)
        return runs[-1]

    assert await kit.store.run_in_transaction(lambda tx: work(tx, 2)) == 1
    assert runs == [1, 1, 1]
    assert await kit.store.kv.get("n") == 1
    runs.clear()
    with refused(StorageConflictError):
        await kit.store.run_in_transaction(lambda tx: work(tx, 99), retries=2)
    assert len(runs) == 3
    assert await kit.store.kv.get("n") == 1


@clause("transactions", uses=["kv"])
async def final_errors_are_not_repeated(kit: Kit) -> None:
    """An error that is not retryable ends run_in_transaction at once."""
    runs: list[int] = []

    async def work(_: TransactionStore) -> None:
        runs.append(1)
        raise StorageConflictError("for good")

    with refused(StorageConflictError):
        await kit.store.run_in_transaction(work)
    assert runs == [1]


@clause("transactions")
async def isolation_is_a_minimum(kit: Kit) -> None:
    """Every level up to the one the engine gives is accepted; anything else is refused (G-2)."""
    levels = ["read_committed", "repeatable_read", "serializable"]
    for level in levels[: levels.index(kit.features("transactions").isolation) + 1]:
        async with kit.store.transaction(isolation=level):  # type: ignore[arg-type]
            pass
    store: Any = kit.store
    for bad in ("none", "", None, 1):
        with refused(StorageDataError, field="isolation"):
            async with store.transaction(isolation=bad):
                raise AssertionError
    for seconds in (0, -1, "1", None, True, float("nan")):
        with refused(StorageDataError, field="timeout"):
            async with store.transaction(timeout=seconds):
                raise AssertionError


@clause("transactions", uses=["kv"])
async def crossing_writers(kit: Kit) -> None:
    """Two that want each other's key are both done: the one an engine gives up to end a deadlock begins again (TXN-1)."""

    async def write(first: str, second: str) -> None:
        async def both(tx: TransactionStore) -> None:
            await tx.kv.increment(first)
            await asyncio.sleep(0.02)
            await tx.kv.increment(second)

        await kit.store.run_in_transaction(both, retries=20, timeout=30)

    await asyncio.gather(write("a", "b"), write("b", "a"))
    assert await kit.store.kv.get_many(["a", "b"]) == {"a": 2, "b": 2}


@clause("transactions")
async def dropping_a_namespace_waits(kit: Kit) -> None:
    """drop_namespace keeps out of an open transaction: it happens after it, or before where nobody waits."""
    samples = offered(kit)
    async with kit.store.transaction() as tx:
        for sample in samples:
            await sample.write(tx.namespace("n"), "a")
        dropping = asyncio.create_task(_drop(kit.store))
        await asyncio.sleep(0.02)
        assert [await sample.count(tx.namespace("n")) for sample in samples] == [1] * len(samples)
    await dropping
    counts = {await sample.count(kit.store.namespace("n")) for sample in samples}
    assert counts == {0} or (counts == {1} and kit.features("transactions").optimistic)


async def _drop(store: Store) -> None:
    from polymem.core.guard import in_transaction  # noqa: PLC0415 - an unrelated task, as above

    in_transaction.set(None)
    await store.drop_namespace("n")
