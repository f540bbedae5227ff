"""Several batches at a time: they divide a crowd and keep the order of each key (G-8, G-9)."""

import asyncio

import pytest
from core.batch_server import Server, first, in_two_flights, outcomes, settled, started, ticks

from polymem.core.batch import Batcher
from polymem.errors import Outcome


@settled
async def test_a_crowd_divides_between_two_flights_and_stays_divided():
    server = Server()
    batcher = server.batcher(flights=2)
    numbers = [str(number) for number in range(50)]
    tasks = await in_two_flights(server, batcher, *numbers)
    assert server.sent == [("many", numbers[:25]), ("many", numbers[25:])], "both are under way"
    waiting = await started(*(batcher.submit(number) for number in numbers))
    assert len(server.sent) == 2
    server.gate.set()
    assert await outcomes([*tasks, *waiting]) == [f"did {number}" for number in numbers * 2]
    assert [len(items) for _, items in server.sent] == [25] * 4


@settled
async def test_few_calls_are_not_divided():
    server = Server()
    batcher = server.batcher(flights=2)
    tasks = await in_two_flights(server, batcher, *"abcdefghijklmnop")
    server.gate.set()
    await outcomes(tasks)
    assert server.sent == [("many", [*"abcdefghijklmnop"])]
    await batcher.submit("q")
    await batcher.submit("r")
    assert server.sent[1:] == [("one", "q"), ("one", "r")], "then calls go direct again"


@settled
async def test_flights_of_different_sizes_become_alike():
    server = Server()
    batcher = server.batcher(flights=2)
    await in_two_flights(server, batcher, *"abcdefghijklmnop")
    few = await started(*(batcher.submit(item) for item in "xy"))
    many = await started(*(batcher.submit(str(number)) for number in range(46)))
    server.gate.set()
    await outcomes([*few, *many])
    sizes = [len(items) for _, items in server.sent]
    assert sizes[:2] == [16, 2]
    assert min(sizes[2:]) > 20


@settled
async def test_no_call_leaves_while_another_of_its_key_is_under_way():
    server = Server()
    batcher = server.batcher(flights=2, keys=first)
    tasks = await in_two_flights(server, batcher, "a1", "b1")
    tasks += await started(*(batcher.submit(item) for item in ("a2", "c1", "a3", "d1")))
    assert server.sent == [("many", ["a1", "b1"]), ("many", ["c1", "d1"])]
    server.gate.set()
    await outcomes(tasks)
    assert server.sent[2:] == [("many", ["a2", "a3"])]


@settled
async def test_what_waits_for_its_key_stays_before_what_a_full_batch_leaves():
    server = Server()
    batcher = server.batcher(flights=2, keys=first, max_calls=2)
    tasks = await in_two_flights(server, batcher, "a1", "b1")
    tasks += await started(*(batcher.submit(item) for item in ("a2", "c1", "d1", "a3")))
    server.gate.set()
    await outcomes(tasks)
    assert server.sent == [("many", ["a1", "b1"]), ("many", ["c1", "d1"]), ("many", ["a2", "a3"])]


@settled
async def test_a_call_of_several_keys_waits_for_each_and_those_behind_it_wait_too():
    server = Server()
    batcher = server.batcher(flights=2, keys=lambda item: item)
    tasks = await in_two_flights(server, batcher, "a", "b")
    tasks += await started(*(batcher.submit(item) for item in ("bc", "cd", "e")))
    assert server.sent == [("many", ["a", "b"]), ("one", "e")]
    server.gate.set()
    await outcomes(tasks)
    assert server.sent[2:] == [("many", ["bc", "cd"])]


@settled
async def test_calls_of_one_key_alone_go_one_batch_after_the_other():
    server = Server()
    batcher = server.batcher(flights=2, keys=first)
    tasks = await in_two_flights(server, batcher, "a1", "a2")
    tasks += await started(batcher.submit("a3"), batcher.submit("a4"))
    tasks += await started(batcher.submit("b1"))
    assert server.sent == [("many", ["a1", "a2"]), ("one", "b1")], "the others pass by"
    server.gate.set()
    await outcomes(tasks)
    assert server.sent[2:] == [("many", ["a3", "a4"])]
    await batcher.close()


