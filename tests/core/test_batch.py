"""The batcher of network engines: when calls go direct, when they gather, and how many (G-9)."""

import asyncio
import threading
from contextvars import ContextVar

from core.batch_server import Server, behind_a_held_call, outcomes, settled, started, ticks

from polymem.core.batch import Batcher


@settled
async def test_an_idle_batcher_lets_the_caller_await_the_driver_itself():
    server = Server()
    batcher = server.batcher()
    assert [await batcher.submit(item) for item in "abc"] == ["did a", "did b", "did c"]
    assert server.sent == [("one", "a"), ("one", "b"), ("one", "c")]
    assert set(server.tasks) == {asyncio.current_task()}


@settled
async def test_calls_gather_while_one_is_under_way_and_crowds_stay_together():
    server = Server()
    batcher = server.batcher()

    async def caller(name):
        return [await batcher.submit(f"{name}{turn}") for turn in range(3)]

    answers = await asyncio.gather(*(caller(name) for name in "abcd"))
    assert answers == [[f"did {name}{turn}" for turn in range(3)] for name in "abcd"]
    assert server.sent == [
        ("one", "a0"),
        ("many", ["b0", "c0", "d0", "a1"]),
        ("many", ["b1", "c1", "d1", "a2"]),
        ("many", ["b2", "c2", "d2"]),
    ]


@settled
async def test_after_a_crowd_one_single_flush_leads_back_to_direct_calls():
    server = Server()
    batcher = server.batcher()
    await asyncio.gather(*(batcher.submit(item) for item in "abc"))
    server.tasks.clear()
    for item in "xyz":
        await batcher.submit(item)
    assert server.sent[-3:] == [("one", "x"), ("one", "y"), ("one", "z")]
    assert server.tasks[0] is not asyncio.current_task()
    assert server.tasks[1:] == [asyncio.current_task()] * 2


@settled
async def test_a_batch_runs_in_the_context_of_none_of_its_callers():
    who = ContextVar("who", default="nobody")
    seen = []

    async def many(items):
        seen.append(who.get())
        return items

    async def one(item):
        await asyncio.sleep(0)

    async def caller(name):
        who.set(name)
        await batcher.submit(name)

    batcher = Batcher(one, many, size=len)
    for _ in range(2):
        await asyncio.gather(*(caller(name) for name in "abc"))
    assert seen == ["nobody", "nobody"]


@settled
async def test_a_batch_keeps_to_the_number_of_calls():
    server = Server()
    batcher = server.batcher(max_calls=3)
    tasks = await behind_a_held_call(server, batcher, *"abcdefg")
    server.gate.set()
    assert await outcomes(tasks[1:]) == [f"did {item}" for item in "abcdefg"]
    assert server.sent[1:] == [("many", ["a", "b", "c"]), ("many", ["d", "e", "f"]), ("one", "g")]


@settled
async def test_a_batch_keeps_to_the_bytes_and_what_is_larger_travels_alone():
    server = Server()
    batcher = server.batcher(max_bytes=4)
    tasks = await behind_a_held_call(server, batcher, "aa", "bb", "c", "dddddd", "", "eee", "f", "g")
    server.gate.set()
    await outcomes(tasks)
    assert server.sent[1:] == [
        ("many", ["aa", "bb"]),
        ("one", "c"),
        ("one", "dddddd"),
        ("many", ["", "eee", "f"]),
        ("one", "g"),
    ]


@settled
async def test_an_item_that_cannot_be_measured_fails_its_caller_alone():
    server = Server()
    batcher = server.batcher()
    tasks = await behind_a_held_call(server, batcher, "a", 7, "b")
    server.gate.set()
    _, a, broken, b = await outcomes(tasks)
    assert (a, b) == ("did a", "did b")
    assert isinstance(broken, TypeError)


@settled
async def test_a_key_keeps_its_order_behind_a_direct_call():
    stored = {}

    async def one(item):
        await ticks(3)
        stored[item[0]] = item[1]

    async def many(items):
        for item in items:
            stored[item[0]] = item[1]
        return [None] * len(items)

    batcher = Batcher(one, many, size=len)
    first, second = await started(batcher.submit(("k", 1)), batcher.submit(("k", 2)))
    await asyncio.gather(first, second)
    assert stored == {"k": 2}


@settled
async def test_a_cancelled_put_cannot_land_after_a_later_delete_of_the_same_batcher():
    """Why put and delete of an engine share one batcher."""
    server = Server()
    writes = server.batcher()
    tasks = await behind_a_held_call(server, writes, "put k")
    tasks[1].cancel()
    later = await started(writes.submit("delete k"))
    server.gate.set()
    await outcomes([tasks[0], *later])
    assert server.sent[1:] == [("many", ["put k", "delete k"])]


@settled
async def test_a_read_may_overtake_a_cancelled_write_but_never_an_acknowledged_one():
    """The price of separate batchers for reads and writes: documented, and legal for an unknown outcome."""
    stored, gate = {}, asyncio.Event()

    async def put(item):
        await gate.wait()
        stored[item[0]] = item[1]

    async def get(key):
        await asyncio.sleep(0)
        return stored.get(key)

    async def put_many(items):
        return [await put(item) for item in items]

    async def get_many(keys):
        return [await get(key) for key in keys]

    writes, reads = Batcher(put, put_many, size=len), Batcher(get, get_many, size=len)
    held, cancelled = await started(writes.submit(("j", 0)), writes.submit(("k", 1)))
    cancelled.cancel()
    assert await reads.submit("k") is None, "the write is still under way"
    gate.set()
    await writes.submit(("k", 2))
    assert await reads.submit("k") == 2, "acknowledged, and the cancelled one came before it"
    await held
    await asyncio.gather(writes.close(), reads.close())
    assert stored == {"j": 0, "k": 2}


def test_its_loop_may_move_to_another_thread():
    """It knows its loop by the thread, which is quicker; a loop may be run by one thread after the other."""
    loop, server, answers = asyncio.new_event_loop(), Server(), []

    async def begin():
        return server.batcher()

    batcher = loop.run_until_complete(begin())
    elsewhere = threading.Thread(target=lambda: answers.append(loop.run_until_complete(batcher.submit(("get", "a")))))
    elsewhere.start()
    elsewhere.join()
    loop.close()
    assert answers == [server.answer(("get", "a"))]
