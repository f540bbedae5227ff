"""Servers of a test's own, ways to them through a proxy, and waiting until what was broken is well again."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from servers.postgres import PgBouncer, PostgresServer, remove, run_sql
from servers.proxy import FaultProxy

from polymem.errors import StorageError
from polymem.store import Store

PATIENCE = 60.0
"""Seconds that nothing takes on a machine that is well."""


def through(url: str, proxy: FaultProxy | PgBouncer) -> str:
    return url.replace(f":{urlsplit(url).port}/", f":{proxy.port}/")


async def until(store: Store, key: str) -> None:
    """Come back without being opened again."""
    while True:
        try:
            await store.kv.put(key, 1)
        except StorageError:
            await asyncio.sleep(0.05)
        else:
            return


async def eventually(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not what():
            await asyncio.sleep(0.01)


async def connections(url: str, name: str) -> int:
    """Those of a store, as the server counts them."""
    count = f"select count(*) from pg_stat_activity where application_name = '{name}'"
    return int(await asyncio.to_thread(run_sql, url, count))


@asynccontextmanager
async def running(folder: Path, of: PostgresServer | None = None, *options: str) -> AsyncIterator[PostgresServer]:
    """A server, or a replica of another."""
    server = await asyncio.to_thread(PostgresServer if of is None else of.replica, folder, *options)
    try:
        yield server
    finally:
        await asyncio.to_thread(server.stop)
        remove(folder)