@settled
async def test_a_cancelled_put_in_one_flight_cannot_land_after_a_delete_in_the_other():
    server = Server()
    batcher = server.batcher(flights=2, keys=first)
    tasks = await in_two_flights(server, batcher, "k put", "j put")
    tasks[0].cancel()
    later = await started(batcher.submit("k delete"))
    assert server.sent == [("many", ["k put", "j put"])]
    server.gate.set()
    await outcomes([tasks[1], *later])
    assert server.sent[1:] == [("one", "k delete")]


@settled
async def test_one_flight_cancelled_leaves_nobody_waiting_and_the_other_goes_on():
    server = Server()
    batcher = server.batcher(flights=2, max_calls=2)
    tasks = await in_two_flights(server, batcher, *"abcde")
    server.tasks[1].cancel()
    await ticks()
    server.gate.set()
    a, b, c, d, e = await outcomes(tasks)
    assert [error.outcome for error in (a, b, e)] == [Outcome.UNKNOWN] * 3
    assert [c, d] == ["did c", "did d"]
    assert await batcher.submit("later") == "did later"
    await batcher.close()


@settled
async def test_large_calls_go_by_themselves_beside_the_batches():
    server = Server()
    batcher = server.batcher(large=3, singles=2)
    tasks = await in_two_flights(server, batcher, "a", "b", "large1", "large2", "large3", "c")
    assert server.sent == [("many", ["a", "b"]), ("one", "large1"), ("one", "large2")]
    server.gate.set()
    assert await outcomes(tasks) == [f"did {item}" for item in ("a", "b", "large1", "large2", "large3", "c")]
    assert server.sent[3:] == [("one", "large3"), ("one", "c")]
    assert await batcher.submit("large4") == "did large4", "then calls go direct again"


@settled
async def test_a_large_call_keeps_its_place_among_those_of_its_key():
    server = Server()
    batcher = server.batcher(keys=first, large=3, singles=2)
    items = ["a1", "a2 large", "b1 large", "a3", "c1"]
    tasks = await in_two_flights(server, batcher, *items)
    assert server.sent == [("one", "a1"), ("one", "b1 large")]
    server.gate.set()
    await outcomes(tasks)
    assert server.sent[2:] == [("one", "a2 large"), ("one", "c1"), ("one", "a3")]


@settled
async def test_a_call_that_waits_for_its_key_lets_no_more_large_ones_by_than_may_go():
    server = Server()
    batcher = server.batcher(flights=2, keys=first, large=3, singles=2)
    tasks = await in_two_flights(server, batcher, "a1", "a2")
    tasks += await started(*(batcher.submit(item) for item in ("a3", *(f"{n} large" for n in range(9)))))
    assert len(server.sent) <= 4
    server.gate.set()
    assert len(set(await outcomes(tasks))) == 12


@settled
async def test_close_waits_for_both_flights():
    server = Server()
    batcher = server.batcher(flights=2, max_calls=2)
    tasks = await in_two_flights(server, batcher, *"abcd")
    (closing,) = await started(batcher.close())
    server.tasks[1].cancel()
    await ticks()
    assert not closing.done()
    server.gate.set()
    await closing
    assert len(await outcomes(tasks)) == 4


@pytest.mark.parametrize(("away", "between", "largest"), [(0.1, 0.01, 101), (0.1, 0.09, 51), (0.001, 60, 51)])
@settled
async def test_a_crowd_divides_where_the_disk_is_synced_only_if_the_loop_is_busy_too(
    away, between, largest, monkeypatch
):
    """Two batches would wait for each other's sync: one that is larger is acknowledged as soon."""
    now = 0.0
    monkeypatch.setattr("polymem.core.batch.perf_counter", lambda: now)

    async def many(items):
        nonlocal now
        now += away
        sizes.append(len(items))
        await asyncio.sleep(0)
        return items

    async def one(item):
        await asyncio.sleep(0)

    sizes = []
    batcher = Batcher(one, many, size=len, flights=2, keys=first, syncs=True)
    for pause in [60] * 5 + [between] * 13:  # the first are the callers' affair
        sizes.clear()
        await asyncio.gather(*(batcher.submit(str(number)) for number in range(101)))
        now += pause
    assert max(sizes) == largest
