"""The portal: calls into its loop from any thread, and its end (G-8)."""

import asyncio
import contextvars
import gc
import os
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from blocking.calls import double

import polymem
import polymem.blocking
from polymem.blocking import Portal
from polymem.errors import StorageConnectionError


def test_runs_coroutines_and_plain_functions_in_its_own_thread(portal: Portal) -> None:
    assert portal.call(double, 4, plus=1) == 9
    assert portal.call(threading.get_ident) != threading.get_ident()
    assert portal.call(threading.get_ident) == portal.call(threading.get_ident)


def test_exceptions_come_here(portal: Portal) -> None:
    async def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        portal.call(fail)
    assert portal.call(double, 1) == 2


def test_several_threads_at_once(portal: Portal) -> None:
    barrier = portal.call(_barrier, 8)
    with ThreadPoolExecutor(8) as pool:
        met = list(pool.map(lambda _: portal.call(barrier.wait), range(8)))
    assert sorted(met) == list(range(8))


def test_works_where_a_loop_already_runs() -> None:
    """As in a notebook."""

    async def cell() -> int:
        with Portal() as portal:
            return int(portal.call(double, 21))

    assert asyncio.run(cell()) == 42


def test_close_is_idempotent_also_from_several_threads() -> None:
    portal = Portal()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: portal.close(), range(8)))
    portal.close()
    assert not portal._thread.is_alive()


def test_use_after_close() -> None:
    portal = Portal()
    portal.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a coroutine made and never awaited would warn
        with pytest.raises(StorageConnectionError, match="closed"):
            portal.call(double, 1)
        gc.collect()


def test_closing_ends_calls_in_flight() -> None:
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


def test_an_iterator_that_outlives_its_portal_is_harmless() -> None:
    with polymem.blocking.open("memory:") as store:
        store.kv.put_many({"a": 1, "b": 2})
        scan = store.kv.scan()
        next(scan)
    with pytest.raises(StorageConnectionError):
        next(scan)
    scan.close()


def test_a_portal_nobody_closes_does_not_keep_the_process() -> None:
    code = "import polymem.blocking; s = polymem.blocking.open('memory:'); s.kv.put('k', 1); print(s.kv.get('k'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_a_call_from_inside_would_wait_for_itself(portal: Portal) -> None:
    async def inside() -> None:
        portal.call(double, 1)

    with pytest.raises(StorageConnectionError, match="wait for itself"):
        portal.call(inside)


def test_keyboard_interrupt_cancels_the_call_and_lets_it_clean_up(portal: Portal) -> None:
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


def test_context_stays_with_the_calling_thread(portal: Portal) -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    portal.call(variable.set, "mine")
    assert portal.call(variable.get) == "mine"
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(portal.call, variable.get).result() == "unset"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_refused_instead_of_waiting_for_ever(portal: Portal) -> None:
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


async def _barrier(parties: int) -> asyncio.Barrier:
    return asyncio.Barrier(parties)
