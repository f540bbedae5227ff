"""The near cache over Redis: what others write is heard from the servers, in time or not served (CCH-2)."""

import asyncio
import inspect
import itertools
import math
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import servers
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.asyncio import RedisCluster as ClusterClient
from servers.proxy import FaultProxy
from servers.redis import RedisCluster, RedisServer, Sentinels

from polymem.core.registry import create_engine
from polymem.engines.redis import _tracking
from polymem.engines.redis._keys import names
from polymem.engines.redis._tracking import records
from polymem.errors import StorageConnectionError, StorageTimeoutError, StorageUnsupportedError
from polymem.layers.cache import CachedEngine, CachePolicy
from polymem.layers.encryption import Encryption, Key, Keyring
from polymem.opened import Session
from polymem.store import Store

on_server = [pytest.mark.anyio, pytest.mark.integration, pytest.mark.server("redis")]
NewStore = Callable[..., Store]
PATIENCE = 30.0


def integration(test: Any) -> Any:
    for mark in on_server:
        test = mark(test)
    return test


@pytest.fixture
def new_cached(prefix: str) -> NewStore:
    """A store with a near cache that is not open yet; ten seconds make up for a machine that is busy."""

    def make(
        url: str = "", layers: Any = (), options: Any = None, max_staleness: float | None = 10, **policy: Any
    ) -> Store:
        engine = create_engine(url or servers.url("redis"), prefix=prefix, **(options or {}))
        return Store(
            Session(CachedEngine(engine, CachePolicy(max_staleness=max_staleness, **policy), layers), sweep_every=None)
        )

    return make


@pytest.fixture
async def cached(new_cached: NewStore, store: Store) -> AsyncIterator[Store]:
    """Over the same records as `store`, which is another client."""
    async with new_cached() as opened:
        yield opened


def listening(store: Store) -> Any:
    return store.engine._following  # type: ignore[attr-defined]


async def told(store: Store) -> None:
    """Return when the store has been told of everything that is acknowledged by now."""
    now = monotonic()

    def proven() -> bool:
        parts = listening(store)._parts
        for part in parts:
            part._every = 0.01  # don't be long about it
        return min((part.proven for part in parts), default=-math.inf) >= now

    await until(proven)


async def until(holds: Callable[[], bool]) -> None:
    """Return when it holds; a server that is too busy to answer says no."""
    end = monotonic() + PATIENCE
    while monotonic() < end:
        with suppress(OSError):
            if holds():
                return
        await asyncio.sleep(0.005)
    pytest.fail(f"not within {PATIENCE:g} s: {inspect.getsource(holds)}")


async def hits(store: Store, read: Callable[[], Awaitable[Any]]) -> int:
    before = store.cache.statistics()
    await read()
    after = store.cache.statistics()
    return after.hits + after.negative_hits - before.hits - before.negative_hits


@integration
async def test_reads_are_hits_until_somebody_writes(cached: Store, store: Store) -> None:
    """Each write of another client, absence and expiry included, is seen once it has been told."""
    kv, other = cached.kv, store.kv
    writes: list[tuple[Callable[[], Awaitable[Any]], Any]] = [
        (lambda: other.put("a", 1), 1),
        (lambda: other.put_many({"a": 2, "b": 2}), 2),
        (lambda: other.increment("a"), 3),
        (lambda: other.update("a", 4), 4),
        (lambda: other.delete("a"), None),
        (lambda: other.create("a", 5, ttl=900), 5),
        (lambda: other.clear(), None),
        (lambda: store.run_in_transaction(lambda tx: tx.kv.put("a", 6)), 6),
    ]
    await told(cached)
    for write, expected in writes:
        await kv.get("a")
        assert await hits(cached, lambda: kv.get("a")) == 1
        await write()
        await told(cached)
        assert await kv.get("a") == expected


@integration
async def test_as_it_is_without_a_policy(new_cached: NewStore, store: Store) -> None:
    async with new_cached(max_staleness=None) as cached:
        for step in range(5):
            await store.namespace("n").kv.put("a", step)
            await told(cached)
            assert await cached.namespace("n").kv.get("a") == step
        await store.drop_namespace("n")
        await told(cached)
        assert await cached.namespace("n").kv.get("a") is None


@integration
async def test_the_expiry_that_another_client_sets(cached: Store, store: Store) -> None:
    await store.kv.put("a", 1)
    await told(cached)
    assert await cached.kv.ttl("a") is None
    await store.kv.touch("a", ttl=900)
    await told(cached)
    assert (await cached.kv.ttl("a") or 0) > 800


