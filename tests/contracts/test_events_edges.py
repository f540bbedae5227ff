"""Listeners whose loop, store or transaction has gone, and stores with nothing to watch (EVT-1, EVT-2)."""

import asyncio
import gc
import threading
from dataclasses import replace
from typing import Any

import pytest

import polymem
from polymem import Store
from polymem.contracts._events_hub import Observers, _Thread
from polymem.contracts.drivers import Drivers
from polymem.contracts.events import Event
from polymem.engines.memory.engine import MemoryEngine
from polymem.errors import StorageQueryError, StorageUnsupportedError
from polymem.opened import Session

pytestmark = pytest.mark.anyio
SOMETHING = Event("after:put", "put", ())


async def test_a_store_without_changes_to_watch() -> None:
    class Mute(MemoryEngine):
        def drivers(self, namespace: str) -> Drivers:
            return replace(super().drivers(namespace), events=None)

    async with await Store(Session(Mute(), sweep_every=None)) as store:
        with pytest.raises(StorageUnsupportedError):
            store.watch()


async def test_a_subscription_shows_its_figures() -> None:
    async with polymem.open("memory:") as store:
        subscription = store.on("after:put", lambda event: None)
        await store.kv.put("a", 1)
        await subscription.drain()
        assert repr(subscription) == "<Subscription after:put delivered=1 dropped=0 failed=0 queued=0>"


async def test_an_observed_handle_knows_the_features_of_its_engine() -> None:
    async with polymem.open("memory:") as store:
        plain: Any = store.kv._driver
        store.on("after:put", lambda event: None)
        observed: Any = store.kv._driver
        assert type(observed) is not type(plain)
        assert observed.features == plain.features


def test_a_handler_that_ends_after_its_loop() -> None:
    """Its thread ends quietly: nobody waits for the result any more."""
    may_end, ended = threading.Event(), threading.Event()

    def slow(_: Event) -> None:
        may_end.wait(10)
        ended.set()

    async def begin() -> None:
        asyncio.get_running_loop().create_task(thread.run(SOMETHING))
        await asyncio.sleep(0)
        [serving] = [one for one in threading.enumerate() if one.name == "polymem-events" and one not in before]
        threads.append(serving)

    before, threads = threading.enumerate(), list[threading.Thread]()
    thread = _Thread(slow)
    asyncio.run(begin())
    may_end.set()
    threads[0].join(10)
    assert ended.is_set()
    assert not threads[0].is_alive()


async def test_a_handler_that_ends_after_its_caller_was_cancelled() -> None:
    may_end = threading.Event()
    thread = _Thread(lambda _: may_end.wait(10))
    caller = asyncio.create_task(thread.run(SOMETHING))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    may_end.set()
    assert await thread.run(SOMETHING) is True  # told after the first, whose result found nobody
    thread.stop()


async def test_handles_that_are_gone_are_not_switched() -> None:
    class Handle:
        def switch(self) -> None:
            switched.append(self)

    switched: list[Handle] = []
    observers, handles = Observers(), [Handle(), Handle()]
    for handle in handles:
        observers.adopt(handle.switch)
    gone = next(iter(observers._handles))
    observers._handles.discard(gone)  # what the collector does may be undone by nobody else
    observers._handles.add(_Dead())  # type: ignore[arg-type]
    del handle
    gc.collect()
    observers.on("", "after:put", lambda event: None, 10)
    assert len(switched) == 1


class _Dead:
    """A reference whose object went while the references were gone through."""

    def __call__(self) -> None:
        return None


async def test_errors_in_a_transaction_are_told_at_once() -> None:
    """Also when it is rolled back, for they have happened."""
    async with polymem.open("memory:") as store:
        heard: list[str] = []

        async def hear(event: Event) -> None:
            heard.append(event.name)

        subscription = store.on(["error", "after:put"], hear)
        with pytest.raises(StorageQueryError):
            async with store.transaction() as tx:
                await tx.kv.put("a", 1)
                with pytest.raises(polymem.errors.StorageError):
                    await tx.kv.increment("b", "no number")  # type: ignore[arg-type]
                with pytest.raises(polymem.errors.StorageError):
                    await tx.kv.update("absent", 1)
                await _refused(tx)
                raise StorageQueryError("over")
        await subscription.drain()
        assert heard
        assert set(heard) == {"error"}


async def _refused(tx: Any) -> None:
    """An error of the engine itself."""
    await tx.kv.put("text", "no number")
    with pytest.raises(polymem.errors.StorageDataError):
        await tx.kv.increment("text")


async def test_a_savepoint_that_cannot_be_made_leaves_its_name_free() -> None:
    async with polymem.open("memory:") as store, store.transaction() as tx:
        transaction: Any = tx._savepoints._transaction

        async def refuse(name: str) -> None:
            raise StorageQueryError("no more savepoints")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(transaction, "savepoint", refuse)
            with pytest.raises(StorageQueryError):
                await tx.savepoint("a")
        async with tx.savepoint("a"):
            await tx.kv.put("k", 1)
        assert await tx.kv.get("k") == 1
