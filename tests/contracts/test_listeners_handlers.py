"""Handlers that are slow, fail, write or close: nobody else is held up, and closing waits (EVT-2)."""

import asyncio
import logging
import threading
from typing import Any

import pytest
from contracts.heard import Heard

from polymem.contracts._events_types import Event
from polymem.engines.memory.engine import MemoryEngine
from polymem.opened import Session
from polymem.store import Store

pytestmark = pytest.mark.anyio


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
