"""Listening that is cancelled or closed leaves nothing behind (CCH-2, G-8)."""

import asyncio
import itertools
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import servers
from engines.near_cache import PATIENCE, NewStore, hits, listening, until
from engines.redis.marks import integration
from engines.redis.near_cache.told import told
from redis.asyncio import Redis
from redis.asyncio import RedisCluster as ClusterClient
from servers.redis import RedisServer

from polymem.core.registry import create_engine
from polymem.engines.redis import _tracking
from polymem.errors import StorageConnectionError


@integration
async def test_nothing_is_left_open(new_cached: NewStore, own_server: RedisServer) -> None:
    cached = await new_cached(own_server.url)
    assert own_server.say("CLIENT", "LIST", "TYPE", "pubsub").count(b"id=") == 1
    await cached.close()
    await until(lambda: own_server.say("CLIENT", "LIST", "TYPE", "pubsub").count(b"id=") == 0)
    await cached.open()  # and again
    await cached.kv.put("a", 1)
    await told(cached)
    await cached.kv.get("a")
    assert await hits(cached, lambda: cached.kv.get("a")) == 1
    await cached.close()


def cancel_when_sent(monkeypatch: pytest.MonkeyPatch, task: asyncio.Task[Any], number: int) -> None:
    """Cancel the task just when so many commands of redis-py have gone out. `asyncio.wait_for`, by which redis-py sends
    with a `socket_timeout`, forgets a cancellation of that moment until Python 3.12.
    """
    drain, sent = asyncio.StreamWriter.drain, itertools.count(1)

    async def then_cancel(writer: asyncio.StreamWriter) -> None:
        await drain(writer)
        if next(sent) == number:
            task.cancel()

    monkeypatch.setattr(asyncio.StreamWriter, "drain", then_cancel)


@pytest.mark.anyio
@pytest.mark.integration
@pytest.mark.server("redis_cluster")
@pytest.mark.parametrize("number", range(1, 7))
async def test_listening_ends_when_it_is_cancelled(
    new_cached: NewStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    async with new_cached(servers.url("redis_cluster"), options={"socket_timeout": 2 * PATIENCE}) as cached:
        tracking = listening(cached)
        cancel_when_sent(monkeypatch, tracking._task, number)
        await until(lambda: tracking._task.done())


_CLIENTS: dict[str, Callable[[], Any]] = {
    "of a server": lambda: Redis.from_url(servers.url("redis")),
    "of a Cluster": lambda: ClusterClient.from_url(servers.url("redis_cluster").replace("+cluster", "")),
    "our own of a Cluster": lambda: None,
}


@pytest.mark.anyio
@pytest.mark.integration
@pytest.mark.server("redis")
@pytest.mark.server("redis_cluster")
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("client", _CLIENTS)
async def test_a_call_that_connects_hears_of_its_cancellation(
    monkeypatch: pytest.MonkeyPatch, client: str, number: int
) -> None:
    given = _CLIENTS[client]()
    if given is not None:
        await given.initialize()
    engine: Any = create_engine("redis:", client=given) if given else create_engine(servers.url("redis_cluster"))
    link = engine._server._address.link()
    call = asyncio.create_task(link.calls([("GET", b"a")], finish=False))
    cancel_when_sent(monkeypatch, call, number)
    with pytest.raises(asyncio.CancelledError):
        await call
    await link.close()
    if given is not None:
        await given.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("ticks", range(6))
async def test_closed_while_a_connection_fails(ticks: int) -> None:
    """Wherever the end of the connection and of the store meet, listening ends and the connection is closed."""
    lost, closed = asyncio.Event(), asyncio.Event()

    class Part:
        proven = 0.0

        async def follow(self) -> None:
            await lost.wait()
            raise ConnectionResetError

        async def close(self) -> None:
            closed.set()

    tracking = _followed(None)
    tracking._parts = [Part()]  # type: ignore[list-item]
    await asyncio.sleep(0.01)
    lost.set()
    for _ in range(ticks):
        await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE):
        await tracking.close()
    assert closed.is_set()


class Deaf:
    def drop(self) -> None: ...


def _followed(link: Any, limit: float = 1.0) -> _tracking.Tracking:
    hearer: Any = Deaf()
    tracking = _tracking.Tracking(link, "p", hearer, 1.0, limit)
    tracking._task = asyncio.create_task(tracking._follow())
    return tracking


@pytest.mark.anyio
async def test_nothing_is_left_open_when_a_cancellation_is_forgotten() -> None:
    """Closed while it begins anew."""
    events: list[str] = []

    class Forgetful:
        spreads = False

        async def ears(self) -> list[Connection]:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            return [Connection(events)]

    tracking = _followed(Forgetful(), PATIENCE)
    await asyncio.sleep(0)
    await tracking.close()
    assert (events[0], events[-1], events.count("disconnected")) == ("connected", "disconnected", 1)


class Connection:
    def __init__(self, events: list[str]) -> None:
        self._events = events

    async def connect(self) -> None:
        self._events.append("connected")

    async def send_command(self, *_: Any) -> None:
        self._events.append("sent")

    async def read_response(self, **_: Any) -> None:
        await asyncio.sleep(0)

    async def disconnect(self, **_: Any) -> None:
        self._events.append("disconnected")


@pytest.mark.anyio
async def test_nobody_begins_when_one_server_is_gone() -> None:
    """What is sent over a connection of redis-py that was closed opens it again."""
    events: list[str] = []

    class Gone(Connection):
        async def connect(self) -> None:
            raise ConnectionResetError

    class Half:
        spreads = False

        async def ears(self) -> list[Connection]:
            return [Gone([]), Connection(events)]

    half: Any = Half()
    with pytest.raises(StorageConnectionError):
        await _tracking.Tracking(half, "p", Deaf(), 1.0, 1.0).open()  # type: ignore[arg-type]
    for _ in range(10):
        await asyncio.sleep(0)
    assert events[-1] == "disconnected"


@pytest.mark.anyio
async def test_closing_waits_for_its_limit_at_most() -> None:
    free = asyncio.Event()

    class Deaf:
        async def ears(self) -> Any:
            while not free.is_set():
                with suppress(asyncio.CancelledError):
                    await free.wait()

    tracking = _followed(Deaf(), 0.01)
    await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE):
        await tracking.close()
    free.set()
    assert tracking._task is not None
    await asyncio.wait({tracking._task})
