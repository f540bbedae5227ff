"""Servers that die, stall and lose connections (G-8, RES-3): nothing acknowledged is lost, nothing leaks, all recovers."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from engines.postgres.faults import through, until
from servers.postgres import PostgresServer
from servers.proxy import FaultProxy

from polymem.errors import Outcome, StorageConnectionError, StorageError, StorageTimeoutError
from polymem.store import Store

pytestmark = [pytest.mark.integration, pytest.mark.server("postgres")]


@pytest.mark.anyio
async def test_a_killed_server_loses_nothing_acknowledged(own: PostgresServer, opened: Any) -> None:
    store = await opened(own.url)
    acknowledged: dict[str, int] = {}
    going = True

    async def write(task: int) -> None:
        number = 0
        while going:
            number += 1
            try:
                await store.kv.put(f"{task}:{number}", number)
            except StorageError as error:
                assert isinstance(error, (StorageConnectionError, StorageTimeoutError)), error  # noqa: PT017
                await asyncio.sleep(0.02)
            else:
                acknowledged[f"{task}:{number}"] = number

    writers = [asyncio.create_task(write(task)) for task in range(16)]
    await asyncio.sleep(0.3)
    for _ in range(2):
        await asyncio.to_thread(own.kill)
        (own.data / "postmaster.pid").unlink(missing_ok=True)
        await asyncio.to_thread(own.start)
        await asyncio.wait_for(until(store, "back"), 60)
    going = False
    await asyncio.gather(*writers)
    found = await store.kv.get_many(acknowledged)
    assert found == acknowledged
    assert len(acknowledged) > 100
    assert store.engine.pool_status()["used"] == 0


@pytest.mark.anyio
async def test_a_paused_server_is_given_up_and_welcome_again(own: PostgresServer, opened: Any) -> None:
    store = await opened(own.url, timeout=0.5, connect_timeout=0.5)
    await store.kv.put("a", 1)
    pids = [own.pid, *map(int, _children(own.pid))]
    _signal(pids, stop=True)
    try:
        with pytest.raises(StorageError) as caught:
            await asyncio.wait_for(store.kv.get("a"), 60)
        assert isinstance(caught.value, (StorageTimeoutError, StorageConnectionError))
        assert caught.value.retryable
    finally:
        _signal(pids, stop=False)
    await asyncio.wait_for(until(store, "b"), 60)
    assert await store.kv.get("a") == 1


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _signal(pids: list[int], *, stop: bool) -> None:
    import os
    import signal

    for pid in pids:
        os.kill(pid, signal.SIGSTOP if stop else signal.SIGCONT)


@pytest.mark.anyio
async def test_a_reply_that_never_came_leaves_the_outcome_open(url: str, opened: Any, proxy: FaultProxy) -> None:
    store = (await opened(through(url, proxy), min_size=1, max_size=1)).namespace("lost")
    await store.kv.increment("n")  # so that the statement is known
    driver = store.engine.drivers("lost/").kv
    proxy.cut_after = 0
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the driver's own
        await driver.increment("n", 1, version=1)
    translated = store.engine.translate(caught.value)
    assert isinstance(translated, StorageConnectionError)
    assert translated.retryable
    assert translated.outcome is Outcome.UNKNOWN
    assert await store.kv.get("n") == 2
    assert store.engine.pool_status()["size"] == 1
    await store.kv.clear()


@pytest.mark.anyio
async def test_resets_at_random(url: str, opened: Any, proxy: FaultProxy) -> None:
    store = (await opened(through(url, proxy))).namespace("resets")
    going = True

    async def reset() -> None:
        while going:
            await asyncio.sleep(random.uniform(0.01, 0.05))
            proxy.cut()

    cutting = asyncio.create_task(reset())

    async def write(task: int) -> list[str]:
        there = []
        for number in range(30):
            try:
                await store.kv.put(f"{task}:{number}", number)
            except StorageError:
                continue
            there.append(f"{task}:{number}")
        return there

    acknowledged = [key for some in await asyncio.gather(*map(write, range(16))) for key in some]
    going = False
    await cutting
    await asyncio.wait_for(until(store, "after"), 60)
    assert set(await store.kv.get_many(acknowledged)) == set(acknowledged)
    assert store.engine.pool_status()["used"] == 0
    await store.kv.clear()


@pytest.mark.anyio
async def test_a_black_hole_costs_the_time_of_one_statement(url: str, opened: Any, proxy: FaultProxy) -> None:
    store = await opened(through(url, proxy), timeout=0.2, connect_timeout=0.5)
    await store.kv.put("a", 1)
    proxy.black_hole = True
    for call in (store.kv.get("a"), store.kv.put("a", 2), store.kv.entry("a")):
        with pytest.raises(StorageError) as caught:
            await asyncio.wait_for(call, 60)
        assert isinstance(caught.value, (StorageTimeoutError, StorageConnectionError))
    proxy.black_hole = False
    await asyncio.wait_for(until(store, "b"), 60)
    assert store.engine.pool_status()["used"] == 0


@pytest.mark.anyio
async def test_a_thousand_cancellations(opened: Any) -> None:
    """G-8: at any point, of any call; no connection is lost and no write half applied."""
    store = (await opened(max_size=4)).namespace("cancelled")

    async def work(number: int) -> None:
        if number % 5 == 0:
            async with store.transaction() as tx:
                await tx.kv.put("x", number)
                await tx.kv.put("y", number)
        elif number % 5 == 1:
            await store.kv.put_many({"x": number, "y": number})
        elif number % 5 == 2:
            await store.turns.append_many("s", [{"role": "user", "content": "a"}] * 3)
        elif number % 5 == 3:
            await store.kv.get("x")
        else:
            await store.kv.put(f"{number}", number)

    for start in range(0, 1000, 20):
        tasks = [asyncio.create_task(work(start + number)) for number in range(20)]
        for task in tasks:
            await asyncio.sleep(random.uniform(0, 0.001))
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(60):
        while store.engine.pool_status()["used"]:
            await asyncio.sleep(0.01)
    values = await store.kv.get_many(["x", "y"])
    assert values.get("x") == values.get("y")
    numbers = [turn.turn_id async for turn in store.turns.scan("s")]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) % 3 == 0
    await store.kv.put("after", 1)
    assert await store.kv.get("after") == 1
    await store.kv.clear()
    await store.turns.clear("s")


@pytest.mark.anyio
async def test_a_full_pool_makes_callers_wait_and_then_says_so(opened: Any) -> None:
    """RES-3."""
    store = (await opened(max_size=2, acquire_timeout=0.2)).namespace("full")
    async with store.transaction(), _another(store):
        with pytest.raises(StorageTimeoutError, match="all 2 connections are in use and 1 calls wait"):
            await store.kv.entry("a")
        assert store.engine.pool_status() == {"size": 2, "used": 2, "waiting": 0, "max_size": 2}
    assert await store.kv.entry("a") is None


def _another(store: Store) -> Any:
    from polymem.core.guard import in_transaction

    in_transaction.set(None)
    return store.transaction()


@pytest.mark.anyio
async def test_640_tasks_on_10_connections_all_finish(opened: Any) -> None:
    """RES-3."""
    store = (await opened(max_size=10, acquire_timeout=60)).namespace("many")
    found = await asyncio.gather(*(store.kv.increment(f"{number % 40}") for number in range(640)))
    assert sorted(found) == sorted(list(range(1, 17)) * 40)
    assert store.engine.pool_status()["size"] <= 10
    await store.kv.clear()


@pytest.mark.anyio
async def test_a_transaction_is_run_again_only_if_it_surely_did_nothing(
    url: str, opened: Any, proxy: FaultProxy
) -> None:
    """TXN-1: cut off inside the block it is; cut off at the commit nobody knows, so it is not."""
    store = (await opened(through(url, proxy))).namespace("again")
    await store.kv.increment("n")
    runs: list[int] = []

    async def work(tx: Store, cut_at: int) -> None:
        runs.append(await tx.kv.increment("n"))
        if len(runs) == 1:
            proxy.cut_after = cut_at
            if cut_at == 0:
                await tx.kv.increment("n", 0)

    await store.run_in_transaction(lambda tx: work(tx, 0))
    assert runs == [2, 2]
    runs.clear()
    with pytest.raises(StorageConnectionError) as caught:
        await store.run_in_transaction(lambda tx: work(tx, -1))
    assert caught.value.outcome is Outcome.UNKNOWN
    assert runs == [3]
    assert await store.kv.get("n") == 3
    assert store.engine.pool_status()["used"] == 0
    await store.kv.clear()
