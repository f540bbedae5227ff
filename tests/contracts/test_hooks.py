"""Hooks (`store.use`): they veto calls and change them on their way (EVT-2)."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from contracts.heard import Heard, Point

from polymem.contracts._events_types import Call
from polymem.errors import StorageDataError, StorageTimeoutError
from polymem.store import Store

pytestmark = pytest.mark.anyio


async def test_a_hook_vetoes_with_an_error_of_its_own(store: Store) -> None:
    heard = Heard(store)
    error = PermissionError("read only")

    async def refuse(call: Call) -> None:
        if call.kind != "get":
            raise error

    store.use(refuse)
    for attempt in (
        store.kv.put("a", 1), store.kv.create("a", 1), store.kv.increment("a"), store.kv.put_many({"a": 1}),
        store.kv.delete("a"), store.kv.clear(), store.kv.touch("a", ttl=1), store.kv.bulk_load([("a", 1)]),
        store.namespace("below").kv.put("a", 1), store.kv.put("a", 1, timeout=5),
    ):  # fmt: skip
        with pytest.raises(PermissionError) as caught:
            await attempt
        assert caught.value is error
    assert await store.kv.get("a") is None
    assert await store.kv.count() == 0
    assert await heard.names() == ["before:get", "after:get"]


async def test_a_hook_changes_key_and_value_and_the_next_sees_it(store: Store) -> None:
    def tag(call: Call) -> Call | None:
        return call.changed(value={**call.value, "by": "ada"}) if call.kind == "put" else None

    async def move(call: Call) -> Call | None:
        assert call.kind != "put" or call.value["by"] == "ada"
        return call.changed(key=f"moved/{call.key}")

    store.use(tag)
    store.use(move)
    heard = Heard(store, "after:put")
    value = {"n": 1}
    await store.kv.put("a", value)
    assert value == {"n": 1}
    assert await store.kv.get("a") == {"n": 1, "by": "ada"}
    assert [key async for key in store.kv.scan()] == ["moved/a"]
    await heard.names()
    assert (heard[0].key, heard[0].value) == ("moved/a", {"n": 1, "by": "ada"})


async def test_a_hook_changes_batches_increments_and_models(store: Store) -> None:
    def double(call: Call) -> Call | None:
        if call.operation == "put_many":
            return call.changed(value={key: 2 * value for key, value in call.value.items()})
        if call.operation == "increment":
            return call.changed(value=call.value * 2)
        if call.operation == "put" and isinstance(call.value, Point):
            return call.changed(value=Point(call.value.x * 2))
        return None

    store.use(double)
    versions = await store.kv.put_many({"a": 1, "b": 2})
    entry = await store.kv.entry("b")
    assert entry is not None
    assert (entry.value, entry.version) == (4, versions["b"])
    assert await store.kv.increment("a", 5) == 12
    typed = store.kv.typed(Point)
    await typed.put("p", Point(4))
    assert await typed.get("p") == Point(8)


async def test_what_a_hook_gets_wrong_is_refused_and_nothing_written(store: Store) -> None:
    wrong: list[Any] = [
        lambda _: 1,
        lambda call: call.changed(key=""),
        lambda call: call.changed(key="x" * 513),
        lambda call: call.changed(value=float("nan")),
        lambda call: replace(call, keys=("b",)),
    ]
    for hook in wrong:
        with store.use(hook), pytest.raises(StorageDataError):
            await store.kv.put("a", 1)
    for hook in (lambda call: call.changed(value={"b": 1}), lambda call: call.changed(value=[1])):
        with store.use(hook), pytest.raises(StorageDataError):
            await store.kv.put_many({"a": 1})
    for other in ({"keys": ("b",)}, {"kind": "get"}, {"namespace": ("x",)}, {"valu": 1}):
        with store.use(lambda call, other=other: call.changed(**other)), pytest.raises(TypeError, match="changed"):  # type: ignore[misc]
            await store.kv.put("a", 1)
    with store.use(lambda call: call.changed(value="1")), pytest.raises(StorageDataError):
        await store.kv.increment("a")
    with store.use(lambda call: call.changed(value=1)), pytest.raises(StorageDataError):
        await store.kv.get("a")
    assert await store.kv.count() == 0


async def test_hooks_hold_inside_transactions_and_only_in_their_namespace(store: Store) -> None:
    def refuse(_: Call) -> None:
        raise PermissionError

    store.namespace("a").use(refuse)
    async with store.transaction() as tx:
        with pytest.raises(PermissionError):
            await tx.namespace("a").kv.put("k", 1)
        await tx.kv.put("k", 1)
        await tx.namespace("ab").kv.put("k", 1)
    assert await store.kv.get("k") == 1
    assert await store.namespace("ab").kv.get("k") == 1


async def test_the_timeout_of_a_call_counts_its_hooks(store: Store) -> None:
    async def wait(_: Call) -> None:
        await asyncio.Event().wait()

    with store.use(wait), pytest.raises(StorageTimeoutError):
        await store.kv.get("a", timeout=0.01)
