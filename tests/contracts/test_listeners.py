"""What listeners (`store.on`) are told of a store's operations (EVT-1, EVT-2)."""

import asyncio
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
from contracts.heard import Heard, Point

import polymem
from polymem.contracts._events_types import AROUND, NAMES
from polymem.contracts.bulk import Delete, Put
from polymem.core.clock import ManualClock
from polymem.engines.memory.engine import MemoryEngine
from polymem.errors import StorageConflictError, StorageDataError, StorageQueryError
from polymem.opened import Session
from polymem.store import Store
from polymem.testing.faults import Fault, Faults, faulty_engine

pytestmark = pytest.mark.anyio


async def test_each_kind_of_operation(store: Store) -> None:
    heard = Heard(store)
    kv = store.kv
    version = await kv.put("a", {"n": 1})
    await kv.get("a")
    await kv.get("b", "none")
    await kv.delete("a")
    await kv.delete("a")
    await kv.put_many({"c": 1, "d": [2]})
    await kv.get_many(["c", "x"])
    await kv.delete_many(["c", "x"])
    await kv.clear()
    with pytest.raises(StorageConflictError):
        await kv.compare_and_set("a", version, 2)
    assert await heard.names() == [
        *("before:put", "after:put", "before:get", "after:get", "before:get", "after:get"),
        *("before:delete", "after:delete") * 2,
        *("before:batch", "after:batch") * 3,
        *("before:clear", "after:clear", "before:put"),  # the last one wrote nothing
    ]
    assert heard[0].value == heard[1].value == heard[3].value == {"n": 1}
    assert [heard[number].key for number in (1, 3, 5)] == ["a", "a", "b"]
    assert [(event.existed, event.value) for event in heard if event.name == "after:get"] == [
        (True, {"n": 1}), (False, None),
    ]  # fmt: skip
    assert [event.existed for event in heard if event.name == "after:delete"] == [True, False]
    batches = [event for event in heard if event.name == "after:batch"]
    assert [(one.operation, one.keys, one.count, one.value) for one in batches] == [
        ("put_many", ("c", "d"), 2, {"c": 1, "d": [2]}),
        ("get_many", ("c", "x"), 1, {"c": 1}),
        ("delete_many", ("c", "x"), 1, None),
    ]
    assert next(event for event in heard if event.name == "after:clear").count == 1


async def test_every_way_to_write_is_a_put(store: Store) -> None:
    heard = Heard(store, "after:put")
    version = await store.kv.create("a", 1)
    await store.kv.compare_and_set("a", version, 2)
    await store.kv.update("a", 3)
    await store.kv.increment("a", 4)
    await store.kv.touch("a", ttl=1)
    await store.kv.batch_write([Put("b", 1), Delete("b")])
    await heard.names()
    assert [(event.operation, event.value) for event in heard] == [
        ("create", 1), ("compare_and_set", 2), ("update", 3), ("increment", 7), ("touch", None), ("put", 1),
    ]  # fmt: skip


async def test_a_failed_operation_is_an_error_with_its_cause_and_no_after(clock: ManualClock) -> None:
    faults = Faults()
    engine = MemoryEngine(clock)
    await engine.open()
    async with Store(Session(faulty_engine(engine, faults), sweep_every=None)) as store:
        heard = Heard(store, "after:put", "error")
        faults.plan("kv.put", Fault.REJECTED)
        with pytest.raises(StorageQueryError) as caught:
            await store.kv.put("a", 1)
        assert await heard.names() == ["error"]
        assert (heard[0].operation, heard[0].key, heard[0].error) == ("put", "a", caught.value)


async def test_bulk_loads_are_batches(store: Store) -> None:
    heard = Heard(store, "after:batch")
    await store.kv.bulk_load([("a", 1), ("b", 2)])
    await heard.names()
    assert [event.value for event in heard] == [{"a": 1, "b": 2}]


async def test_values_are_copies_of_what_was_stored(store: Store) -> None:
    heard = Heard(store, "after:put")
    value = {"n": [1]}
    await store.kv.put("a", value)
    value["n"].append(2)
    await heard.names()
    heard[0].value["n"].append(3)
    assert heard[0].value == {"n": [1]}
    assert "[1]" not in repr(heard[0])


async def test_typed_handles_and_mappings_and_handles_of_before_are_observed(store: Store) -> None:
    kv, typed = store.kv, store.kv.typed(Point)
    put, points = kv.put, store.storage("points", Point)
    heard = Heard(store, "after:put", "after:get")
    await put("a", 1)
    await typed.put("p", Point(1))
    await points.set("q", Point(2))
    assert await points.get("q") == Point(2)
    await store.kv.typed(Point).get("p")
    await heard.names()
    assert [event.value for event in heard] == [1, Point(1), Point(2), Point(2), Point(1)]
    heard.subscription.cancel()
    await put("a", 2)
    assert len(await heard.names()) == 5


