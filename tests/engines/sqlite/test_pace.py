"""Threads that let the event loop in (SQ-1)."""

import asyncio
import threading
from time import perf_counter
from typing import Any

import pytest

from polymem.engines.sqlite import _pace, _readers, text
from polymem.engines.sqlite._pace import Pace, give_way, paced
from polymem.store import Store

pytestmark = pytest.mark.anyio


def stopped(monkeypatch: pytest.MonkeyPatch) -> tuple[list[float], list[float]]:
    """The time, which stands still unless a test moves it on, and the naps."""
    now, naps = [0.0], list[float]()

    class Time:
        perf_counter = staticmethod(lambda: now[0])
        sleep = staticmethod(naps.append)

    monkeypatch.setattr(_pace, "time", Time)
    return now, naps


async def test_long_work_pauses_and_short_work_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now, naps = stopped(monkeypatch)
    monkeypatch.setattr(_pace, "SLICE", 1.0)
    done = []
    for item in paced(range(10)):
        done.append(item)
        now[0] += 0.6
    assert done == list(range(10))
    assert len(naps) == 5  # after every second
    assert list(paced(range(10))) == done
    assert len(naps) == 5


async def test_the_steps_of_one_work_share_its_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several steps that are short each are long together."""
    now, naps = stopped(monkeypatch)
    pace = Pace(1.0)
    for _ in range(5):
        for _ in paced([1], pace):
            now[0] += 0.6
    assert len(naps) == 2
    now[0] += 0.5
    pace.pause()
    assert len(naps) == 3


@pytest.mark.parametrize(("slice_", "pauses"), [(-1.0, True), (3600.0, False)])
async def test_a_search_can_pause_between_words_rows_and_hits(
    store: Store, monkeypatch: pytest.MonkeyPatch, slice_: float, pauses: bool
) -> None:
    naps: list[float] = []

    class Time:
        perf_counter = staticmethod(perf_counter)
        sleep = staticmethod(naps.append)

    texts, words, rows = store.text("t"), 6, 30
    await texts.put_many([(f"{n}", " ".join(f"w{w}" for w in range(words))) for n in range(rows)])
    monkeypatch.setattr(text, "SEARCH_SLICE", slice_)
    monkeypatch.setattr(_pace, "time", Time)
    query = " ".join(f"w{w}" for w in range(words))
    assert len(await texts.search(query, limit=rows)) == rows
    searched = len(naps)
    assert (searched >= 2 * words + 2 * rows) is pauses
    assert len(await texts.rank(query, limit=rows)) == rows
    assert (len(naps) - searched >= 2 * words) is pauses


async def test_giving_way_lets_the_waiting_task_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not just the callback that tells it: the thread goes on when the task has had its turn."""
    monkeypatch.setattr(_pace, "_PATIENCE", 60)
    loop, told, seen = asyncio.get_running_loop(), asyncio.get_running_loop().create_future(), list[Any]()
    task_ran = threading.Event()

    async def wait() -> None:
        await told
        task_ran.set()

    def tell() -> None:
        loop.call_soon_threadsafe(told.set_result, None)
        give_way(loop)
        seen.append(task_ran.is_set())

    await asyncio.gather(wait(), asyncio.to_thread(tell))
    assert seen == [True]


async def test_a_closed_loop_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pace, "_PATIENCE", 60)
    loop = asyncio.new_event_loop()
    loop.close()
    give_way(loop)


async def test_a_busy_loop_is_not_waited_for_long() -> None:
    loop = asyncio.new_event_loop()  # it never runs
    try:
        await asyncio.to_thread(give_way, loop)
    finally:
        loop.close()


@pytest.mark.parametrize(("work", "times"), [("long", 1), ("short", 0)])
async def test_readers_give_way_between_two_reads(
    store: Store, monkeypatch: pytest.MonkeyPatch, work: str, times: int
) -> None:
    """Not after the last: nobody waits for the thread then. Nor after each of many short ones: that costs as much."""
    given: list[asyncio.AbstractEventLoop] = []
    monkeypatch.setattr(_readers, "give_way", given.append)
    monkeypatch.setattr(_readers, "SLICE", {"long": -1.0, "short": 3600.0}[work])
    await store.text("t").put("a", "apple")
    searcher, entered, go = store.engine._runner.database.searcher, threading.Event(), threading.Event()  # type: ignore[attr-defined]

    def hold(_: object) -> None:
        entered.set()
        go.wait()

    held = searcher.submit(hold)
    await asyncio.to_thread(entered.wait)
    search = asyncio.ensure_future(store.text("t").rank("apple"))
    await asyncio.sleep(0)
    go.set()
    await held
    assert [id for id, _ in await search] == ["a"]
    assert given == [asyncio.get_running_loop()] * times


async def test_a_long_read_holds_up_no_search(store: Store) -> None:
    """Text searches have a thread of their own, whatever keeps the readers busy."""
    await store.text("t").put("a", "apple")
    readers, go = store.engine._runner.database.readers, threading.Event()  # type: ignore[attr-defined]
    held = [readers.submit(lambda _: go.wait()) for _ in range(2)]
    try:
        assert [hit.id for hit in await asyncio.wait_for(store.text("t").search("apple"), 60)] == ["a"]
    finally:
        go.set()
        await asyncio.gather(*held)
