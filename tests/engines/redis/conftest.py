from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import servers
from servers._process import free_ports
from servers.proxy import FaultProxy, fault_proxy
from servers.redis import DURABLE, RedisServer

from polymem.core.breaker import Breaker
from polymem.core.registry import create_engine
from polymem.core.retry import RetryPolicy
from polymem.engines.redis._keys import registry
from polymem.opened import Session
from polymem.store import Store

NewStore = Callable[..., Store]


@pytest.fixture
def prefix() -> str:
    """Keys of this test alone."""
    return f"test-{uuid4().hex}"


@pytest.fixture
async def new_store(prefix: str) -> AsyncIterator[NewStore]:
    """A store that is not open yet, on the shared server unless told otherwise; it repeats at once, and tries again
    soon. Nothing of it is left behind on the shared server.
    """
    shared = servers.url("redis")

    def make(url: str = shared, **options: Any) -> Store:
        retry = options.pop("retry", RetryPolicy(first_delay=0, max_delay=0))
        session = Session(create_engine(url, prefix=prefix, **options), sweep_every=None, retry=retry)
        session.guard.breaker = Breaker(pause=0.1)
        return Store(session)

    yield make
    engine: Any = create_engine(shared, prefix=prefix)
    await engine.open()
    await engine.drop_namespace("")
    await engine._server.call("UNLINK", registry(prefix))
    await engine.close()


@pytest.fixture
async def store(new_store: NewStore) -> AsyncIterator[Store]:
    async with new_store() as opened:
        yield opened


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that the test may kill; it keeps what it was told, each write at once."""
    server = RedisServer(tmp_path, free_ports()[0], *DURABLE)
    yield server
    server.kill()


@pytest.fixture
async def proxy(own_server: RedisServer) -> AsyncIterator[FaultProxy]:
    async with fault_proxy("127.0.0.1", own_server.port) as between:
        yield between
