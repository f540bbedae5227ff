"""Servers with replicas, and what a store says of them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from uuid import uuid4

from engines.postgres.faults import eventually, running
from servers._process import cache_folder
from servers.postgres import PostgresServer

from polymem.store import Store

Pair = tuple[PostgresServer, PostgresServer]
EVERYTHING = ("log_statement=all", "max_standby_streaming_delay=0", "wal_receiver_status_interval=1")


def another(primary: PostgresServer) -> AbstractAsyncContextManager[PostgresServer]:
    """One more replica."""
    return running(cache_folder() / f"another-{uuid4().hex}", primary, *EVERYTHING)


def states(store: Any) -> list[str]:
    return [one["state"] for one in store.engine.replica_status()]


def reads(store: Any) -> int:
    """Those that replicas have answered."""
    return sum(one["reads"] for one in store.engine.replica_status())


async def caught_up(store: Any) -> None:
    """Wait until reads are answered by a replica again."""
    await eventually(lambda: store.engine._replicas.choose() is not None)


@asynccontextmanager
async def paused(replica: PostgresServer) -> AsyncIterator[None]:
    """Nothing new is shown there."""
    await asyncio.to_thread(replica.sql, "select pg_wal_replay_pause()")
    while await asyncio.to_thread(replica.sql, "select pg_get_wal_replay_pause_state()") != "paused\n":
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        await asyncio.to_thread(replica.sql, "select pg_wal_replay_resume()")


async def eventually_reads(store: Store, value: object) -> None:
    async with asyncio.timeout(60):
        while await store.kv.get("a") != value:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def line() -> AsyncIterator[tuple[PostgresServer, PostgresServer, PostgresServer]]:
    """A primary of its own with two replicas."""
    own = running(cache_folder() / f"line-{uuid4().hex}")
    async with own as primary, another(primary) as one, another(primary) as two:
        yield primary, one, two
