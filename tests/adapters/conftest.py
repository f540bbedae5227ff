"""The same adapter tests on every engine: two of them need a server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import servers
from servers.postgres import database

from polymem.adapters import MemoryAdapter, PostgresAdapter, RedisAdapter, SqliteAdapter
from polymem.adapters._engine import TurnAdapter
from polymem.core.clock import ManualClock
from polymem.core.registry import create_engine
from polymem.engines.redis._keys import registry

REDIS = pytest.param("redis", marks=[pytest.mark.integration, pytest.mark.server("redis")])
ADAPTERS = {"memory": MemoryAdapter, "sqlite": SqliteAdapter, "redis": RedisAdapter, "postgres": PostgresAdapter}
POSTGRES = pytest.param("postgres", marks=[pytest.mark.integration, pytest.mark.server("postgres")])


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@asynccontextmanager
async def own_keys(url: str) -> AsyncIterator[dict[str, Any]]:
    """The config of adapters on keys of this test alone, of which nothing is left behind."""
    prefix = f"test-{uuid4().hex}"
    yield {"url": url, "prefix": prefix, "sweep_every": None}
    engine: Any = create_engine(url, prefix=prefix)
    await engine.open()
    await engine.drop_namespace("")
    await engine._server.call("UNLINK", registry(prefix))
    await engine.close()


@pytest.fixture
async def redis(clock: ManualClock) -> AsyncIterator[dict[str, Any]]:
    async with own_keys(servers.url("redis")) as config:
        yield {**config, "clock": clock}


@pytest.fixture
async def redis_cluster() -> AsyncIterator[dict[str, Any]]:
    async with own_keys(servers.url("redis_cluster")) as config:
        yield config


@pytest.fixture
def postgres(clock: ManualClock) -> dict[str, Any]:
    """The config of adapters on a database of this process, with a tenant of this test alone."""
    url = database(servers.url("postgres"), "polymem_adapters")
    return {"url": url, "tenant": uuid4().hex, "clock": clock, "sweep_every": None}


@pytest.fixture
def memory(clock: ManualClock) -> dict[str, Any]:
    return {"clock": clock, "sweep_every": None}


@pytest.fixture
def sqlite(tmp_path: Path, clock: ManualClock) -> dict[str, Any]:
    return {"url": f"sqlite:///{tmp_path}/a.db", "clock": clock, "sweep_every": None}


@pytest.fixture(params=["memory", "sqlite", REDIS, POSTGRES])
def disconnected(request: pytest.FixtureRequest) -> TurnAdapter:
    return ADAPTERS[request.param](request.getfixturevalue(request.param))


@pytest.fixture
async def adapter(disconnected: TurnAdapter) -> AsyncIterator[TurnAdapter]:
    async with disconnected:
        yield disconnected
