"""Listeners (`store.on`) and hooks (`store.use`) of one store (EVT-1, EVT-2, TXN-2)."""

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import polymem
from polymem.contracts._events_types import AROUND, NAMES, Call, Event
from polymem.contracts.bulk import Delete, Put
from polymem.core.clock import ManualClock
from polymem.engines.memory.engine import MemoryEngine
from polymem.errors import StorageConflictError, StorageDataError, StorageQueryError, StorageTimeoutError
from polymem.opened import Session
from polymem.store import Store
from polymem.testing.faults import Fault, Faults, faulty_engine

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(clock: ManualClock) -> AsyncIterator[Store]:
    async with Store(Session(MemoryEngine(clock), sweep_every=None)) as opened:
        yield opened


class Heard(list[Event]):
    """What a listener of these names was told; `names` waits until it has been."""

    def __init__(self, store: Store, *names: str) -> None:
        async def hear(event: Event) -> None:
            self.append(event)

        super().__init__()
        self.subscription = store.on(names or NAMES, hear)

    async def names(self) -> list[str]:
        await self.subscription.drain()
        return [event.name for event in self]


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


@dataclass
class Point:
    x: int


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


async def test_a_handler_that_feeds_itself_starves_nobody(store: Store) -> None:
    async def again(event: Event) -> None:
        await store.kv.put("a", event.value + 1)

    with store.on("after:put", again) as subscription:
        await store.kv.put("a", 0)
        for _ in range(100):
            await asyncio.sleep(0)
    assert 0 < subscription.delivered < 200


async def test_draining_waits_for_what_was_told_before_and_no_longer(store: Store) -> None:
    """A steady stream keeps no drain waiting; the handler under way, and what is dropped meanwhile, count."""
    seen = list[int]()

    async def again(event: Event) -> None:
        await asyncio.sleep(0)
        seen.append(event.value)
        await store.kv.put("a", event.value + 1)

    with store.on("after:put", again, max_queued=2) as subscription:
        await store.kv.put("a", 0)
        await store.kv.put("a", 100)
        await asyncio.wait_for(subscription.drain(), 10)
        assert seen[:2] == [0, 100]
        await asyncio.wait_for(asyncio.gather(subscription.drain(), subscription.drain()), 10)
        assert len(seen) < 20
        await store.kv.put("a", 200)
        await store.kv.put("a", 300)
        waiting = asyncio.create_task(subscription.drain())
        await asyncio.sleep(0)
    await asyncio.wait_for(waiting, 10)


async def test_a_slow_handler_holds_up_nobody_and_loses_its_oldest_events(store: Store, caplog: Any) -> None:
    go, seen = asyncio.Event(), list[Any]()

    async def slow(event: Event) -> None:
        await go.wait()
        seen.append(event.value)

    subscription, heard = store.on("after:put", slow, max_queued=3), Heard(store, "after:put")
    for number in range(10):
        await store.kv.put("a", number)
        assert len(await heard.names()) == number + 1
    assert subscription.dropped == 6
    go.set()
    await subscription.drain()
    assert seen == [0, 7, 8, 9]
    assert (subscription.delivered, subscription.dropped) == (4, 6)
    assert [r.getMessage() for r in caplog.records if r.name == "polymem.events"] == [
        "a handler of after:put is too slow: its oldest events are dropped"
    ]


async def test_a_blocking_function_runs_in_a_thread(store: Store) -> None:
    go, threads = threading.Event(), list[str]()

    def block(_: Event) -> None:
        go.wait(10)
        threads.append(threading.current_thread().name)

    subscription, quick = store.on("after:put", block), Heard(store, "after:put")
    await store.kv.put("a", 1)
    await store.kv.put("b", 1)
    assert len(await quick.names()) == 2
    assert not threads
    go.set()
    await subscription.drain()
    assert threads == ["polymem-events"] * 2


async def test_a_function_that_returns_a_coroutine_is_awaited(store: Store) -> None:
    seen: list[Any] = []

    async def note(event: Event) -> None:
        seen.append(event.key)

    subscription = store.on("after:put", lambda event: note(event))
    await store.kv.put("a", 1)
    await subscription.drain()
    assert seen == ["a"]


async def test_a_failing_handler_breaks_nothing_and_is_counted(store: Store, caplog: Any) -> None:
    def fail(_: Event) -> None:
        raise ValueError("secret-value")

    async def fail_too(_: Event) -> None:
        raise KeyError("secret-value")

    with caplog.at_level(logging.DEBUG, "polymem.events"):
        plain, later = store.on("after:put", fail), store.on("after:put", fail_too)
        for number in range(3):
            await store.kv.put("a", number)
        await asyncio.gather(plain.drain(), later.drain())
    assert (plain.failed, later.failed, plain.delivered) == (3, 3, 0)
    records = [r for r in caplog.records if r.name == "polymem.events"]
    assert [r.levelname for r in records].count("WARNING") == 2
    assert "secret-value" not in caplog.text


@pytest.mark.parametrize("error", [SystemExit, StopIteration, KeyboardInterrupt])
async def test_nothing_that_a_function_raises_ends_its_thread(
    store: Store, error: type[BaseException], caplog: Any
) -> None:
    def fail(_: Event) -> None:
        raise error

    subscription = store.on("after:put", fail)
    await store.kv.put("a", 1)
    await store.kv.put("a", 2)
    await subscription.drain()
    assert subscription.failed == 2
    assert f"a handler of after:put failed: {error.__name__}" in caplog.text


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


async def test_a_cancelled_subscription_hears_nothing_more(store: Store) -> None:
    heard = Heard(store, "after:put")
    await store.kv.put("a", 1)
    heard.subscription.cancel()
    await store.kv.put("b", 1)
    await heard.names()
    assert not heard
    assert heard.subscription.dropped == 1


async def test_closing_waits_for_handlers_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polymem.contracts._events_hub._GRACE", 0.01)
    store = Store(Session(MemoryEngine(), sweep_every=None))

    async def never(_: Event) -> None:
        await asyncio.Event().wait()

    async with store:
        stuck, heard = store.on("after:put", never), Heard(store)
        await store.kv.put("a", 1)
        await store.kv.put("a", 1)
    assert "after:disconnect" in await heard.names()
    assert stuck.dropped == 1
    await stuck.drain()


async def test_a_handler_may_close_the_store() -> None:
    store = await Store(Session(MemoryEngine(), sweep_every=None))

    async def close(_: Event) -> None:
        await store.close()

    subscription = store.on("after:put", close)
    await store.kv.put("a", 1)
    await asyncio.wait_for(subscription.drain(), 10)
    assert (subscription.delivered, subscription.failed) == (1, 0)


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


# hooks


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
