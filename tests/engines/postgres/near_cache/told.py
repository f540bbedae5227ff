"""What tests of the near cache over PostgreSQL share."""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

from engines.near_cache import listening, until
from servers.postgres import run_sql

from polymem.store import Store

Open = Callable[..., Any]


async def told(store: Store) -> None:
    """Return when the store has been told of everything that is acknowledged by now."""
    now, notes = monotonic(), listening(store)
    notes._every = 0.01  # don't be long about it
    await until(lambda: notes._proven >= now)


async def end_connection(store: Store, url: str) -> None:
    pid = listening(store)._link.raw.get_server_pid()
    await asyncio.to_thread(run_sql, url, f"select pg_terminate_backend({pid})")


def known(store: Store, key: str) -> Any:
    """What a hit would give; None: the server is asked."""
    return store.engine._near.look(("", key))  # type: ignore[attr-defined]
