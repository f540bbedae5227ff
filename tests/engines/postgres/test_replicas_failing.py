"""Replicas that are away, silent, full, slow or no longer replicas: reads go on without them (PG-4)."""

import asyncio
import random
from typing import Any

import pytest
from engines.postgres.faults import eventually, through
from engines.postgres.replicas import Pair, another, caught_up, line, reads, states
from servers.postgres import PASSWORD
from servers.proxy import fault_proxy

from polymem.errors import StorageTimeoutError

pytestmark = [pytest.mark.integration, pytest.mark.server("postgres"), pytest.mark.anyio]


async def test_a_killed_replica_is_not_missed(pair: Pair, opened: Any) -> None:
    """Neither by the reads under way nor by later ones; and it serves again when it is back."""
    primary, replica = pair
    store = await opened(primary.url, replicas=replica.url, connect_timeout=1.0)
    await store.kv.put("a", 1)
    await caught_up(store)
    going, told = True, list[Any]()

    async def read_on() -> None:
        while going:
            told.append(await store.kv.get("a"))
            told.append((await store.kv.entry("a")).value)
            await asyncio.sleep(0)

    readers = [asyncio.create_task(read_on()) for _ in range(8)]
    await eventually(lambda: reads(store) > 100)
    await asyncio.to_thread(replica.kill)
    await eventually(lambda: states(store) == ["away"])
    many = len(told)
    await eventually(lambda: len(told) > many + 100)
    health = await store.health()
    assert health.status == "degraded"
    assert (health.pool["replicas"], health.pool["replicas_ready"]) == (1, 0)
    await asyncio.to_thread(replica.start)
    await caught_up(store)
    many = reads(store)
    await eventually(lambda: reads(store) > many + 100)
    going = False
    await asyncio.gather(*readers)
    assert set(told) == {1}
    assert states(store) == ["ready"]
    assert store.engine.pool_status()["used"] == 0
    await store.kv.clear()


async def test_one_that_is_away_when_a_store_is_opened(pair: Pair, opened: Any) -> None:
    primary, replica = pair
    await asyncio.to_thread(replica.stop)
    store = await opened(primary.url, replicas=replica.url, connect_timeout=1.0)
    assert states(store) == ["away"]
    assert "cannot be reached" in store.engine.replica_status()[0]["error"]
    await store.kv.put("a", 1)
    assert await store.kv.get("a") == 1
    await asyncio.to_thread(replica.start)
    await caught_up(store)
    assert await store.kv.get("a") == 1
    assert reads(store) > 0
    assert store.engine.replica_status()[0]["error"] is None
    await store.kv.clear()


async def test_a_silent_replica_is_cut_off(pair: Pair, opened: Any) -> None:
    """A read that waits for it goes to the primary long before its own limit."""
    primary, replica = pair
    async with fault_proxy("127.0.0.1", replica.port) as proxy:
        store = await opened(primary.url, replicas=through(replica.url, proxy), connect_timeout=1.0, timeout=6000)
        await store.kv.put("a", 1)
        await caught_up(store)
        assert await store.kv.get("a") == 1
        proxy.black_hole = True
        async with asyncio.timeout(60):
            told = await asyncio.gather(*(store.kv.entry("a") for _ in range(20)))
        assert [entry.value for entry in told] == [1] * 20
        assert states(store) == ["away"]
        assert store.engine.replica_status()[0]["pool"]["used"] == 0
        proxy.heal()
        await caught_up(store)
    await store.kv.clear()


async def test_a_read_that_the_replica_cancels(pair: Pair, opened: Any) -> None:
    """It stood in the way of what is to be replayed: a conflict with recovery."""
    primary, replica = pair
    store = await opened(primary.url, replicas=replica.url)
    await store.sql.execute("create table contended as select 1 as n")
    await caught_up(store)
    statement = "select (select count(*) from contended), case when pg_is_in_recovery() then pg_sleep(60)::text end"
    reading = asyncio.create_task(store.sql.query(statement))
    active = "select count(*) from pg_stat_activity where query like '%contended%' and wait_event = 'PgSleep'"
    while await asyncio.to_thread(replica.sql, active) != "1\n":
        await asyncio.sleep(0.01)
    await asyncio.to_thread(primary.sql, "vacuum full contended")
    assert await reading == [(1, None)]
    assert store.engine.replica_status()[0]["passed_on"] == 1
    assert "conflict with recovery" in replica.log
    await caught_up(store)
    await store.sql.execute("drop table contended")


async def test_what_takes_too_long_is_not_begun_again(pair: Pair, opened: Any) -> None:
    primary, replica = pair
    store = await opened(primary.url, replicas=replica.url, timeout=0.2)
    await caught_up(store)
    seen = len(primary.log)
    with pytest.raises(StorageTimeoutError):
        await store.sql.query("select pg_sleep(5)")
    assert store.engine.replica_status()[0]["passed_on"] == 0
    assert "statement timeout" not in primary.log[seen:]


async def test_a_replica_without_room_passes_reads_on(pair: Pair, opened: Any) -> None:
    primary, replica = pair
    store = await opened(primary.url, replicas=replica.url, max_size=2, acquire_timeout=0.2)
    await caught_up(store)
    slow = [asyncio.create_task(store.sql.query("select pg_sleep(5)")) for _ in range(2)]
    await eventually(lambda: store.engine.replica_status()[0]["pool"]["used"] == 2)
    assert (await store.sql.query("show port"))[0][0] == f"{primary.port}"
    assert states(store) == ["ready"]
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)


async def test_cancelled_reads_leave_nothing_behind(pair: Pair, opened: Any) -> None:
    primary, replica = pair
    store = await opened(primary.url, replicas=replica.url, max_size=4)
    await store.kv.put("a", {"n": 1})
    await caught_up(store)

    async def read(number: int) -> None:
        if number % 3 == 0:
            await store.kv.get("a")
        elif number % 3 == 1:
            await store.kv.entry("a")
        else:
            await store.kv.count(where={"n": 1})

    for _ in range(10):
        tasks = [asyncio.create_task(read(number)) for number in range(20)]
        await asyncio.sleep(random.uniform(0, 0.01))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    [one] = store.engine.replica_status()
    await eventually(lambda: store.engine.replica_status()[0]["pool"]["used"] == 0)
    assert one["state"] == "ready"
    assert [replica.calls for replica in store.engine._replicas.all] == [0]
    assert store.engine.pool_status()["used"] == 0
    await caught_up(store)
    assert await asyncio.gather(*(store.kv.get("a") for _ in range(40))) == [{"n": 1}] * 40
    await store.kv.clear()


async def test_a_store_that_is_opened_again(pair: Pair, opened: Any) -> None:
    primary, replica = pair
    store = await opened(primary.url, replicas=replica.url)
    for _ in range(3):
        await caught_up(store)
        before = reads(store)
        assert await store.kv.get("again") is None
        assert reads(store) == before + 1
        assert (await store.check()).details["replicas"][0]["state"] == "ready"
        await store.close()
        assert states(store) == ["away"]
        await store.open()


async def test_two_replicas_share_the_reads(pair: Pair, opened: Any) -> None:
    primary, replica = pair
    async with another(primary) as second:
        store = await opened(primary.url, replicas=f"{replica.url},{second.url}")
        await eventually(lambda: states(store) == ["ready", "ready"])
        async with asyncio.timeout(60):
            while min(one["reads"] for one in store.engine.replica_status()) < 20:
                await store.kv.get("a")
        await asyncio.to_thread(second.kill)
        await eventually(lambda: states(store) == ["ready", "away"])
        before = reads(store)
        assert await store.kv.get("a") is None
        assert reads(store) == before + 1
        await asyncio.to_thread(second.start)


async def test_a_promoted_replica_is_not_read_from(opened: Any) -> None:
    """Nor is one that follows the old primary, for a store that has moved to the new one."""
    async with line() as (old, new, follower):
        store = await opened(old.url, replicas=[new.url, follower.url])
        await store.kv.put("a", 1)
        await eventually(lambda: states(store) == ["ready", "ready"])
        await asyncio.to_thread(new.sql, "select pg_promote()")
        await asyncio.to_thread(new.sql, "update pm_kv set body = '2'")
        await eventually(lambda: states(store) == ["promoted", "ready"])
        for _ in range(20):
            assert await store.kv.get("a") == 1
        moved = await opened(new.url, replicas=[follower.url])
        await eventually(lambda: states(moved) == ["diverged"])
        for _ in range(20):
            assert await moved.kv.get("a") == 2
        assert reads(moved) == 0
        await store.close()
        await moved.close()


async def test_a_replica_that_follows_the_new_primary_is_read_from(opened: Any) -> None:
    async with line() as (old, new, follower):
        store = await opened(old.url)
        await store.kv.put("a", 1)
        await store.close()
        await asyncio.to_thread(old.kill)  # a shutdown would be in its log, which the follower would have
        await asyncio.to_thread(new.sql, "select pg_promote()")
        moved = await opened(new.url, replicas=[follower.url])
        await eventually(lambda: states(moved) == ["diverged"])
        source = f"host=127.0.0.1 port={new.port} user=postgres password={PASSWORD}"
        await asyncio.to_thread(follower.sql, f"alter system set primary_conninfo = '{source}'")
        await asyncio.to_thread(follower.sql, "select pg_reload_conf()")
        await moved.kv.put("a", 2)
        await caught_up(moved)
        assert await moved.kv.get("a") == 2
        assert (reads(moved), states(moved)) == (1, ["ready"])
        await moved.close()


async def test_reads_go_on_while_the_primary_is_away(opened: Any) -> None:
    async with line() as (primary, replica, _):
        store = await opened(primary.url, replicas=replica.url, max_staleness=600, connect_timeout=1.0)
        await store.kv.put("a", 1)
        await caught_up(store)
        await asyncio.to_thread(primary.kill)
        for _ in range(20):
            assert await store.kv.get("a") == 1
        await asyncio.to_thread(primary.start)
        await store.kv.put("a", 2)
        assert await store.kv.get("a") == 2
        await caught_up(store)
        await store.close()
