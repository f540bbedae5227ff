"""Batches of writes, of which two are under way at once: each key keeps its order (G-8, KV-1)."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
import servers

from polymem.core.registry import create_engine
from polymem.engines.redis._pool import Limits, Pool
from polymem.opened import Session
from polymem.store import Store

pytestmark = [pytest.mark.anyio, pytest.mark.integration]
NewStore = Callable[..., Store]


@pytest.mark.server("redis")
async def test_each_key_keeps_its_order(store: Store) -> None:
    await check_order(store, seed=3)


@pytest.mark.server("redis_cluster")
async def test_each_key_keeps_its_order_in_a_cluster(prefix: str) -> None:
    engine = create_engine(servers.url("redis_cluster"), prefix=prefix)
    async with Store(Session(engine, sweep_every=None)) as store:
        await check_order(store, seed=4)
        await store.drop_namespace("n")


async def check_order(store: Store, seed: int) -> None:
    """Writes of one key, of several and of all, submitted without waiting, some of whose callers leave."""
    chance = random.Random(seed)
    inside = store.namespace("n").kv
    for _ in range(15):
        await inside.put("known", True)  # or the first calls would find out whether the namespace is
        await inside.clear()
        expected: dict[str, Any] = {}
        tasks = []
        for step in range(400):
            keys = chance.sample([f"k{number}" for number in range(40)], chance.choice([1, 1, 1, 1, 2, 10]))
            tasks.append(asyncio.create_task(write(inside, keys, step, expected, removes=chance.random() < 0.2)))
        await asyncio.sleep(0)  # each is submitted, in this order
        for task in chance.sample(tasks, 40):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await inside.get_many(f"k{number}" for number in range(40)) == expected


async def write(kv: Any, keys: list[str], step: int, expected: dict[str, Any], *, removes: bool) -> None:
    value = step if step % 4 else f"{step}" * 3000  # some are large
    if removes:
        for key in keys:
            expected.pop(key, None)
        await kv.delete_many(keys)
    elif len(keys) == 1:
        expected[keys[0]] = value
        await kv.put(keys[0], value)
    else:
        expected.update(dict.fromkeys(keys, value))
        await kv.put_many(dict.fromkeys(keys, value))


@pytest.mark.server("redis")
async def test_two_batches_under_way_have_no_key_in_common(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    server: Any = store.engine._server  # type: ignore[attr-defined]
    many, under_way, most = server.writes._many, list[set[bytes]](), 0

    async def watched(items: Any) -> Any:
        nonlocal most
        keys = {key for item in items for key in item[1]}
        assert keys.isdisjoint(set[bytes]().union(*under_way))
        under_way.append(keys)
        most = max(most, len(under_way))
        try:
            return await many(items)
        finally:
            under_way.remove(keys)

    monkeypatch.setattr(server.writes, "_many", watched)
    await asyncio.gather(*(store.kv.put(f"k{number % 100}", number) for number in range(300)))
    await asyncio.gather(*(store.kv.put_many({f"k{n % 100}": n, f"k{n * 7 % 100}": n}) for n in range(300)))
    assert most == 2
    assert await store.kv.count() == 100


@pytest.mark.server("redis")
async def test_new_old_and_expiring_records_in_one_batch(store: Store) -> None:
    """What replaces a lasting record takes a short way in the script; the others, and all that follow, the long one."""
    for number in range(0, 30, 2):
        await store.kv.put(f"k{number}", "old", ttl=900 if number % 3 == 0 else None)
    before = {entry.key: entry async for entry in store.kv.entries()}

    async def put(number: int) -> None:
        await store.kv.put(f"k{number}", "new", ttl=900 if number % 5 == 0 else None)

    await asyncio.gather(*(put(number) for number in range(30)))
    after = {entry.key: entry async for entry in store.kv.entries()}
    assert len(after) == await store.kv.count() == 30
    for number in range(30):
        entry = after[f"k{number}"]
        assert (entry.value, entry.expires_at is not None) == ("new", number % 5 == 0)
        if old := before.get(entry.key):
            assert entry.created_at == old.created_at < entry.updated_at
            assert entry.version != old.version


@pytest.mark.server("redis")
async def test_a_watcher_hears_of_each_put_in_a_batch(store: Store) -> None:
    await store.kv.put_many({f"k{number}": 0 for number in range(10)})
    changes = store.kv.watch("k")
    heard: list[str] = []

    async def listen() -> None:
        async for change in changes:
            heard.append(change.key or "")
            if len(heard) == 10:
                return

    listening = asyncio.create_task(listen())
    log = (await _names(store)).log
    server: Any = store.engine._server  # type: ignore[attr-defined]
    async with asyncio.timeout(30):
        while not await server.call("EXISTS", log):
            await asyncio.sleep(0.005)
    await asyncio.gather(*(store.kv.put(f"k{number}", "x" * 1000 * number) for number in range(10)))
    async with asyncio.timeout(30):
        await listening
    assert sorted(heard) == [f"k{number}" for number in range(10)]


async def _names(store: Store) -> Any:
    engine: Any = store.engine
    return engine.drivers("").kv._names


async def test_no_connection_is_taken_that_should_not_be() -> None:
    """The quick way to a connection refuses what the long way would not give either."""
    time = 1000.0
    pool = Pool(lambda: _line(), Limits(max_lifetime=100), lambda: time)  # noqa: PLW0108 - defined below
    assert pool._take() is None
    line = await pool.acquire()
    await pool.release(line)
    assert pool._take() is line
    await pool.release(line)
    time += 101
    assert pool._take() is None
    await pool.close()
    assert pool._take() is None


def _line() -> Any:
    from polymem.engines.redis._line import Line

    class Connection:
        async def disconnect(self, **_: Any) -> None: ...

    return Line(Connection(), 1.0)  # type: ignore[arg-type]
