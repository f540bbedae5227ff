"""What callers were told about their writes is true, whatever happens to the server or to them (G-8, RES-3, PG-2)."""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

import pytest
from engines.postgres.faults import PATIENCE, connections, eventually, running, through, until
from servers._process import cache_folder
from servers.postgres import PostgresServer, run_sql
from servers.proxy import FaultProxy, fault_proxy

from polymem.errors import Outcome, StorageConnectionError, StorageError, StorageTimeoutError
from polymem.store import Store

pytestmark = [pytest.mark.integration, pytest.mark.server("postgres"), pytest.mark.anyio]
ROUNDS = 30 if os.environ.get("POLYMEM_NIGHTLY") == "1" else 2
TRANSIENT, UNKNOWN = (StorageConnectionError, StorageTimeoutError), Outcome.UNKNOWN


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


def write_of(name: str) -> Callable[[Store, str], Awaitable[None]]:
    """A name ends in a dot and the number of the write."""
    return WRITES[int(name.rpartition(".")[2]) % len(WRITES)]


class Ledger:
    """Writes of every kind, each under a name of its own, and what their callers were told."""

    def __init__(self, store: Store) -> None:
        self.store, self.going = store, True
        self.acknowledged, self.refused, self.errors = set[str](), set[str](), list[StorageError]()

    async def write_on(self, task: int) -> None:
        number = task
        while self.going:
            number += 1
            with suppress(StorageError):
                await self.write(f"{task}.{number}")

    async def write(self, name: str) -> None:
        try:
            await write_of(name)(self.store, name)
        except StorageError as error:
            self.errors.append(error)
            if error.outcome is Outcome.NOT_APPLIED:
                self.refused.add(name)
            await asyncio.sleep(0.01)
            raise
        self.acknowledged.add(name)

    async def check(self) -> None:
        """All that was acknowledged is there, nothing that was refused is, and nothing is there by half."""
        keys = {key async for key in self.store.kv.scan()}
        sessions = {session async for session in self.store.turns.sessions()}
        assert self.acknowledged <= keys | sessions
        assert not self.refused & (keys | sessions)
        assert {key for key in keys if key.endswith("+")} >= {session for session in sessions if session.endswith("+")}
        assert {key.removesuffix("+") for key in keys} <= keys
        of_two = {key for key in keys if key[-1].isdigit() and write_of(key) in {_put_two, _transact}}
        assert {f"{key}+" for key in of_two} <= keys
        assert [
            error for error in self.errors if not isinstance(error, TRANSIENT) and error.outcome is not UNKNOWN
        ] == []


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


async def again_until(felt: Felt, do: Callable[[], object]) -> None:
    """For what is over at once: where every call that it met could be repeated, nobody has heard of it."""
    feeling = asyncio.ensure_future(felt())
    while not feeling.done():
        await asyncio.to_thread(do)
        await asyncio.wait([feeling], timeout=0.2)
    await feeling


async def terminated(server: PostgresServer, proxy: FaultProxy, felt: Felt) -> None:
    others = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'terminated'"
    await again_until(felt, lambda: server.sql(others))


async def reset(server: PostgresServer, proxy: FaultProxy, felt: Felt) -> None:
    loop = asyncio.get_running_loop()
    await again_until(felt, lambda: loop.call_soon_threadsafe(proxy.cut))


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


async def test_a_thousand_calls_cancelled_at_random_points(own: PostgresServer, opened: Any) -> None:
    """Once, and again while it gives its connection back: every connection comes back, and no write is half done."""
    async with fault_proxy("127.0.0.1", own.port) as proxy:
        store = (await opened(through(own.url, proxy), application_name="cancelled", max_size=5)).namespace("cancelled")
        ledger = Ledger(store)
        for batch in range(50):
            proxy.latency = 0.0005 * (batch % 3)
            tasks = [asyncio.create_task(ledger.write(f"{batch}.{number}")) for number in range(20)]
            for _ in range(2):
                for task in random.sample(tasks, len(tasks)):
                    await asyncio.sleep(random.uniform(0, 0.001))
                    task.cancel()
            told = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE)
            assert all(one is None or isinstance(one, asyncio.CancelledError) for one in told)
        proxy.heal()
        await eventually(lambda: store.engine.pool_status()["used"] == 0)
        await ledger.check()
        assert len(ledger.acknowledged) < 1000
        found = await asyncio.gather(*(store.kv.increment("after") for _ in range(50)))
        assert sorted(found) == list(range(1, 51))
        assert await connections(own.url, "cancelled") <= 5
        await store.close()
        async with asyncio.timeout(PATIENCE):
            while await connections(own.url, "cancelled"):
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("silent", [False, True])
async def test_a_call_cancelled_again_and_again_gives_its_connection_back(
    silent: bool, opened: Any, url: str, proxy: FaultProxy
) -> None:
    """Also where the server never says that it has given up the statement."""
    options = {"max_size": 1, "min_size": 1, "acquire_timeout": PATIENCE}
    store = (await opened(through(url, proxy), **options)).namespace("again and again")
    await store.kv.entry("known")
    proxy.latency, proxy.black_hole = 0.05, silent
    proxy.arrived.clear()
    call = asyncio.create_task(store.kv.entry("a"))
    await proxy.arrived.wait()
    while not call.done():
        call.cancel()
        await asyncio.sleep(0.01)
    proxy.heal()
    assert await asyncio.wait_for(store.kv.entry("a"), PATIENCE) is None
    assert store.engine.pool_status()["used"] == 0


