"""Transactions as `Store` gives them (TXN-1, TXN-2); what they mean is in the conformance suite."""

import asyncio
import gc
from typing import Any

import pytest

import polymem
from polymem.core.guard import in_transaction
from polymem.errors import StorageDataError

pytestmark = pytest.mark.anyio


async def test_an_abandoned_transaction_is_rolled_back_without_a_fuss() -> None:
    """Its generator is ended by the event loop, in a context of its own."""
    told = list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    async with polymem.open("memory:") as store:
        abandoned = store.transaction()
        tx = await abandoned.__aenter__()
        await tx.kv.put("a", 1)
        del abandoned, tx
        gc.collect()
        in_transaction.set(None)
        await asyncio.wait_for(store.kv.put("b", 1), 10)
        assert [key async for key in store.kv.scan()] == ["b"]
    gc.collect()
    assert told == []


@pytest.mark.parametrize(
    ("field", "work", "retries"),
    [
        ("retries", "add", -1), ("retries", "add", "2"), ("retries", "add", True), ("work", None, 3), ("work", 5, 3),
        ("work", lambda _: 1, 3),
    ],
)  # fmt: skip
async def test_what_cannot_be_run_in_a_transaction_is_refused(field: str, work: Any, retries: Any) -> None:
    async def add(tx: polymem.Store) -> int:
        return await tx.kv.increment("n")

    async with polymem.open("memory:") as store:
        with pytest.raises(StorageDataError) as caught:
            await store.run_in_transaction(add if work == "add" else work, retries=retries)
        assert caught.value.field == field
        assert await store.kv.count() == 0


async def test_bytes_of_turns_are_counted() -> None:
    """MET-1: content and metadata as the engine gets them, in UTF-8."""
    async with polymem.open("memory:", sweep_every=None) as store:
        await store.turns.append("s", "user", "é", metadata={"a": 1})
        held = len('"é"'.encode()) + len(b'{"a":1}')
        await store.turns.get("s", 1)
        await store.turns.get("s", 2)
        await store.turns.recent("s")
        assert [turn.turn_id async for turn in store.turns.scan("s")] == [1]
        found = store.metrics()["operations"]
        names = ("append", "get", "recent", "page")
        assert {name: found[f"turns.{name}"]["bytes"] for name in names} == dict.fromkeys(names, held)
