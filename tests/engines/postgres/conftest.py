"""A database of PostgreSQL for each test process, stores on it, and what makes them fail."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
import servers
from engines.postgres.replicas import EVERYTHING, Pair
from servers._process import cache_folder
from servers.postgres import PostgresServer, database, remove
from servers.proxy import FaultProxy, fault_proxy

from polymem.core.breaker import Breaker
from polymem.core.registry import create_engine
from polymem.opened import Session
from polymem.store import Store

Open = Callable[..., Any]


@pytest.fixture(name="url", scope="session")
def give_url() -> str:
    return database(servers.url("postgres"), "polymem_test")


@pytest.fixture(name="opened")
async def give_opened(url: str) -> AsyncIterator[Open]:
    """Opens a store with the options given; every one is closed."""
    stores: list[Store] = []

    async def opened(address: str = url, **options: Any) -> Store:
        session = Session(create_engine(address, **options), sweep_every=None)
        session.guard.breaker = Breaker(pause=0.05)  # a test does not wait for half a minute
        stores.append(await Store(session))
        return stores[-1]

    yield opened
    for store in stores:
        await store.close()


@pytest.fixture(name="own", scope="module")
def give_own() -> Iterator[PostgresServer]:
    """A server that may be killed."""
    folder = cache_folder() / f"own-{uuid4().hex}"
    server = PostgresServer(folder)
    yield server
    server.stop()
    remove(folder)


@pytest.fixture(name="pair", scope="module")
def give_pair() -> Iterator[Pair]:
    """A primary and a replica that logs its statements and waits for no reader."""
    folder = cache_folder() / f"pair-{uuid4().hex}"
    primary = PostgresServer(folder)
    replica = primary.replica(folder.with_name(f"{folder.name}-replica"), *EVERYTHING)
    yield primary, replica
    for server in (replica, primary):
        server.stop()
        remove(server.data.parent)


@pytest.fixture(name="proxy")
async def give_proxy(url: str) -> AsyncIterator[FaultProxy]:
    parts = urlsplit(url)
    async with fault_proxy(str(parts.hostname), int(parts.port or 0)) as proxy:
        yield proxy


@pytest.fixture(name="runner", scope="module")
def give_runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner
