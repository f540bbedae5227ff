"""The redis engine when the server or the way to it fails: outcomes, recovery, no connection lost (RES-1, RES-3, G-8)."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from servers.proxy import FaultProxy
from servers.redis import RedisServer

from polymem.core.retry import RetryPolicy
from polymem.errors import Outcome, StorageConnectionError, StorageError, StorageTimeoutError
from polymem.store import Store

pytestmark = [pytest.mark.anyio, pytest.mark.integration, pytest.mark.server("redis")]
NewStore = Callable[..., Store]
ONCE = RetryPolicy(attempts=1)


def url(server: RedisServer | FaultProxy) -> str:
    return f"redis://127.0.0.1:{server.port}"


def used(store: Store) -> int:
    status = store.engine.pool_status()  # type: ignore[attr-defined]
    return int(status["used"])


async def eventually(call: Callable[[], Any]) -> Any:
    """The answer, once the breaker lets calls through again and the server is up."""
    for _ in range(400):
        try:
            return await call()
        except (StorageConnectionError, StorageTimeoutError):
            await asyncio.sleep(0.05)
    return await call()


async def test_a_killed_server_loses_nothing_it_synced(new_store: NewStore, own_server: RedisServer) -> None:
    async with new_store(url(own_server)) as store:
        told: set[str] = set()

        async def write(number: int) -> None:
            for step in range(50):
                key = f"{number}:{step}"
                await store.kv.put(key, step)
                told.add(key)

        writers = [asyncio.create_task(write(number)) for number in range(16)]
        while len(told) < 100:
            await asyncio.sleep(0)
        own_server.kill()
        results = await asyncio.gather(*writers, return_exceptions=True)
        failures = [result for result in results if result is not None]
        assert failures
        assert all(isinstance(failure, StorageConnectionError) for failure in failures), failures
        assert all(failure.retryable or "breaker" in str(failure) for failure in failures)
        own_server.start()
        found = await eventually(lambda: store.kv.get_many(told))
        assert found.keys() == told
        assert used(store) == 0


async def test_a_restart_between_calls_goes_unnoticed(new_store: NewStore, own_server: RedisServer) -> None:
    """What is lost is found out before anything is sent: not even a call that may not be repeated fails."""
    async with new_store(url(own_server), retry=ONCE) as store:
        await asyncio.gather(*(store.kv.increment("n") for _ in range(5)))
        own_server.stop()
        own_server.start()
        await asyncio.sleep(0.05)
        assert await store.kv.increment("n") == 6
        assert await store.kv.get("n") == 6
        assert (await store.turns.append("s", "user", "x")).turn_id == 1


async def test_a_refused_connection_was_not_applied(new_store: NewStore, own_server: RedisServer) -> None:
    async with new_store(url(own_server), retry=ONCE) as store:
        own_server.kill()
        await asyncio.sleep(0.05)
        with pytest.raises(StorageConnectionError) as caught:
            await store.kv.increment("n")
        assert caught.value.retryable
        assert caught.value.outcome is Outcome.NOT_APPLIED


async def test_a_paused_server_times_out(new_store: NewStore, own_server: RedisServer) -> None:
    async with new_store(url(own_server), retry=ONCE, socket_timeout=0.3) as store:
        await store.kv.put("a", 1)
        own_server.pause()
        try:
            results = await asyncio.gather(
                store.kv.increment("n"), store.kv.get("a"), store.kv.put("a", 2), return_exceptions=True
            )
        finally:
            own_server.resume()
        counting, _, putting = results
        assert [type(result) for result in results] == [StorageTimeoutError] * 3
        assert isinstance(counting, StorageTimeoutError) and isinstance(putting, StorageTimeoutError)
        assert await eventually(lambda: store.kv.get("a")) in ({1, 2} if putting.outcome is Outcome.UNKNOWN else {1})
        assert await store.kv.get("n") in ({None, 1} if counting.outcome is Outcome.UNKNOWN else {None})
        assert used(store) == 0


async def test_a_connection_cut_in_mid_call(new_store: NewStore, proxy: FaultProxy, own_server: RedisServer) -> None:
    """The server carried it out and nobody was told: an increment is not repeated, a put is."""
    async with new_store(url(proxy)) as store, new_store(url(own_server)) as direct:
        version = await store.kv.put("a", 0)  # so that the server knows the scripts
        version = await store.kv.compare_and_set("a", version, 1)
        await store.kv.increment("n")
        await store.turns.append("s", "user", "x")

        async def cut() -> None:
            await store.kv.get("a")  # over a connection that stands
            proxy.cut_after = 0

        await cut()
        with pytest.raises(StorageConnectionError) as caught:
            await store.kv.increment("n")
        assert caught.value.outcome is Outcome.UNKNOWN
        assert caught.value.retryable
        assert await direct.kv.get("n") == 2
        await cut()
        with pytest.raises(StorageConnectionError):
            await store.turns.append("s", "user", "x")
        assert await direct.turns.count("s") == 2
        await cut()
        version = await store.kv.compare_and_set("a", version, 2)
        await cut()
        await store.kv.put("b", 1)
        for key, value in (("a", 2), ("b", 1)):
            assert await direct.kv.get(key) == value
        assert proxy.accepted >= 5
        assert used(store) == 0


async def test_garbage_is_never_an_answer(new_store: NewStore, proxy: FaultProxy) -> None:
    async with new_store(url(proxy), retry=ONCE, socket_timeout=0.5) as store:
        await store.kv.put("a", {"n": 1})
        proxy.garbage = True
        with pytest.raises(StorageError) as caught:
            await store.kv.get("a")
        assert caught.value.retryable
        proxy.heal()
        assert await eventually(lambda: store.kv.get("a")) == {"n": 1}


@pytest.mark.parametrize("fault", ["black_hole", "deaf"])
async def test_silence_ends_in_a_timeout(new_store: NewStore, proxy: FaultProxy, fault: str) -> None:
    async with new_store(url(proxy), retry=ONCE, socket_timeout=0.2) as store:
        await store.kv.put("a", 1)
        setattr(proxy, fault, True)
        with pytest.raises(StorageTimeoutError) as caught:
            await store.kv.increment("n")
        assert caught.value.outcome is Outcome.UNKNOWN
        proxy.heal()
        assert await eventually(lambda: store.kv.get("a")) == 1


async def test_slow_is_not_dead(new_store: NewStore, proxy: FaultProxy) -> None:
    async with new_store(url(proxy)) as store:
        proxy.latency = 0.02
        await asyncio.gather(*(store.kv.put(f"{number}", number) for number in range(50)))
        assert await store.kv.count() == 50


async def test_callers_wait_in_order_for_a_connection(new_store: NewStore, own_server: RedisServer) -> None:
    """640 tasks on 10 connections all finish; nobody overtakes (RES-3)."""
    async with new_store(url(own_server), pool=10, acquire_timeout=30) as store:
        counted = await asyncio.gather(*(store.kv.increment(f"{number}") for number in range(640)))
        assert counted == [1] * 640
        status = store.engine.pool_status()  # type: ignore[attr-defined]
        assert status["size"] <= status["max_size"] == 10
        assert status["used"] == status["waiting"] == 0


async def test_an_exhausted_pool_says_so(new_store: NewStore, own_server: RedisServer) -> None:
    async with new_store(url(own_server), retry=ONCE, pool=2, acquire_timeout=0.1) as store:
        async with store.transaction(), asyncio.TaskGroup() as group:
            held, go = asyncio.Event(), asyncio.Event()
            group.create_task(_hold(store, held, go))
            await held.wait()
            with pytest.raises(StorageTimeoutError, match="all 2 connections") as caught:
                await store.kv.get("a")
            assert caught.value.outcome is Outcome.NOT_APPLIED
            go.set()
        assert await store.kv.get("a") is None
        assert used(store) == 0


async def _hold(store: Store, held: asyncio.Event, go: asyncio.Event) -> None:
    from polymem.core.guard import in_transaction

    in_transaction.set(None)
    async with store.transaction():
        held.set()
        await go.wait()


async def test_a_thousand_cancellations(new_store: NewStore, own_server: RedisServer) -> None:
    """Wherever they hit: no connection is lost, no reply taken for another's, the store goes on (G-8)."""
    chance = random.Random(7)
    async with new_store(url(own_server), pool=5, acquire_timeout=30) as store:

        async def work(number: int) -> None:
            key = f"k{number % 20}"
            match number % 6:
                case 0:
                    await store.kv.put(key, key)
                case 1:
                    assert await store.kv.get(key) in {None, key}
                case 2:
                    await store.kv.increment(f"n{number % 20}")
                case 3:
                    await store.turns.append(key, "user", key)
                case 4:
                    assert {turn.content for turn in await store.turns.recent(key)} <= {key}
                case _:
                    async with store.transaction() as tx:
                        await tx.kv.put(f"t{number}", key)

        for turn in range(10):
            tasks = [asyncio.create_task(work(number)) for number in range(100)]
            for task in chance.sample(tasks, len(tasks)):
                for _ in range(chance.choice([0, 1, 2, 20])):
                    await asyncio.sleep(0)
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                assert result is None or isinstance(result, asyncio.CancelledError), result
            counted = await asyncio.gather(*(store.kv.increment(f"check{n}") for n in range(20)))  # on every connection
            assert counted == [turn + 1] * 20
        await store.kv.put("after", 1)
        assert await store.kv.get("after") == 1
        for session in [session async for session in store.turns.sessions()]:
            ids = [turn.turn_id async for turn in store.turns.scan(session)]
            assert ids == list(range(1, len(ids) + 1))
        assert used(store) == 0
        size = store.engine.pool_status()["size"]  # type: ignore[attr-defined]
        assert size <= 5
        ours = own_server.say("CLIENT", "LIST").count(b"lib-name=redis-py")
        assert ours <= 5 or b"lib-name" not in own_server.say("CLIENT", "LIST")


async def test_closing_leaves_no_connection(new_store: NewStore, own_server: RedisServer) -> None:
    before = own_server.say("INFO", "clients")
    store = await new_store(url(own_server))
    await asyncio.gather(*(store.kv.increment("n") for _ in range(20)))
    await store.close()
    for _ in range(100):
        if own_server.say("INFO", "clients").split(b"\r\n")[2] == before.split(b"\r\n")[2]:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(own_server.say("CLIENT", "LIST"))
