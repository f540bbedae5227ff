"""The log of changes on PostgreSQL: what the clauses don't see (EVT-1)."""

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from polymem.contracts.events import Watch
from polymem.engines.postgres import _kv_changes
from polymem.errors import StorageDataError

pytestmark = [pytest.mark.anyio, pytest.mark.integration, pytest.mark.server("postgres")]
Open = Callable[..., Any]


async def told(watch: Watch, count: int) -> list[tuple[str, str | None]]:
    found = [await asyncio.wait_for(anext(watch), 10) for _ in range(count)]
    return [(change.op, change.key) for change in found]


async def test_a_transaction_that_commits_late_is_told(opened: Open) -> None:
    """Another one that wrote after it and committed before it waits for it, so both are told, each once."""
    store, other = [(await opened()).namespace("late-events") for _ in range(2)]
    async with store.kv.watch() as watch:
        async with store.transaction(isolation="read_committed") as tx:
            await tx.kv.put("a", 1)
            await other.kv.put("b", 1)
            assert await watch.read() == []
        assert await told(watch, 2) == [("put", "a"), ("put", "b")]
        assert await watch.read() == []


async def test_what_was_committed_before_is_not_told_later(opened: Open) -> None:
    """Although an older transaction was open then, and holds back what is told."""
    store, other = [(await opened()).namespace("old-events") for _ in range(2)]
    async with store.kv.watch(), store.transaction(isolation="read_committed") as tx:
        await tx.kv.put("open", 1)
        await other.kv.put("before", 1)
        watch = await other.kv.watch().__aenter__()
        await other.kv.put("after", 1)
    assert sorted(await told(watch, 2)) == [("put", "after"), ("put", "open")]
    assert await watch.read() == []


async def test_a_lost_connection_is_made_again(opened: Open, url: str) -> None:
    """Readers hear of changes with and without it."""
    store = (await opened()).namespace("lost-events")
    raw = await asyncpg.connect(url)
    async with store.kv.watch() as watch:
        for number in range(3):
            waiting = asyncio.create_task(told(watch, 1))
            await raw.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where query like 'LISTEN %pm_kv_changes%' "
                "and datname = current_database()"
            )
            await store.kv.put(f"{number}", 1)
            assert await waiting == [("put", f"{number}")]
    await raw.close()


async def test_the_log_is_trimmed(opened: Open) -> None:
    """Who is too far behind is told; who is not goes on."""
    store = (await opened()).namespace("trimmed-events")
    runner = store.engine._runner  # noqa: SLF001 - the engine's
    async with store.kv.watch() as behind, store.kv.watch() as close:
        for number in range(5):
            await store.kv.put(f"{number}", 1)
        assert len(await close.read()) == 5
        await store.kv.put("last", 1)
        await _kv_changes.trim(runner, 0, kept=1)
        assert await told(close, 1) == [("put", "last")]
        with pytest.raises(StorageDataError) as caught:
            await behind.read()
    assert caught.value.field == "after"


async def test_nothing_is_logged_for_whom_nobody_watches(opened: Open) -> None:
    root = await opened()
    async with root.namespace("seen-events").kv.watch():
        await root.namespace("unseen-events").kv.put("a", 1)
        await root.namespace("unseen-events").kv.clear()
    counted = await root.sql.query("select count(*)::int as n from pm_kv_changes where namespace = 'unseen-events/'")
    assert counted == [(0,)]


async def test_a_pooler_needs_a_way_around_it(opened: Open, url: str) -> None:
    """`direct_url` gives it; the connection that listens is never one of the pool."""
    store = (await opened(direct_url=url)).namespace("direct-events")
    async with store.kv.watch() as watch:
        waiting = asyncio.create_task(told(watch, 1))
        await store.kv.put("a", 1)
        assert await waiting == [("put", "a")]
