"""What callers were told about their writes is true, whatever happens to the server or to them (G-8, RES-3, PG-2)."""

import asyncio
import os
import random

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from engines.postgres.test_failures import through, until
from servers.postgres import PostgresServer, run_sql
from servers.proxy import FaultProxy, fault_proxy

from polymem.errors import Outcome, StorageConnectionError, StorageError, StorageTimeoutError
from polymem.store import Store

pytestmark = [pytest.mark.integration, pytest.mark.server("postgres"), pytest.mark.anyio]
ROUNDS = 30 if os.environ.get("POLYMEM_NIGHTLY") == "1" else 2
PATIENCE = 60.0
"""Seconds that nothing takes on a machine that is well."""


async def _put(store: Store, name: str) -> None:
    await store.kv.put(name, 1)


async def _create(store: Store, name: str) -> None:
    assert await store.kv.create(name, 1)


async def _put_two(store: Store, name: str) -> None:
    await store.kv.put_many({name: 1, f"{name}+": 1})


async def _increment(store: Store, name: str) -> None:
    assert await store.kv.increment(name) == 1


async def _append(store: Store, name: str) -> None:
    await store.turns.append(name, "user", "said")


async def _transact(store: Store, name: str) -> None:
    async with store.transaction(timeout=PATIENCE, isolation="read_committed") as tx:  # a statement has its limit, too
        await tx.kv.put(name, 1)
        await tx.turns.append(f"{name}+", "user", "said")
        await tx.kv.put(f"{name}+", 1)


WRITES = (_put, _create, _put_two, _increment, _append, _transact)


class Ledger:
    """Writes of every kind, each under a name of its own, and what their callers were told."""

    def __init__(self, store: Store) -> None:
        self.store, self.going = store, True
        self.why={}
        self.acknowledged, self.refused, self.errors = set[str](), set[str](), list[StorageError]()

    async def write_on(self, task: int) -> None:
        number = task
        while self.going:
            number += 1
            with suppress(StorageError):
                await self.write(f"{task}.{number}", WRITES[number % len(WRITES)])

    async def write(self, name: str, how: Callable[[Store, str], Awaitable[None]]) -> None:
        try:
            await how(self.store, name)
        except StorageError as error:
            self.errors.append(error)
            if error.outcome is Outcome.NOT_APPLIED:
                self.refused.add(name); self.why[name]=(repr(error), error.operation, repr(error.__cause__), how.__name__)
            await asyncio.sleep(0.01)
            raise
        self.acknowledged.add(name)

    async def check(self) -> None:
        """All that was acknowledged is there, nothing that was refused is, and nothing is there by half."""
        keys = {key async for key in self.store.kv.scan()}
        sessions = {session async for session in self.store.turns.sessions()}
        assert self.acknowledged <= keys | sessions
        assert self.refused & (keys | sessions) == set(), {n: self.why[n] for n in self.refused & (keys|sessions)}
        assert {key for key in keys if key.endswith("+")} >= {session for session in sessions if session.endswith("+")}
        assert {key.removesuffix("+") for key in keys} <= keys
        assert [repr(error)+repr(error.__cause__) for error in self.errors if not isinstance(error, (StorageConnectionError, StorageTimeoutError))] == []


async def eventually(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not what():
            await asyncio.sleep(0.01)


async def connections(url: str, name: str) -> int:
    """Those of a store, as the server counts them."""
    count = f"select count(*) from pg_stat_activity where application_name = '{name}'"
    return int(await asyncio.to_thread(run_sql, url, count))


Felt = Callable[[], Awaitable[None]]
"""Waits until some call has failed."""


async def killed(server: PostgresServer, proxy: FaultProxy, felt: Felt) -> None:
    await asyncio.to_thread(server.kill)
    await felt()
    await asyncio.to_thread(server.start)


async def restarted(server: PostgresServer, proxy: FaultProxy, felt: Felt) -> None:
    await asyncio.to_thread(server.stop)
    await felt()
    await asyncio.to_thread(server.start)


async def paused(server: PostgresServer, proxy: FaultProxy, felt: Felt) -> None:
    server.pause()
    try:
        await felt()
    finally:
        server.resume()


async def terminated(server: PostgresServer, proxy: FaultProxy, felt: Felt) -> None:
    others = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'terminated'"
    await asyncio.to_thread(server.sql, others)
    await felt()


async def reset(server: PostgresServer, proxy: FaultProxy, felt: Felt) -> None:
    proxy.cut()
    await felt()


async def answers_lost(server: PostgresServer, proxy: FaultProxy, felt: Felt) -> None:
    proxy.cut_after = 3
    await felt()
    proxy.heal()


async def half_open(server: PostgresServer, proxy: FaultProxy, felt: Felt) -> None:
    proxy.deaf = True
    await felt()
    proxy.heal()


async def swallowed(server: PostgresServer, proxy: FaultProxy, felt: Felt) -> None:
    proxy.black_hole = True
    await felt()
    proxy.heal()


async def damaged(server: PostgresServer, proxy: FaultProxy, felt: Felt) -> None:
    proxy.garbage = True
    await felt()
    proxy.heal()


async def refusing(server: PostgresServer, proxy: FaultProxy, felt: Felt) -> None:
    proxy.refuse = True
    proxy.cut()
    await felt()
    proxy.heal()


FAULTS = (killed, restarted, paused, terminated, reset, answers_lost, half_open, swallowed, damaged, refusing)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_what_was_said_of_each_write_is_true(fault: Any, own: PostgresServer, opened: Any) -> None:
    async with fault_proxy("127.0.0.1", own.port) as proxy:
        url, name = through(own.url, proxy), fault.__name__
        limits = {"timeout": 0.5, "connect_timeout": 1.0, "acquire_timeout": 3.0, "max_size": 6}
        store = (await opened(url, application_name=name, **limits)).namespace(name)
        ledger = Ledger(store)
        writers = [asyncio.create_task(ledger.write_on(task)) for task in range(12)]
        for _ in range(ROUNDS):
            done, failed = len(ledger.acknowledged), len(ledger.errors)
            await eventually(lambda done=done: len(ledger.acknowledged) > done + 50)  # type: ignore[misc]
            await fault(own, proxy, lambda failed=failed: eventually(lambda: len(ledger.errors) > failed))
            await asyncio.wait_for(until(store, "back"), PATIENCE)
        ledger.going = False
        await asyncio.wait_for(asyncio.gather(*writers), PATIENCE)
        await asyncio.wait_for(until(store, "back"), PATIENCE)
        await ledger.check()
        assert store.engine.pool_status()["used"] == 0
        assert await connections(own.url, name) == store.engine.pool_status()["size"] <= 6
