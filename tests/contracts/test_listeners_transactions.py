"""Listeners hear of a transaction when it is committed, and of nothing that was taken back (EVT-1, TXN-2)."""

import pytest
from contracts.heard import Heard

from polymem.contracts._events_types import Event
from polymem.store import Store

pytestmark = pytest.mark.anyio


class Undo(Exception):  # noqa: N818 - not a failure
    """Rolls back."""


async def test_events_of_a_transaction_come_after_its_commit(store: Store) -> None:
    heard = Heard(store)
    async with store.transaction() as tx:
        await tx.kv.put("a", 1)
        await tx.namespace("n").kv.put("b", 2)
        assert await heard.names() == ["before:transaction"]
    assert await heard.names() == [
        "before:transaction", *("before:put", "after:put") * 2, "after:transaction",
    ]  # fmt: skip
    assert heard[-1].committed is True
    assert [event.key for event in heard if event.name == "after:put"] == ["a", "b"]


async def test_nothing_is_told_of_what_was_rolled_back(store: Store) -> None:
    heard = Heard(store, "after:put", "after:transaction")
    with pytest.raises(Undo):
        async with store.transaction() as tx:
            await tx.kv.put("a", 1)
            raise Undo
    async with store.transaction() as tx:
        await tx.kv.put("b", 1)
        await tx.rollback()
    assert await heard.names() == ["after:transaction"] * 2
    assert not any(event.committed for event in heard)


async def test_savepoints_take_their_events_back(store: Store) -> None:
    heard = Heard(store, "after:put")
    async with store.transaction() as tx:
        await tx.kv.put("a", 1)
        with pytest.raises(Undo):
            async with tx.savepoint("one"):
                await tx.kv.put("b", 1)
                async with tx.transaction() as inner:
                    await inner.kv.put("c", 1)
                raise Undo
        await tx.kv.put("d", 1)
    await heard.names()
    assert [event.key for event in heard] == ["a", "d"]


async def test_going_back_to_a_savepoint_takes_its_events_back(store: Store) -> None:
    heard = Heard(store, "after:put")
    async with store.transaction() as tx:
        await tx.savepoint("here")
        await tx.kv.put("undone", 1)
        await tx.rollback_to("here")
        await tx.kv.put("kept", 1)
    assert await heard.names() == ["after:put"]
    assert heard[0].key == "kept"


async def test_a_commit_of_its_own_tells_once(store: Store) -> None:
    heard = Heard(store, "after:put", "after:transaction")
    with pytest.raises(Undo):
        async with store.transaction() as tx:
            await tx.kv.put("a", 1)
            await tx.commit()
            raise Undo
    assert await heard.names() == ["after:put", "after:transaction"]
    assert heard[-1].committed


async def test_handlers_may_write_though_a_transaction_was_open_when_they_were_called(store: Store) -> None:
    async def write(event: Event) -> None:
        await store.namespace("log").kv.put(event.key or "", event.value)

    subscription = store.namespace("n").on("after:put", write)
    async with store.transaction() as tx:
        await tx.namespace("n").kv.put("a", 1)
        await tx.commit()
        await subscription.drain()
    assert await store.namespace("log").kv.get("a") == 1
