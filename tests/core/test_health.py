"""Health checks never raise and never wait for long (RES-4)."""

import asyncio

import pytest

import polymem
from polymem.core import health
from polymem.core.breaker import Breaker
from polymem.core.guard import GuardContext
from polymem.core.health import check_health
from polymem.errors import StorageConnectionError, StorageTimeoutError

pytestmark = pytest.mark.anyio


class Engine:
    """Its probe does as told."""

    def __init__(self, probe=None, pool=None):
        self._probe, self._pool = probe, pool

    async def probe(self):
        if self._probe is not None:
            await self._probe()
        return "Fake 1.2"

    def pool_status(self):
        if isinstance(self._pool, Exception):
            raise self._pool
        return self._pool


def context(**options):
    made = GuardContext("fake", lambda _: None, **options)
    made.opened()
    return made


async def test_a_healthy_engine():
    pool = {"size": 2, "used": 1, "waiting": 0}
    found = await check_health(Engine(pool=pool), context())
    assert (found.status, found.engine, found.server_version, found.error) == ("healthy", "fake", "Fake 1.2", None)
    assert (found.pool, found.details) == (pool, {})
    assert found.latency_ms >= 0
    assert found.checked_at.utcoffset().total_seconds() == 0


async def test_one_that_answers_and_is_not_well(monkeypatch):
    monkeypatch.setattr(health, "_SLOW", -1.0)
    made = context(breaker=Breaker())
    made.breaker.failed(StorageTimeoutError("slow"))
    found = await check_health(Engine(pool={"waiting": 3}), made)
    assert found.status == "degraded"
    slow, waiting, failed = found.details["reasons"]
    assert "the answer took" in slow
    assert (waiting, failed) == ("3 callers wait for a connection", "calls failed just before")
    assert not made.breaker.disturbed  # it answered


async def test_one_without_a_replica():
    """PG-4: it answers as well as ever, but more of it than meant."""
    engine = Engine()
    replicas = [{"replica": "a:1", "state": "ready"}, {"replica": "b:1", "state": "away"}]
    engine.replica_status = lambda: replicas
    found = await check_health(engine, context())
    assert (found.status, found.details) == ("degraded", {"reasons": ["replica b:1 is away"], "replicas": replicas})


async def test_one_that_fails():
    async def fails():
        raise StorageConnectionError("cut off", retryable=True)

    found = await check_health(Engine(fails, pool=ValueError("secret")), context())
    assert (found.status, found.latency_ms, found.pool) == ("unhealthy", None, None)
    assert found.error == "fake/engine.probe: cut off"


async def test_one_whose_error_nobody_foresaw():
    async def fails():
        raise ValueError("stored secret")

    found = await check_health(Engine(fails), context())
    assert found.error == "fake/engine.probe: unexpected ValueError"


async def test_an_error_map_that_fails_itself():
    def translate(error):
        raise KeyError("stored secret")

    async def fails():
        raise ValueError

    made = context()
    made.translate = translate
    assert (await check_health(Engine(fails), made)).error == "KeyError"


async def test_an_open_breaker_answers_for_the_engine():
    made = context(breaker=Breaker(failures=1))
    made.breaker.failed(StorageTimeoutError("slow"))
    found = await check_health(Engine(), made)
    assert found.status == "unhealthy"
    assert "circuit breaker" in found.error


async def test_nobody_waits_for_one_that_hangs(monkeypatch):
    monkeypatch.setattr(health, "LIMIT", 0.005)
    go = asyncio.Event()

    async def hangs():
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                continue  # it does not even let itself be cancelled
        raise StorageTimeoutError("at last")

    found = await check_health(Engine(hangs), context())
    assert (found.status, found.error) == ("unhealthy", "no answer within 0.005 s")
    go.set()
    while health._left:
        await asyncio.sleep(0)


async def test_one_that_cancels_itself():
    async def cancels():
        raise asyncio.CancelledError

    assert (await check_health(Engine(cancels), context())).error == "the probe was cancelled"


async def test_a_caller_who_is_cancelled_takes_the_probe_along():
    made, entered = context(), asyncio.Event()

    async def hangs():
        entered.set()
        await asyncio.sleep(60)

    task = asyncio.create_task(check_health(Engine(hangs), made))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    while health._left:
        await asyncio.sleep(0)
    assert made.metrics.get_metrics()["operations"]["engine.probe"]["cancelled_count"] == 1


@pytest.mark.parametrize("url", ["memory:", "sqlite:///{}/a.db", "file:///{}/a.json"])
async def test_every_engine_at_any_time(url, tmp_path):
    store = polymem.open(url.format(tmp_path))
    before = await store.health()
    assert before.status == "unhealthy"
    assert "not open yet" in before.error
    async with store:
        during = await store.namespace("a").health()
        assert (during.status, during.engine) == ("healthy", store.engine.name)
        connection = store.metrics()["connection"]
        assert (connection["connect_count"], connection["current_state"]) == (1, "connected")
        assert connection["last_connect_duration_ms"] > 0
    assert "closed" in (await store.health()).error
    assert store.metrics()["connection"]["disconnect_count"] == 1


async def test_a_check_leaves_what_is_cached(tmp_path):
    async with polymem.open(f"sqlite:///{tmp_path}/a.db", cache=10) as store:
        await store.kv.put("a", 1)
        await store.kv.get("a")
        assert (await store.health()).status == "healthy"
        await store.kv.get("a")
        assert store.engine.statistics().hits >= 1
        assert store.engine.statistics().invalidations == 0


async def test_sqlite_tells_its_version(tmp_path):
    async with polymem.open(f"sqlite:///{tmp_path}/a.db") as store:
        assert (await store.health()).server_version.startswith("3.")
