"""`Watch` over a driver that gives what it is told (EVT-1)."""

import asyncio
from typing import Any

import pytest

from polymem.contracts.events import PAGE, Change, ChangePage, EventFeatures, Watch
from polymem.errors import StorageDataError

pytestmark = pytest.mark.anyio


class Script:
    """Pages in the order given, then empty ones; notes what it was asked."""

    features = EventFeatures(kept=10)

    def __init__(self, *pages: ChangePage | None) -> None:
        self._pages, self.asked, self.begun = list(pages), list[tuple[str, int, float]](), 0

    async def begin(self) -> str:
        self.begun += 1
        return "p0"

    async def read(self, after: str, limit: int, /, *, wait: float) -> ChangePage | None:
        self.asked.append((after, limit, wait))
        return self._pages.pop(0) if self._pages else ChangePage([], after)


def page(position: str, *changes: Change) -> ChangePage:
    return ChangePage(list(changes), position)


async def test_begins_once_and_reads_from_there() -> None:
    script = Script(page("p2", Change("put", "a", "p1"), Change("put", "b", "p2")))
    async with Watch(script, "", None) as watch:
        assert watch.position == "p0"
        assert [(await anext(watch)).key for _ in range(2)] == ["a", "b"]
    assert script.begun == 1
    assert [asked[:2] for asked in script.asked] == [("p0", PAGE)]


async def test_goes_on_at_a_position_without_beginning() -> None:
    script = Script()
    assert await Watch(script, "", "p7").read(wait=3) == []
    assert not script.begun
    assert script.asked == [("p7", PAGE, 3)]


async def test_the_position_is_behind_what_was_handed_over_and_passes_over_other_keys() -> None:
    changes = [
        Change("put", "a1", "p1"),
        Change("put", "b", "p2"),
        Change("clear", None, "p3"),
        Change("put", "b", "p4"),
    ]
    script = Script(page("p5", *changes), page("p6", Change("put", "b", "p6")))
    async with Watch(script, "a", None) as watch:
        assert await anext(watch) == changes[0]
        assert watch.position == "p1"
        assert await anext(watch) == changes[2]
        assert watch.position == "p5"
        assert await watch.read() == []
        assert watch.position == "p6"


async def test_read_gives_at_most_its_limit_and_keeps_the_rest() -> None:
    changes = [Change("put", f"{number}", f"p{number}") for number in range(5)]
    script = Script(page("p4", *changes))
    async with Watch(script, "", None) as watch:
        assert await watch.read(2) == changes[:2]
        assert watch.position == "p1"
        assert await watch.read(99) == changes[2:]
        assert watch.position == "p4"


async def test_bad_limits_and_waits_are_refused() -> None:
    watch = Watch(Script(), "", None)
    bad: Any
    for bad in (-1, 1.5, True, None):
        with pytest.raises(StorageDataError) as caught:
            await watch.read(bad)
        assert caught.value.field == "limit"
    for bad in (-1, float("nan"), "1", True, None):
        with pytest.raises(StorageDataError) as caught:
            await watch.read(wait=bad)
        assert caught.value.field == "wait"


@pytest.mark.parametrize("after", [7, b"p1", "9" * 1001])
async def test_what_is_no_position_is_refused(after: Any) -> None:
    with pytest.raises(StorageDataError) as caught:
        Watch(Script(), "", after)
    assert caught.value.field == "after"


async def test_a_lost_position_names_the_remedy_and_is_not_passed_over() -> None:
    async with Watch(Script(None, None), "", None) as watch:
        for _ in range(2):
            with pytest.raises(StorageDataError, match="load everything again") as caught:
                await anext(watch)
            assert caught.value.field == "after"
        assert watch.position == "p0"


async def test_nothing_is_lost_when_a_reader_is_cancelled() -> None:
    class Slow(Script):
        async def read(self, after: str, limit: int, /, *, wait: float) -> ChangePage | None:
            if not self.asked:
                self.asked.append((after, limit, wait))
                await asyncio.Event().wait()
            return await super().read(after, limit, wait=wait)

    async with Watch(Slow(page("p1", Change("put", "a", "p1"))), "", None) as watch:
        step = asyncio.create_task(watch.read(wait=9))
        await asyncio.sleep(0)
        step.cancel()
        await asyncio.gather(step, return_exceptions=True)
        assert (await anext(watch)).key == "a"
