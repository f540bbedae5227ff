"""`polymem.blocking`: the portal and the mirrors (one explicit portal owned by its caller; G-8)."""

import asyncio
import contextvars
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import polymem
import polymem.blocking
from polymem.blocking import BlockingStore, Portal
from polymem.blocking.mirrors import iterate
from polymem.core.clock import ManualClock
from polymem.errors import (
    Outcome,
    StorageConflictError,
    StorageConnectionError,
    StorageDataError,
    StorageQueryError,
    StorageUnsupportedError,
)


@pytest.fixture
def portal() -> Iterator[Portal]:
    with Portal() as opened:
        yield opened


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlockingStore]:
    url = "memory:" if request.param == "memory" else f"sqlite:///{tmp_path}/blocking.db"
    with polymem.blocking.open(url) as opened:
        yield opened


async def double(number: int, *, plus: int = 0) -> int:
    await asyncio.sleep(0)
    return number * 2 + plus


class TestPortal:
    def test_runs_coroutines_and_plain_functions_in_its_own_thread(self, portal: Portal) -> None:
        assert portal.call(double, 4, plus=1) == 9
        assert portal.call(threading.get_ident) != threading.get_ident()
        assert portal.call(threading.get_ident) == portal.call(threading.get_ident)

    def test_exceptions_come_here(self, portal: Portal) -> None:
        async def fail() -> None:
            raise KeyError("x")

        with pytest.raises(KeyError, match="x"):
            portal.call(fail)
        assert portal.call(double, 1) == 2

    def test_several_threads_at_once(self, portal: Portal) -> None:
        barrier = portal.call(_barrier, 8)
        with ThreadPoolExecutor(8) as pool:
            met = list(pool.map(lambda _: portal.call(barrier.wait), range(8)))
        assert sorted(met) == list(range(8))

    def test_works_where_a_loop_already_runs(self) -> None:
        """As in a notebook."""

        async def cell() -> int:
            with Portal() as portal:
                return int(portal.call(double, 21))

        assert asyncio.run(cell()) == 42

    def test_close_is_idempotent_also_from_several_threads(self) -> None:
        portal = Portal()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: portal.close(), range(8)))
        portal.close()
        assert not portal._thread.is_alive()

    def test_use_after_close(self) -> None:
        portal = Portal()
        portal.close()
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a coroutine made and never awaited would warn
            with pytest.raises(StorageConnectionError, match="closed"):
                portal.call(double, 1)
            gc.collect()

    def test_closing_ends_calls_in_flight(self) -> None:
        portal, started = Portal(), threading.Event()

        async def wait_for_ever() -> None:
            started.set()
            await asyncio.Event().wait()

        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(portal.call, wait_for_ever)
            assert started.wait(10)
            portal.close()
            with pytest.raises(StorageConnectionError, match="during the call"):
                call.result(10)

    def test_an_iterator_that_outlives_its_portal_is_harmless(self) -> None:
        with polymem.blocking.open("memory:") as store:
            store.kv.put_many({"a": 1, "b": 2})
            scan = store.kv.scan()
            next(scan)
        with pytest.raises(StorageConnectionError):
            next(scan)
        scan.close()

    def test_a_portal_nobody_closes_does_not_keep_the_process(self) -> None:
        code = "import polymem.blocking; s = polymem.blocking.open('memory:'); s.kv.put('k', 1); print(s.kv.get('k'))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        assert (done.stdout, done.stderr) == ("1\n", "")

    def test_a_call_from_inside_would_wait_for_itself(self, portal: Portal) -> None:
        async def inside() -> None:
            portal.call(double, 1)

        with pytest.raises(StorageConnectionError, match="wait for itself"):
            portal.call(inside)

    def test_keyboard_interrupt_cancels_the_call_and_lets_it_clean_up(self, portal: Portal) -> None:
        events: list[str] = []

        async def long() -> None:
            events.append("started")
            main = threading.main_thread().ident or 0
            threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGINT)).start()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.sleep(0.02)
                events.append("cleaned up")
                raise

        with pytest.raises(KeyboardInterrupt):
            portal.call(long)
        assert events == ["started", "cleaned up"]
        assert portal.call(double, 2) == 4

    def test_context_stays_with_the_calling_thread(self, portal: Portal) -> None:
        variable = contextvars.ContextVar("variable", default="unset")
        portal.call(variable.set, "mine")
        assert portal.call(variable.get) == "mine"
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(portal.call, variable.get).result() == "unset"

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_a_forked_child_is_refused_instead_of_waiting_for_ever(self, portal: Portal) -> None:
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # newer versions warn about fork with threads, which is the point
            child = os.fork()
        if child == 0:  # pragma: no cover - another process
            try:
                portal.call(double, 1)
            except StorageConnectionError as error:
                os.write(writer, str(error).encode())
            finally:
                portal.close()
                os._exit(0)
        os.close(writer)
        assert f"belongs to process {os.getpid()}" in os.read(reader, 200).decode()
        os.close(reader)
        os.waitpid(child, 0)
        assert portal.call(double, 1) == 2


class TestMirrors:
    def test_key_values(self, store: BlockingStore) -> None:
        kv = store.kv
        version = kv.put("a", {"x": [1, None]})
        assert kv.get("a") == {"x": [1, None]}
        assert kv.entry("a").version == version
        assert kv.get("b", default=5) == 5
        assert kv.exists("b") is False
        with pytest.raises(StorageConflictError):
            kv.create("a", 1)
        with pytest.raises(StorageDataError) as caught:
            kv.get("")
        assert caught.value.field == "key"

    def test_async_iterators_become_iterators(self, store: BlockingStore) -> None:
        store.kv.put_many({f"{n:04}": n for n in range(1200)})
        scan = store.kv.scan()
        assert next(scan) == "0000"
        scan.close()
        assert list(store.kv.scan()) == [f"{n:04}" for n in range(1200)]
        assert [entry.value for entry in store.kv.entries("119")] == list(range(1190, 1200))

    def test_an_iterator_gives_what_came_before_an_error(self, portal: Portal) -> None:
        async def numbers() -> AsyncIterator[int]:
            for n in range(10):
                yield n
            raise StorageConflictError("late")

        seen: list[int] = []
        with pytest.raises(StorageConflictError, match="late"):
            seen.extend(iter_into(iterate(portal, numbers()), seen))
        assert seen == list(range(10))

    def test_leaving_an_iterator_early_closes_it(self, portal: Portal) -> None:
        closed = threading.Event()

        async def endless() -> AsyncIterator[int]:
            try:
                while True:
                    yield 1
            finally:
                closed.set()

        for _ in iterate(portal, endless()):
            break
        gc.collect()
        assert closed.wait(10)

    def test_context_managers(self, store: BlockingStore) -> None:
        with store.transaction() as tx:
            tx.kv.put("in", 1)
            assert tx.kv.get("in") == 1
            with pytest.raises(StorageQueryError, match="through the store it gave"):
                store.kv.put("out", 2)
            with pytest.raises(KeyError), tx.savepoint():
                put_and_fail(tx, "undone")
        assert store.kv.get_many(["in", "out", "undone"]) == {"in": 1}
        with pytest.raises(KeyError), store.transaction() as tx:
            put_and_fail(tx, "lost")
        assert store.kv.exists("lost") is False

    def test_transactions_belong_to_their_thread(self, store: BlockingStore) -> None:
        """While one thread's transaction is open another thread's write waits; it does not join it, nor fail."""
        with ThreadPoolExecutor(1) as pool:
            with store.transaction() as tx:
                tx.kv.put("a", 1)
                other = pool.submit(store.kv.put, "b", 2)
                time.sleep(0.05)
            other.result(10)
        assert store.kv.get_many(["a", "b"]) == {"a": 1, "b": 2}

    def test_run_in_transaction_takes_a_plain_function(self, store: BlockingStore) -> None:
        attempts: list[int] = []

        def work(tx: Any) -> str:
            attempts.append(tx.kv.increment("n"))
            if len(attempts) < 3:
                raise StorageConflictError("lost the race", retryable=True)
            return "done"

        assert store.run_in_transaction(work) == "done"
        assert attempts == [1, 1, 1]
        assert store.kv.get("n") == 1
        with pytest.raises(StorageConflictError):
            store.run_in_transaction(_conflict, retries=1)

    def test_run_in_transaction_of_a_namespace_and_a_storage_is_the_same(self, store: BlockingStore) -> None:
        def work(tx: Any) -> int:
            tx.kv.put("a", 1)
            return int(tx.kv.put("b", 2, ttl=60))

        for inner in (store.namespace("acme"), store.storage("numbers")):
            assert inner.run_in_transaction(work, isolation="read_committed") == inner.kv.entry("b").version
            assert inner.kv.get_many(["a", "b"]) == {"a": 1, "b": 2}

    def test_run_in_transaction_does_not_repeat_what_may_have_been_committed(self, store: BlockingStore) -> None:
        attempts: list[int] = []

        def work(tx: Any) -> None:
            attempts.append(tx.kv.increment("n"))
            raise StorageConnectionError("lost", retryable=True, outcome=Outcome.UNKNOWN)

        with pytest.raises(StorageConnectionError, match="lost"):
            store.run_in_transaction(work)
        assert attempts == [1]

    def test_namespaces_and_plain_methods(self, store: BlockingStore) -> None:
        acme = store.namespace("acme")
        acme.kv.put("k", 1)
        assert store.kv.exists("k") is False
        assert list(store.namespaces()) == [("acme",)]
        assert store.supports("kv")
        assert "kv" in store.features()
        assert store.metrics()["operations"]["kv.put"]["success_count"] == 1
        assert store.drop_namespace("acme") == 1
        assert store.engine.check().ok

    def test_every_contract(self, store: BlockingStore) -> None:
        store.turns.append("s", "user", "hello")
        assert [turn.content for turn in store.turns.scan("s")] == ["hello"]
        vectors = store.vectors("v", dimensions=2)
        vectors.put("a", [1, 0])
        assert vectors.search([1, 0])[0].id == "a"
        text = store.text("t")
        text.put("a", "quick brown fox")
        assert [hit.id for hit in text.search("foxes")] == ["a"]
        graph = store.graph()
        graph.create_node("ada", "Person")
        assert graph.count().nodes == 1
        blobs = store.blobs()
        blobs.put("b", b"x" * 1000)
        assert b"".join(blobs.stream("b")) == b"x" * 1000

    def test_typed_values_stay_themselves(self, store: BlockingStore) -> None:
        """Data is never mirrored, though it may have asynchronous methods of its own."""
        typed = store.kv.typed(Point)
        typed.put("p", Point(1, 2))
        assert typed.get("p") == Point(1, 2)
        assert type(typed.get("p")) is Point

    def test_absent_names(self, store: BlockingStore) -> None:
        with pytest.raises(AttributeError):
            store.kv.nonsense()
        with pytest.raises(AttributeError):
            store.kv._driver()
        assert "put" in dir(store.kv)
        assert "Store" in repr(store)

    def test_several_threads_share_a_store(self, store: BlockingStore) -> None:
        def count(_: int) -> None:
            for _ in range(25):
                store.kv.increment("n")

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(count, range(4)))
        assert store.kv.get("n") == 100


