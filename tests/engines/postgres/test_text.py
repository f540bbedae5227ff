"""The search index in memory that follows the rows of PostgreSQL (TXT-1)."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.anyio, pytest.mark.integration, pytest.mark.server("postgres")]
Open = Callable[..., Any]


async def test_a_transaction_that_commits_late_is_not_missed(opened: Open) -> None:
    """It began before a change that the index has already seen, and ends after it."""
    one, other = [(await opened()).namespace("late") for _ in range(2)]
    await one.text("t").put("first", "river")
    await other.text("t").search("river")
    async with one.transaction(isolation="read_committed") as tx:
        await tx.text("t").put("late", "river")
        await other.text("t").put("early", "river")
        assert {hit.id for hit in await other.text("t").search("river")} == {"first", "early"}
        assert {hit.id for hit in await tx.text("t").search("river")} == {"first", "early", "late"}
    assert {hit.id for hit in await other.text("t").search("river")} == {"first", "early", "late"}
    await one.text("t").clear()


async def test_what_a_savepoint_took_back_is_not_found(opened: Open) -> None:
    text = (await opened()).namespace("back").text("t")
    await text.put("a", "river")
    assert len(await text.search("river")) == 1
    store = (await opened()).namespace("back")
    async with store.transaction() as tx:
        with pytest.raises(KeyError):
            async with tx.savepoint("one"):
                await tx.text("t").put("b", "river")
                raise KeyError
        await tx.text("t").put("c", "river")
    assert {hit.id for hit in await text.search("river")} == {"a", "c"}
    await text.clear()


async def test_cancelled_searches_leave_a_whole_index(opened: Open) -> None:
    """Whatever moment a search is given up at, the next one finds everything."""
    text = (await opened()).namespace("cancelled").text("t")
    for number in range(40):
        await text.put_many([(f"{number}-{n}", "river dog") for n in range(20)])
        search = asyncio.create_task(text.search("river", limit=1))
        for _ in range(number):
            await asyncio.sleep(0)
        search.cancel()
        await asyncio.gather(search, return_exceptions=True)
    assert len(await text.search("river", limit=2000)) == 800
    await text.clear()


async def test_prefixes_see_later_words(opened: Open) -> None:
    text = (await opened()).namespace("prefixes").text("t")
    await text.put("a", "telephone")
    assert [hit.id for hit in await text.search("tel*")] == ["a"]
    await text.put("b", "television")
    assert {hit.id for hit in await text.search("tel*")} == {"a", "b"}
    await text.clear()