@integration
async def test_other_programs(cached: Store, prefix: str) -> None:
    """What redis-cli removes is told as well."""
    await cached.kv.put("a", 1)
    await told(cached)
    assert await cached.kv.get("a") == 1
    async with Redis.from_url(servers.url("redis")) as client:
        await client.delete(names(prefix, "").records + b"a")
    await told(cached)
    assert await cached.kv.get("a") is None


_OTHER = """
import asyncio, sys
import polymem

async def main():
    async with polymem.open(sys.argv[1], prefix=sys.argv[2], sweep_every=None) as store:
        print("ready", flush=True)
        for line in sys.stdin:
            await store.namespace("n").kv.put("a", int(line))
            print("done", flush=True)

asyncio.run(main())
"""


@integration
async def test_another_process(cached: Store, prefix: str) -> None:
    command = [sys.executable, "-c", _OTHER, servers.url("redis"), prefix]
    process: Any = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def say(number: int) -> None:
        process.stdin.write(f"{number}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"

    inside = cached.namespace("n").kv
    with process:
        assert process.stdout.readline() == "ready\n"
        for step in range(20):
            await inside.get("a")
            await asyncio.to_thread(say, step)
            await told(cached)
            assert await inside.get("a") == step
        process.stdin.close()


@integration
async def test_only_what_was_written_goes(cached: Store, store: Store) -> None:
    for name in ("", "n", "n/m"):
        await store.namespace(*name.split("/")).kv.put("a", 1) if name else await store.kv.put("a", 1)
    await told(cached)
    spaces = [cached, cached.namespace("n"), cached.namespace("n", "m")]
    for space in spaces:
        await space.kv.get("a")
    await store.namespace("n").kv.put("a", 2)
    await store.turns.append("a", "user", "x")
    await told(cached)
    assert [await hits(cached, lambda space=space: space.kv.get("a")) for space in spaces] == [1, 0, 1]  # type: ignore[misc]


@integration
async def test_never_staler_than_told(cached: Store, store: Store) -> None:
    """Two stores with caches and one without write at random; what each reads is never older than what it was told."""
    chance = random.Random(11)
    keys = [f"k{number}" for number in range(4)]
    for step in range(300):
        key, writer = chance.choice(keys), chance.choice((cached, store))
        await asyncio.gather(*(cached.kv.get(key) for key in keys))
        await writer.kv.put(key, step)
        if writer is store:
            await told(cached) if step % 10 == 0 else await cached.kv.get(chance.choice(keys))
        if writer is cached or step % 10 == 0:
            assert await cached.kv.get(key) == step
    await told(cached)
    for key in keys:
        assert await cached.kv.get(key) == await store.kv.get(key)


@integration
async def test_a_connection_that_is_killed(new_cached: NewStore, new_store: NewStore, own_server: RedisServer) -> None:
    """What was cached is gone, what is written meanwhile is seen, and hits come back by themselves."""
    async with new_cached(own_server.url) as cached, new_store(own_server.url) as store:
        await store.kv.put_many({"a": 0, "b": 0})
        for step in range(1, 6):
            await told(cached)
            await cached.kv.get("a")
            await cached.kv.get("b")
            assert await hits(cached, lambda: cached.kv.get("a")) == 1
            own_server.say("CLIENT", "KILL", "TYPE", "pubsub")
            await until(lambda: not listening(cached).current())
            assert await hits(cached, lambda: cached.kv.get("a")) == 0
            await store.kv.put_many({"a": step, "b": step})
            assert await cached.kv.get("a") == step
            await told(cached)
            assert await cached.kv.get("b") == step  # which nobody read meanwhile


@integration
async def test_a_server_that_is_emptied(new_cached: NewStore, own_server: RedisServer) -> None:
    async with new_cached(own_server.url) as cached:
        await cached.kv.put("a", 1)
        await told(cached)
        assert await cached.kv.get("a") == 1
        own_server.say("FLUSHALL")
        await told(cached)
        assert await cached.kv.get("a") is None


@integration
async def test_a_server_that_is_restarted(new_cached: NewStore, own_server: RedisServer) -> None:
    async with new_cached(own_server.url) as cached:
        await cached.kv.put("a", 1)
        await told(cached)
        assert await cached.kv.get("a") == 1
        own_server.kill()
        await until(lambda: not listening(cached).current())
        own_server.start()
        await told(cached)
        assert await cached.kv.get("a") == 1
        assert await hits(cached, lambda: cached.kv.get("a")) == 1


@integration
async def test_silence_is_no_reason_to_believe(
    new_cached: NewStore, new_store: NewStore, own_server: RedisServer, proxy: FaultProxy
) -> None:
    """A connection that hangs: after `max_staleness` nothing is served from the cache; then the server is asked."""
    async with (
        new_cached(f"redis://127.0.0.1:{proxy.port}", options={"socket_timeout": 0.5}, max_staleness=0.2) as cached,
        new_store(own_server.url) as store,
    ):
        await store.kv.put("a", 1)
        await told(cached)
        assert await cached.kv.get("a") == 1
        proxy.black_hole = True
        await store.kv.put("a", 2)
        await until(lambda: not listening(cached).current())
        with pytest.raises((StorageTimeoutError, StorageConnectionError)):
            await cached.kv.get("a")
        proxy.heal()
        await told(cached)
        assert await cached.kv.get("a") == 2


@integration
async def test_what_is_proven_grows_old(cached: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    await cached.kv.put("a", 1)
    await told(cached)
    await cached.kv.get("a")
    assert await hits(cached, lambda: cached.kv.get("a")) == 1
    now = monotonic()
    monkeypatch.setattr(_tracking, "monotonic", lambda: now + 10.5)
    assert await hits(cached, lambda: cached.kv.get("a")) == 0
    monkeypatch.undo()


@integration
async def test_a_read_under_way_is_no_news(cached: Store, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that began before a write was told is shared with nobody who comes after."""
    await store.kv.put("a", 1)
    await told(cached)
    server: Any = cached.engine._engine._server  # type: ignore[attr-defined]
    read, go, begun = server.reads._one, asyncio.Event(), asyncio.Event()

    async def held(item: Any) -> Any:
        found = await read(item)
        begun.set()
        await go.wait()
        return found

    monkeypatch.setattr(server.reads, "_one", held)
    early = asyncio.create_task(cached.kv.get("a"))
    await begun.wait()
    monkeypatch.setattr(server.reads, "_one", read)
    await store.kv.put("a", 2)
    await told(cached)
    late = asyncio.create_task(cached.kv.get("a"))
    await asyncio.sleep(0)
    go.set()
    assert (await early, await late) == (1, 2)
    assert await cached.kv.get("a") == 2


@integration
async def test_own_writes(cached: Store) -> None:
    """They are told like anybody's: read once more, then cached."""
    for step in range(50):
        await cached.kv.put("a", step)
        assert await cached.kv.get("a") == step
        assert await cached.kv.get("a") == step


@integration
async def test_what_is_not_possible(new_cached: NewStore) -> None:
    with pytest.raises(StorageUnsupportedError, match="max_staleness"):
        new_cached(max_staleness=0)
    keyring = Keyring(Key("k", bytes(32)), names=bytes(range(32)))
    hidden = [Encryption(keyring, hide_keys=True)]
    with pytest.raises(StorageUnsupportedError, match="max_staleness"):
        new_cached(layers=hidden, max_staleness=None)
    async with new_cached(layers=hidden, max_staleness=5) as aging:
        assert listening(aging) is None
    async with new_cached(max_staleness=math.inf) as alone:
        assert listening(alone) is None


@integration
async def test_a_server_that_refuses(new_cached: NewStore, own_server: RedisServer) -> None:
    own_server.say("ACL", "SETUSER", "ada", "on", ">pw", "~*", "&*", "+@all", "-client")
    url = f"redis://ada:pw@127.0.0.1:{own_server.port}"
    with pytest.raises(StorageUnsupportedError, match="CLIENT TRACKING"):
        await new_cached(url, max_staleness=None)
    async with new_cached(url, max_staleness=60) as aging:
        await aging.kv.put("a", 1)
        assert await hits(aging, lambda: aging.kv.get("a")) == 1


@integration
async def test_sealed_values_under_plain_keys(new_cached: NewStore, new_store: NewStore) -> None:
    layers = [Encryption(Keyring(Key("k", bytes(32))))]
    async with new_cached(layers=layers) as cached, new_cached(layers=layers) as other:
        await other.kv.put("a", 1)
        await told(cached)
        assert await cached.kv.get("a") == 1
        await other.kv.put("a", 2)
        await told(cached)
        assert await cached.kv.get("a") == 2


@integration
@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_client_that_was_given(new_cached: NewStore, store: Store, protocol: int) -> None:
    client = Redis.from_url(servers.url("redis"), protocol=protocol)
    async with new_cached(options={"client": client}) as cached:
        await store.kv.put("a", 1)
        await told(cached)
        assert await cached.kv.get("a") == 1
        await store.kv.put("a", 2)
        await told(cached)
        assert await cached.kv.get("a") == 2
    await client.aclose()


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


@pytest.mark.anyio
@pytest.mark.integration
@pytest.mark.server("redis_cluster")
async def test_every_node_of_a_cluster_is_heard(new_cached: NewStore, prefix: str) -> None:
    url = servers.url("redis_cluster")
    async with new_cached(url) as cached, Store(Session(create_engine(url, prefix=prefix), sweep_every=None)) as store:
        await _all_see(cached, store, 1)
        await _all_see(cached, store, 2)
        for number in range(30):
            await store.drop_namespace(f"n{number}")


async def _all_see(cached: Store, store: Store, value: int) -> None:
    spaces = [f"n{number}" for number in range(30)]
    await told(cached)
    for name in spaces:
        await cached.namespace(name).kv.get("a")
    for name in spaces:
        await store.namespace(name).kv.put("a", value)
    await told(cached)
    for name in spaces:
        assert await cached.namespace(name).kv.get("a") == value


@pytest.fixture(name="own")
async def give_own(
    new_cached: NewStore, prefix: str, tmp_path: Path
) -> AsyncIterator[tuple[RedisCluster, Store, Store]]:
    """A Cluster that may be changed, and two stores on it: one with a near cache, one without."""
    cluster = RedisCluster(tmp_path)
    try:
        async with (
            new_cached(cluster.url) as cached,
            Store(Session(create_engine(cluster.url, prefix=prefix), sweep_every=None)) as store,
        ):
            await _all_see(cached, store, 1)
            yield cluster, cached, store
    finally:
        cluster.kill()


@pytest.mark.anyio
@pytest.mark.integration
@pytest.mark.server("redis_cluster")
async def test_a_primary_that_is_replaced(own: tuple[RedisCluster, Store, Store]) -> None:
    """The cache is off until the nodes agree again, then every server that holds data is heard."""
    cluster, cached, store = own
    cluster.primaries()[0].kill()
    await until(lambda: not listening(cached).current())
    await until(lambda: listening(cached).current())
    await _all_see(cached, store, 2)


@pytest.mark.anyio
@pytest.mark.integration
@pytest.mark.server("redis_cluster")
async def test_slots_that_move(own: tuple[RedisCluster, Store, Store]) -> None:
    """A replica takes over while its primary lives: no call fails, for MOVED is followed, and all is heard again."""
    cluster, cached, store = own
    before = listening(cached)._parts
    replica = next(node for node in cluster.nodes if b"role:slave" in node.say("INFO", "replication"))
    assert replica.say("CLUSTER", "FAILOVER", "TAKEOVER") == b"+OK\r\n"  # without an election, which may fail
    assert b"role:master" in replica.say("INFO", "replication")
    await until(lambda: listening(cached)._parts is not before)
    await _all_see(cached, store, 2)


@pytest.mark.anyio
@pytest.mark.integration
@pytest.mark.server("redis_cluster")
async def test_a_replica_that_is_taken_for_a_primary(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One node tells redis-py of a failover late, while those that are asked for the layout know better."""
    engine: Any = create_engine(servers.url("redis_cluster"), prefix=prefix)
    await engine.open()
    link = engine._server.link
    async with asyncio.timeout(PATIENCE):
        while not (replicas := link._client.get_replicas()):  # which a new Cluster tells last
            await link.ears()
    assert await link.layout() == await link.layout()
    primaries = link._client.get_primaries()
    monkeypatch.setattr(link._client, "get_primaries", lambda: [replicas[0], *primaries[1:]])
    with pytest.raises(StorageConnectionError, match="do not agree"):
        await link.layout()
    await engine.close()


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


@integration
async def test_a_failover_by_sentinels(new_cached: NewStore, new_store: NewStore, tmp_path: Path) -> None:
    sentinels = Sentinels(tmp_path)
    try:
        async with new_cached(sentinels.url) as cached, new_store(sentinels.url) as store:
            await store.kv.put("a", 1)
            await told(cached)
            assert await cached.kv.get("a") == 1
            sentinels.primary.kill()
            await until(lambda: not listening(cached).current())
            await told(cached)  # by the new primary
            await eventually(lambda: store.kv.put("a", 2))
            await told(cached)
            assert await eventually(lambda: cached.kv.get("a")) == 2
            assert await hits(cached, lambda: cached.kv.get("a")) == 1
    finally:
        sentinels.kill()


async def eventually(call: Callable[[], Awaitable[Any]]) -> Any:
    """The answer, once every connection leads to the new primary."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await call()
            except (StorageConnectionError, StorageTimeoutError):
                await asyncio.sleep(0.05)


@given(st.text(), st.text())
def test_what_a_key_may_be(namespace: str, key: str) -> None:
    """The record meant is always among those told."""
    held = names("p", namespace.encode("utf-8", "replace").decode())
    name = key.encode("utf-8", "replace")
    assert (namespace.encode("utf-8", "replace").decode(), name.decode()) in set(records(b"p:{/", held.records + name))


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


def test_keys_that_hold_no_record() -> None:
    held = names("p", "n")
    for key in (held.keys, held.log, held.turns + b"s", b"p:namespaces"):
        assert not list(records(b"p:{/", key))