class TestLifecycle:
    def test_closing_twice_and_use_after(self, tmp_path: Path) -> None:
        store = polymem.blocking.open(f"sqlite:///{tmp_path}/a.db")
        store.kv.put("k", 1)
        kv = store.kv
        store.close()
        store.close()
        for use in (lambda: kv.get("k"), lambda: store.kv.get("k"), store.open, lambda: list(store.kv.scan())):
            with pytest.raises(StorageConnectionError):
                use()
        assert [path.name for path in tmp_path.iterdir()] == ["a.db"]

    def test_a_portal_handed_in_is_not_closed(self, portal: Portal) -> None:
        first = polymem.blocking.open("memory:", portal=portal)
        with polymem.blocking.open("memory:", portal=portal) as second:
            second.kv.put("k", 1)
            assert first.kv.exists("k") is False
        with pytest.raises(StorageConnectionError):
            second.kv.get("k")
        first.kv.put("k", 2)
        first.close()
        assert portal.call(double, 1) == 2

    def test_a_failed_open_leaves_no_thread(self, tmp_path: Path) -> None:
        before = threading.active_count()
        for bad, error in (("nonsense", StorageDataError), ("qdrant://host", StorageUnsupportedError)):
            with pytest.raises(error):
                polymem.blocking.open(bad)
        assert threading.active_count() == before

    def test_options_go_through(self) -> None:
        clock = ManualClock()
        with polymem.blocking.open("memory:", clock=clock, sweep_every=None) as store:
            store.kv.put("k", 1, ttl=5)
            clock.advance(5)
            assert store.kv.exists("k") is False


class TestMemory:
    def test_a_conversation(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path}/agent.db"
        with polymem.blocking.Memory.open(url, tenant="acme", embed=None) as memory:
            session = memory.session("s1")
            session.add("user", "I moved to Lisbon", speaker="Ada")
            memory.remember("Ada prefers dark mode", kind="preference", subject="ada")
            assert memory.recall("where is Lisbon?")[0].text == "I moved to Lisbon"
            assert "Lisbon" in session.context(200).text
            assert memory.sessions() == ["s1"]
            assert memory.tenant == "acme"
            assert {record.kind for record in memory.scan()} == {"turn", "preference"}
            assert memory.store.turns.count() == 1
        with pytest.raises(StorageConnectionError):
            memory.recall("Lisbon")
        with polymem.blocking.Memory.open(url, tenant="other", embed=None) as memory:
            assert memory.recall("Lisbon") == []


@dataclass
class Point:
    x: int
    y: int

    async def publish(self) -> None:
        raise NotImplementedError


def iter_into(source: Iterator[int], seen: list[int]) -> Iterator[int]:
    for item in source:
        seen.append(item)
    return iter(())


async def _barrier(parties: int) -> asyncio.Barrier:
    return asyncio.Barrier(parties)


def put_and_fail(tx: Any, key: str) -> None:
    tx.kv.put(key, 1)
    raise KeyError


def _conflict(tx: Any) -> None:
    raise StorageConflictError("always", retryable=True)