async def test_while_nobody_listens_handles_go_straight_to_the_guard(store: Store) -> None:
    kv: Any = store.kv
    straight = kv._driver  # noqa: SLF001 - that nothing is in between is the point
    with store.on("error", print):
        assert kv._driver is not straight  # noqa: SLF001
    assert kv._driver is straight  # noqa: SLF001
    assert kv._read is straight.get  # noqa: SLF001
    with store.use(lambda _: None):
        assert kv._driver is not straight  # noqa: SLF001
    assert kv._driver is straight  # noqa: SLF001
    assert store.subscribers() == {}


async def test_handles_are_not_kept_alive(store: Store) -> None:
    typed = store.kv.typed(Point)
    reference = weakref.ref(typed)
    store.on("after:put", print)
    del typed
    gc.collect()
    assert reference() is None


async def test_namespaces_hear_themselves_and_what_is_below(store: Store) -> None:
    above, one, other = Heard(store, "after:put"), Heard(store.namespace("a"), "after:put"), Heard(
        store.namespace("ab"), "after:put"
    )  # fmt: skip
    for names in (("a",), ("a", "b"), ("ab",), ("b",)):
        await store.namespace(*names).kv.put("k", 1)
    await asyncio.gather(above.names(), one.names(), other.names())
    assert [event.namespace for event in above] == [("a",), ("a", "b"), ("ab",), ("b",)]
    assert [event.namespace for event in one] == [("a",), ("a", "b")]
    assert [event.namespace for event in other] == [("ab",)]


async def test_opening_and_closing_are_heard_by_all() -> None:
    session = Session(MemoryEngine(), sweep_every=None)
    store = Store(session)
    heard, below = Heard(store), Heard(store.namespace("a"))
    async with store:
        assert await heard.names() == ["before:connect", "after:connect"]
    assert await heard.names() == await below.names() == [
        "before:connect", "after:connect", "before:disconnect", "after:disconnect",
    ]  # fmt: skip


async def test_expiry_is_told_when_it_is_swept(store: Store, clock: ManualClock) -> None:
    heard = Heard(store, "after:expire")
    await store.kv.put_many({"a": 1, "b": 1}, ttl=1)
    clock.advance(2)
    assert await store.kv.get("a") is None
    await store.delete_expired()
    await store.delete_expired()
    assert await heard.names() == ["after:expire"]
    assert heard[0].count == 2


async def test_evictions_are_told(tmp_path: Path) -> None:
    async with polymem.open(f"sqlite:///{tmp_path / 'a.db'}", cache=2) as store:
        heard = Heard(store, "after:evict")
        for key in "abc":
            await store.namespace("n").kv.put(key, 1)
        await heard.names()
        assert [(event.namespace, event.key) for event in heard] == [(("n",), "a")]


async def test_subscribers_are_counted_and_cancelled(store: Store, caplog: Any) -> None:
    below = store.namespace("a")
    one, two = store.on(["after:put", "error"], print), below.on("after:put", print)
    hook = store.use(lambda _: None)
    assert store.subscribers() == {"after:put": 2, "error": 1, "hook": 1}
    assert below.subscribers() == {"after:put": 1}
    one.cancel()
    one.cancel()
    with hook:
        pass
    hook.cancel()
    with two:
        assert store.subscribers() == {"after:put": 1}
    assert store.subscribers() == {}
    leaked = [store.on("after:get", print) for _ in range(100)]
    assert "were some never cancelled?" in caplog.text
    assert store.subscribers() == {"after:get": len(leaked)}


async def test_bad_subscriptions_are_refused(store: Store) -> None:
    bad: Any
    for bad in ("put", "after:set", "before:error", "", None, 1, [], ["after:put", 1], [[]]):
        with pytest.raises(StorageDataError) as caught:
            store.on(bad, print)
        assert caught.value.field == "name"
    for bad in (None, "print"):
        with pytest.raises(StorageDataError) as caught:
            store.on("after:put", bad)
        assert caught.value.field == "handler"
        with pytest.raises(StorageDataError) as caught:
            store.use(bad)
        assert caught.value.field == "hook"
    for bad in (0, -1, 1.5, True, None):
        with pytest.raises(StorageDataError) as caught:
            store.on("after:put", print, max_queued=bad)
        assert caught.value.field == "max_queued"
    assert store.subscribers() == {}
    assert set(AROUND) <= {name.partition(":")[2] for name in NAMES if ":" in name}