async def test_a_transaction_whose_connection_dies_says_so_and_did_nothing(opened: Any, url: str) -> None:
    store = (await opened(application_name="dies")).namespace("dies")
    with pytest.raises(StorageConnectionError, match="all that the transaction did") as caught:  # noqa: PT012
        async with store.transaction() as tx:
            await tx.kv.put("a", 1)
            mine = "application_name = 'dies' and state = 'idle in transaction'"
            ended = await asyncio.to_thread(
                run_sql, url, f"select pg_terminate_backend(pid, 10000) from pg_stat_activity where {mine}"
            )
            assert ended.split() == ["t"]
            await tx.kv.put("b", 1)
    assert caught.value.retryable
    assert caught.value.outcome is Outcome.NOT_APPLIED
    assert await store.kv.get_many(["a", "b"]) == {}
    assert store.engine.pool_status()["used"] == 0


async def test_nobody_knows_of_a_commit_that_was_not_answered(opened: Any, url: str, proxy: FaultProxy) -> None:
    store = (await opened(through(url, proxy), timeout=0.1, connect_timeout=1.0)).namespace("unanswered")
    with pytest.raises(StorageTimeoutError) as caught:  # noqa: PT012
        async with store.transaction() as tx:
            await tx.kv.put("a", 1)
            proxy.deaf = True
    proxy.heal()
    assert caught.value.outcome is Outcome.UNKNOWN
    await asyncio.wait_for(until(store, "back"), PATIENCE)
    assert await store.kv.get("a") == 1
    assert store.engine.pool_status()["used"] == 0
    await store.kv.clear()


async def test_a_statement_of_a_transaction_has_the_limit_of_all_statements(
    opened: Any, url: str, proxy: FaultProxy
) -> None:
    store = await opened(through(url, proxy), timeout=0.1, connect_timeout=1.0)
    with pytest.raises(StorageTimeoutError, match="did not answer in time") as caught:  # noqa: PT012
        async with store.transaction(timeout=600) as tx:
            proxy.black_hole = True
            await tx.kv.put("a", 1)
    assert caught.value.retryable
    assert caught.value.outcome is Outcome.NOT_APPLIED
    proxy.heal()
    await asyncio.wait_for(until(store, "back"), PATIENCE)
    assert store.engine.pool_status()["used"] == 0


async def test_a_server_without_connections_to_spare(own: PostgresServer, opened: Any) -> None:
    """What it grants is used, what it refuses is said, and nobody waits for ever."""
    own.sql("create role few login password 'few' connection limit 3")
    own.sql("create database few owner few")
    store = await opened(f"postgresql://few:few@127.0.0.1:{own.port}/few", max_size=20)
    told = await asyncio.gather(*(store.kv.increment("n") for _ in range(200)), return_exceptions=True)
    refused = [one for one in told if not isinstance(one, int)]
    assert all(isinstance(one, StorageConnectionError) for one in refused)
    assert {one.outcome for one in refused} <= {Outcome.NOT_APPLIED}
    await asyncio.wait_for(until(store, "back"), PATIENCE)
    assert await store.kv.get("n") == 200 - len(refused)
    assert store.engine.pool_status()["used"] == 0


async def test_a_replica_takes_over_with_all_that_was_acknowledged(opened: Any) -> None:
    """PG-4: with both hosts in the URL the store follows by itself; the replica is a synchronous one."""
    folder = cache_folder() / f"failover-{uuid4().hex}"
    async with running(folder) as primary, running(folder.with_name(f"{folder.name}-replica"), of=primary) as replica:
        await asyncio.to_thread(primary.sql, "alter system set synchronous_standby_names = '*'")
        await asyncio.to_thread(primary.sql, "select pg_reload_conf()")
        both = primary.url.removesuffix("/postgres") + f",127.0.0.1:{replica.port}/postgres"
        store = await opened(f"{both}?target_session_attrs=read-write", timeout=1.0, connect_timeout=1.0)
        ledger = Ledger(store)
        writers = [asyncio.create_task(ledger.write_on(task)) for task in range(12)]
        await eventually(lambda: len(ledger.acknowledged) > 200)
        await asyncio.to_thread(primary.kill)
        await eventually(lambda: bool(ledger.errors))
        done = len(ledger.acknowledged)
        await asyncio.to_thread(replica.sql, "select pg_promote()")
        await eventually(lambda: len(ledger.acknowledged) > done + 50)
        ledger.going = False
        await asyncio.wait_for(asyncio.gather(*writers), PATIENCE)
        await asyncio.wait_for(until(store, "back"), PATIENCE)
        await ledger.check()
        assert (await store.sql.query("show port"))[0][0] == f"{replica.port}"
