"""A guard belongs to its event loop and process (G-8, G-9)."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from core.guarded import Driver, context, translate

from polymem.core.guard import GuardContext, _forked, guard
from polymem.errors import StorageConnectionError

pytestmark = pytest.mark.anyio


def test_use_before_open_after_close_and_on_another_loop_is_refused():
    made = context_unopened = GuardContext("fake", translate)
    guarded = guard(Driver(1, 2, 3), "kv", made)
    with pytest.raises(StorageConnectionError, match="not open yet"):
        asyncio.run(guarded.get("k"))

    async def opened():
        context_unopened.opened()
        assert await guarded.get("k") == 1

    asyncio.run(opened())
    with pytest.raises(StorageConnectionError, match="another event loop"):
        asyncio.run(guarded.get("k"))
    made.closed()
    with pytest.raises(StorageConnectionError, match="closed"):
        asyncio.run(guarded.get("k"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # forking a threaded process is what is tested
async def test_a_forked_child_is_refused():
    made = context()
    child = os.fork()
    if child == 0:
        os._exit(0 if made.loop is None and "the process that forked" in made.state else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert made.loop is asyncio.get_running_loop()


async def test_the_child_of_a_fork_knows_it(monkeypatch):
    ours, unopened = context(), GuardContext("fake", translate)
    monkeypatch.setattr("polymem.core.guard._contexts", {ours, unopened})
    _forked()
    with pytest.raises(StorageConnectionError, match="fork before opening"):
        await guard(Driver("value"), "kv", ours).get("k")
    with pytest.raises(StorageConnectionError, match="not open yet"):
        await guard(Driver("value"), "kv", unopened).get("k")


def test_calls_from_another_thread_are_refused_and_a_loop_that_moved_is_followed():
    loop, made = asyncio.new_event_loop(), GuardContext("fake", translate)
    guarded = guard(Driver(*range(9)), "kv", made)

    async def opened():
        made.opened()
        assert await guarded.get("k") == 0

    def elsewhere(work):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(work).result()

    try:
        loop.run_until_complete(opened())
        with pytest.raises(StorageConnectionError, match="another event loop"):
            elsewhere(lambda: asyncio.run(guarded.get("k")))
        assert elsewhere(lambda: loop.run_until_complete(guarded.get("k"))) == 1
        with pytest.raises(StorageConnectionError, match="another event loop"):
            asyncio.run(guarded.get("k"))
        assert loop.run_until_complete(guarded.get("k")) == 2
        with ThreadPoolExecutor(1) as pool:  # while it runs there, this thread's own loop is still another one
            running = pool.submit(loop.run_forever)
            assert asyncio.run_coroutine_threadsafe(guarded.get("k"), loop).result() == 3
            with pytest.raises(StorageConnectionError, match="another event loop"):
                asyncio.run(guarded.get("k"))
            loop.call_soon_threadsafe(loop.stop)
            running.result()
    finally:
        loop.close()
