"""One store sweeps a file, however many have it open (G-6)."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from conftest import NewStore
from test_processes import _SWEEP, finish, go, ready, start

from polymem.core.clock import ManualClock, SystemClock
from polymem.engines.memory.engine import MemoryEngine
from polymem.engines.sqlite.engine import SqliteEngine
from polymem.opened import Session
from polymem.store import Store

pytestmark = pytest.mark.anyio
LONG = 3600.0


@pytest.fixture
def sweeper(path: Path, clock: ManualClock) -> Callable[[], Store]:
    """A store that sweeps the file, though never by itself while a test runs."""
    return lambda: Store(Session(SqliteEngine(path, clock=clock), sweep_every=LONG))


def sweep(store: Store) -> Awaitable[int]:
    return store._session.sweep_in_turn()


async def expire(store: Store, clock: ManualClock) -> None:
    await store.kv.put("k", 1, ttl=1)
    clock.advance(2)


async def test_of_two_stores_one_sweeps(sweeper: Callable[[], Store], clock: ManualClock) -> None:
    async with sweeper() as one, sweeper() as other:
        await expire(one, clock)
        assert await sweep(one) == 1
        await expire(one, clock)
        assert await sweep(other) == 0
        assert await sweep(one) == 1  # it prolongs its claim


async def test_one_that_stopped_sweeping_is_succeeded(sweeper: Callable[[], Store], clock: ManualClock) -> None:
    async with sweeper() as one, sweeper() as other:
        await sweep(one)
        clock.advance(2 * LONG)
        await expire(one, clock)
        assert await sweep(other) == 0  # late, but not dead
        clock.advance(LONG)
        assert await sweep(other) == 1
        await expire(one, clock)
        assert await sweep(one) == 0


async def test_closing_hands_over_at_once(sweeper: Callable[[], Store], clock: ManualClock) -> None:
    async with sweeper() as other:
        async with sweeper() as one:
            await expire(one, clock)
            await sweep(one)
            await expire(one, clock)
            assert await sweep(other) == 0
        assert await sweep(other) == 1


async def test_closing_leaves_the_claim_of_another(sweeper: Callable[[], Store], clock: ManualClock) -> None:
    async with sweeper() as one, sweeper() as third:
        await sweep(one)
        async with sweeper() as other:
            await sweep(other)
        await expire(one, clock)
        assert await sweep(third) == 0


async def test_what_stores_sweep_besides_is_their_own(sweeper: Callable[[], Store]) -> None:
    """The memories of one tenant are known to the stores that have it open only."""
    done: list[str] = []

    async def more(name: str) -> int:
        done.append(name)
        return 1

    async with sweeper() as one, sweeper() as other:
        one.sweep_too(lambda: more("one"))
        other.sweep_too(lambda: more("other"))
        assert [await sweep(one), await sweep(other)] == [1, 1]
    assert done == ["one", "other"]


async def test_asked_for_it_any_store_removes_what_expired(sweeper: Callable[[], Store], clock: ManualClock) -> None:
    async with sweeper() as one, sweeper() as other:
        await sweep(one)
        await expire(one, clock)
        assert await other.delete_expired() == 1


async def test_a_killed_process_is_succeeded(new_store: NewStore, path: Path) -> None:
    """Its claim runs out by the clock, and is not to be had before."""
    now = SystemClock().now()
    clock = ManualClock(now)
    async with new_store(clock=clock):
        child = start(_SWEEP.replace("new()", f"new(sweep_every={LONG})"), path)
        await asyncio.to_thread(ready, child)
        child.kill()
        await asyncio.to_thread(child.communicate)
        async with Store(Session(SqliteEngine(path, clock=clock), sweep_every=LONG)) as heir:
            await expire(heir, clock)
            assert await sweep(heir) == 0
            clock.advance(4 * LONG)
            assert await sweep(heir) == 1


async def test_a_process_that_ends_hands_over(new_store: NewStore, path: Path) -> None:
    clock = ManualClock(SystemClock().now())
    async with new_store(clock=clock):
        child = start(_SWEEP.replace("new()", f"new(sweep_every={LONG})"), path)
        await asyncio.to_thread(ready, child)
        async with Store(Session(SqliteEngine(path, clock=clock), sweep_every=LONG)) as heir:
            await expire(heir, clock)
            assert await sweep(heir) == 0
            go(child)
            await asyncio.to_thread(finish, child)
            clock.advance(600)  # the machine's clock has moved on as well
            assert await sweep(heir) == 1


async def test_without_leases_every_store_sweeps(clock: ManualClock) -> None:
    async with Store(Session(MemoryEngine(clock=clock), sweep_every=LONG)) as store:
        await expire(store, clock)
        assert await sweep(store) == 1
