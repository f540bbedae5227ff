"""The redis engine itself: addresses, options, expiry on the server, foreign keys, own clients (KV-10, RD-1, RD-3, G-8)."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import servers
from redis.asyncio import Redis
from servers._process import Process, free_ports
from servers.redis import RedisCluster, RedisServer, Sentinels, binary, say

from polymem.core.clock import ManualClock
from polymem.core.registry import create_engine
from polymem.engines.redis._address import parse
from polymem.engines.redis._keys import names
from polymem.engines.redis._pool import Limits
from polymem.engines.redis._server import Server
from polymem.errors import (
    StorageAuthError,
    StorageConflictError,
    StorageConnectionError,
    StorageCorruptError,
    StorageDataError,
    StorageError,
    StorageFullError,
    StorageTimeoutError,
    StorageUnsupportedError,
)
from polymem.store import Store, TransactionStore

NewStore = Callable[..., Store]
on_server = [pytest.mark.anyio, pytest.mark.integration, pytest.mark.server("redis")]


def integration(test: Any) -> Any:
    for mark in on_server:
        test = mark(test)
    return test


def address(url: str, **options: Any) -> Any:
    return parse(url, options)[0]


def test_urls() -> None:
    assert address("redis://").hosts == (("localhost", 6379),)
    full = address(f"rediss://ada:s%40crt@example.org:7000/3?socket_timeout=2.5&pool=7&ssl_ca_certs={__file__}")
    assert (full.hosts, full.db, full.username, full.password) == ((("example.org", 7000),), 3, "ada", "s@crt")
    assert (full.socket_timeout, full.limits.size, full.tls) == (2.5, 7, {"ssl_ca_certs": __file__})
    assert address("redis://", host="h", port=1, db=2, password="p").hosts == (("h", 1),)
    assert address("redis+cluster://a,b:7001").hosts == (("a", 6379), ("b", 7001))
    assert address("redis+cluster://a").is_cluster
    assert address("redis://a?cluster=true").is_cluster
    watched = address("redis+sentinel://a,[::1]:7/main/1")
    assert (watched.hosts, watched.service, watched.db) == ((("a", 26379), ("::1", 7)), "main", 1)
    assert address("redis://").socket_timeout == address("redis://").limits.acquire_timeout == 5
    assert address("redis://").limits.size == 50
    assert address("redis://?max_idle=7", max_lifetime=9.5).limits == Limits(max_idle=7, max_lifetime=9.5)


@pytest.mark.parametrize(
    ("url", "field"),
    [
        ("redis://h/x", "db"),
        ("redis://h/0/1", "url"),
        ("redis://h:port", "url"),
        ("redis+sentinel://h", "url"),
        ("redis://?pool=0", "pool"),
        ("redis://?pool=1.5", "pool"),
        ("redis://?socket_timeout=-1", "socket_timeout"),
        ("redis://?cluster=perhaps", "cluster"),
        ("redis://?nonsense=1", "nonsense"),
        ("redis://?prefix={a}", "prefix"),
        ("redis://?turn_window=-1", "turn_window"),
        ("redis://?refresh_ttl_on_read=2", "refresh_ttl_on_read"),
        ("redis://[::1", "url"),
        ("redis://?port=65536", "port"),
        ("redis://?turn_ttl=1e300", "turn_ttl"),
        ("redis://?ssl_ca_certs=ca.pem", "ssl_ca_certs"),
        ("rediss://?ssl_ca_certs=no-such-file", "ssl_ca_certs"),
    ],
)
def test_bad_urls_are_refused_by_name(url: str, field: str) -> None:
    with pytest.raises(StorageDataError) as caught:
        create_engine(url)
    assert caught.value.field == field


@pytest.mark.parametrize(("name", "value"), [("username", 5), ("host", 5), ("client", object()), ("db", 1.5)])
def test_options_of_a_wrong_kind_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(StorageDataError) as caught:
        create_engine("redis://", **{name: value})
    assert caught.value.field == name


def test_no_secret_is_shown() -> None:
    assert "s3cret" not in repr(address("redis://ada:s3cret@h"))


def test_keys_of_a_namespace_share_a_slot() -> None:
    """Whatever braces names have (KV-10)."""
    from redis.cluster import key_slot

    for namespace in ("", "a/", "{/", "}/", "a{b}/c/", "{}/", "\U0001f600/"):
        held = names("polymem", namespace)
        slots = {key_slot(key) for key in (held.keys, held.expiries, held.log, held.scratch, held.sessions)}
        hostile = ("a", "{", "}", "{x}", "}{", "*", ":", " ", "\U0001f600")
        slots |= {key_slot(held.records + key.encode()) for key in hostile}
        slots |= {key_slot(held.turns + key.encode()) for key in hostile}
        assert len(slots) == 1, namespace
    assert len({key_slot(names("polymem", f"{n}/").keys) for n in range(100)}) > 90


@integration
async def test_the_server_expires_what_nobody_sweeps(new_store: NewStore, own_server: RedisServer, prefix: str) -> None:
    """Somewhat later than the record becomes invisible."""
    async with new_store(own_server.url) as store:
        await store.kv.put("a", 1, ttl=60)
        await store.kv.put("b", 1)
        await store.turns.append("s", "user", "x", ttl=60)
        await store.turns.append("s", "user", "x", ttl=30)
        await store.turns.append("t", "user", "x", ttl=None)
        held = names(prefix, "")
        client = Redis.from_url(own_server.url)
        lives = [await client.pttl(key) for key in (held.records + b"a", held.turns + b"s")]
        assert all(60_000 < life <= 61_000 for life in lives), lives
        for key in (held.records + b"b", held.turns + b"t"):
            assert await client.pttl(key) == -1
        await store.kv.touch("a", ttl=600)
        assert 600_000 < await client.pttl(held.records + b"a") <= 601_000
        await store.kv.put("a", 2)
        assert await client.pttl(held.records + b"a") == -1
        await store.kv.put("c", 1, ttl=0.01)
        await client.pexpire(held.records + b"c", 1)
        await asyncio.sleep(0.05)
        assert await store.kv.get("c") is None
        assert await store.kv.count() == 2
        assert await store.delete_expired() == 1
        await client.aclose()


@integration
async def test_nothing_is_left_behind(new_store: NewStore, own_server: RedisServer) -> None:
    async with new_store(own_server.url) as store:
        for room in (store, store.namespace("a"), store.namespace("a", "{b}")):
            await room.kv.put_many({f"{n}": n for n in range(2500)}, ttl=100)
            await room.turns.append("s", "user", "x")
        assert await store.engine.drop_namespace("") == 3 * 2501
        client = Redis.from_url(own_server.url)
        left = [key async for key in client.scan_iter()]
        await client.aclose()
        assert [key.rpartition(b":")[2] for key in left] == [b"namespaces"]


@integration
async def test_two_prefixes_are_two_stores(store: Store, new_store: NewStore, prefix: str) -> None:
    async with Store(_session(servers.url("redis"), prefix + "x")) as other:
        await store.kv.put("a", 1)
        await store.namespace("n").kv.put("a", 1)
        assert await other.kv.get("a") is None
        assert [name async for name in other.namespaces()] == []
        assert await other.engine.drop_namespace("") == 0
    assert await store.kv.get("a") == 1


def _session(url: str, prefix: str) -> Any:
    from polymem.opened import Session

    return Session(create_engine(url, prefix=prefix), sweep_every=None)


@integration
async def test_a_client_of_ones_own_is_not_closed(new_store: NewStore) -> None:
    client = Redis.from_url(servers.url("redis"), decode_responses=True)
    async with new_store("redis://", client=client) as store:
        await store.kv.put("a", {"text": "\u00e9"})
        assert await store.kv.get("a") == {"text": "\u00e9"}
    assert await client.ping()
    await client.aclose()


@integration
async def test_what_is_not_ours_is_left_alone(store: Store, prefix: str) -> None:
    client = Redis.from_url(servers.url("redis"))
    held = names(prefix, "")
    try:
        await client.lpush(held.records + b"list", b"x")
        await client.set(held.records + b"text", b"x" * 50)
        for key in ("list", "text"):
            with pytest.raises(StorageCorruptError):
                await store.kv.get(key)
        with pytest.raises(StorageCorruptError):
            await store.kv.put("list", 1)
        assert await client.lrange(held.records + b"list", 0, -1) == [b"x"]
    finally:
        await client.delete(held.records + b"list", held.records + b"text")
        await client.aclose()


@integration
async def test_a_window_of_turns(new_store: NewStore) -> None:
    """The newest stay, in the same round trip; 0 stores nothing (RD-1)."""
    async with new_store(turn_window=3) as store:
        for number in range(5):
            await store.turns.append("s", "user", f"{number}")
        assert [turn.content for turn in await store.turns.recent("s")] == ["4", "3", "2"]
        assert store.turns.features.window == 3
        await store.turns.append_many("s", [{"role": "user", "content": f"m{n}"} for n in range(7)])
        assert [turn.turn_id for turn in await store.turns.recent("s")] == [12, 11, 10]
        async with store.transaction() as tx:
            await tx.turns.append("s", "user", "tx")
            assert [turn.turn_id for turn in await tx.turns.recent("s")] == [13, 12, 11]
        assert [turn.turn_id for turn in await store.turns.recent("s")] == [13, 12, 11]
    async with new_store(turn_window="0") as store:
        await store.turns.append("s", "user", "x")
        assert await store.turns.count() == 0
        assert [session async for session in store.turns.sessions()] == []


@integration
async def test_reading_refreshes_turns_where_wanted(new_store: NewStore) -> None:
    clock = ManualClock()
    async with new_store(clock=clock, refresh_ttl_on_read=True, turn_ttl=100) as store:
        for number in range(3):
            await store.turns.append("s", "user", f"{number}", ttl=100)
        clock.advance(60)
        assert len(await store.turns.recent("s", limit=2)) == 2
        clock.advance(60)
        assert [turn.turn_id for turn in await store.turns.recent("s")] == [3, 2]
        clock.advance(99)
        assert (await store.turns.get("s", 2)) is not None
        clock.advance(99)
        assert [turn.turn_id async for turn in store.turns.scan("s")] == [2]
        assert await store.turns.recent("unknown") == []


@integration
async def test_ten_writers_and_twenty_readers_agree(store: Store) -> None:
    """RD-2, with contents of a megabyte among them."""
    big = "\U0001f600\tx" * 200_000

    async def write(number: int) -> None:
        for step in range(5):
            await store.turns.append("s", "user", big if (number, step) == (0, 0) else f"{number}:{step}")

    async def read(_: int) -> None:
        for _ in range(5):
            ids = [turn.turn_id for turn in await store.turns.recent("s", limit=100)]
            assert ids == sorted(ids, reverse=True)
            assert len(set(ids)) == len(ids)

    await asyncio.gather(*map(write, range(10)), *map(read, range(20)))
    found = [turn async for turn in store.turns.scan("s")]
    assert [turn.turn_id for turn in found] == list(range(1, 51))
    assert sum(turn.content == big for turn in found) == 1


@integration
async def test_a_lost_race_is_a_conflict_and_is_run_again(store: Store, new_store: NewStore) -> None:
    """Also for what was listed only: a key that appeared meanwhile (TXN-1, TXN-3)."""
    async with new_store() as other:
        with pytest.raises(StorageConflictError) as caught:
            async with store.transaction() as tx:
                assert await tx.kv.count() == 0
                await other.kv.put("phantom", 1)
                await tx.kv.put("total", 0)
        assert caught.value.retryable
        assert await store.kv.get("total") is None
        runs = []

        async def work(tx: TransactionStore) -> None:
            runs.append(await tx.kv.count())
            if len(runs) == 1:
                await other.kv.put("another", 1)
            await tx.kv.put("total", runs[-1])

        await store.run_in_transaction(work)
        assert runs == [1, 2]
        assert await store.kv.get("total") == 2


@integration
async def test_a_transaction_that_lost_its_connection_is_over(new_store: NewStore, own_server: RedisServer) -> None:
    async with new_store(own_server.url) as store:
        await store.kv.put("a", 1)
        with pytest.raises(StorageConnectionError):
            async with store.transaction() as tx:
                await tx.kv.put("a", await tx.kv.get("a") + 1)
                own_server.say("CLIENT", "KILL", "TYPE", "normal")
                await asyncio.sleep(0.05)
                await tx.kv.put("b", 1)
        assert await store.kv.get("a") == 1
        assert store.engine.pool_status()["used"] == 0  # type: ignore[attr-defined]


@integration
async def test_closing_ends_open_transactions(new_store: NewStore) -> None:
    store = await new_store()
    with pytest.raises(StorageConnectionError):
        async with store.transaction() as tx:
            await tx.kv.put("a", 1)
            await store.close()
            await tx.kv.put("b", 1)
    async with store:
        assert await store.kv.count() == 0


@integration
async def test_refusals_of_the_server(new_store: NewStore, own_server: RedisServer) -> None:
    async with new_store(own_server.url) as store:
        await store.kv.put("a", 1)
        own_server.say("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(StorageFullError):
            await store.kv.put("a", 2)
        assert await store.kv.get("a") == 1
        own_server.say("CONFIG", "SET", "maxmemory", "0")
        own_server.say("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(StorageConnectionError) as caught:
            await store.kv.put("a", 2)
        assert caught.value.retryable
        own_server.say("REPLICAOF", "NO", "ONE")
        own_server.say("CONFIG", "SET", "requirepass", "x")
    with pytest.raises(StorageAuthError):
        await new_store(own_server.url)
    async with new_store(own_server.url, password="x") as store:
        assert await store.kv.get("a") == 1
        own_server_words = await store.check()
    assert own_server_words.ok
    assert own_server_words.version.startswith("7.")


@integration
async def test_a_connection_to_a_demoted_server_is_given_up(new_store: NewStore, own_server: RedisServer) -> None:
    """Where the address leads to another server now, the next call finds it."""
    async with new_store(own_server.url) as store:
        await store.kv.put("a", 1)
        own_server.say("REPLICAOF", "127.0.0.1", "1")
        before = own_server.say("INFO", "stats")
        with pytest.raises(StorageConnectionError):
            await store.kv.put("a", 2)
        connections = [
            _number(text, b"total_connections_received:") for text in (before, own_server.say("INFO", "stats"))
        ]
        assert connections[1] - connections[0] >= 2 + 1  # an attempt each, and ours
        own_server.say("REPLICAOF", "NO", "ONE")
        await _eventually(lambda: store.kv.put("a", 3))


def _number(info: bytes, name: bytes) -> int:
    return int(info.partition(name)[2].partition(b"\r")[0])


@integration
async def test_tls(new_store: NewStore, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    certificate = self_signed(tmp_path)
    plain, secure = free_ports(2)
    files = ("--tls-cert-file", f"{certificate}", "--tls-key-file", f"{certificate}", "--tls-auth-clients", "no")
    server = RedisServer(tmp_path, plain, "--tls-port", f"{secure}", *files)
    try:
        async with new_store(f"rediss://localhost:{secure}?ssl_ca_certs={certificate}") as store:
            await store.kv.put("a", 1)
            assert await store.kv.get("a") == 1
        with pytest.raises(StorageConnectionError):
            await new_store(f"rediss://localhost:{secure}")
    finally:
        server.kill()


def self_signed(folder: Path) -> Path:
    """A certificate for localhost and its key, in one file."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "both.pem"
    path.write_bytes(made.public_bytes(pem) + secret)
    return path


@integration
async def test_an_old_server_is_refused(own_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def version(_: Server) -> str:
        return "6.0.16"

    monkeypatch.setattr(Server, "version", version)
    engine = create_engine(own_server.url)
    with pytest.raises(StorageUnsupportedError, match=r"6\.2"):
        await engine.open()


@integration
async def test_one_store_at_a_time_holds_a_lease(new_store: NewStore) -> None:
    """By the engine's clock, given back at once, taken over when it has run out (G-6)."""
    clock = ManualClock()
    async with new_store(clock=clock) as store, new_store(clock=clock) as other:
        one, two = store.engine.lease, other.engine.lease  # type: ignore[attr-defined]
        assert await one("sweeper", "one", 10)
        assert not await two("sweeper", "two", 10)
        assert await two("other", "two", 10)
        clock.advance(9)
        assert await one("sweeper", "one", 10)
        clock.advance(9)
        assert not await two("sweeper", "two", 10)
        assert await one("sweeper", "one", 0)
        assert await two("sweeper", "two", 10)
        clock.advance(10)
        assert await one("sweeper", "one", 10)
        assert await one("sweeper", "one", 0)
        assert await two("other", "two", 0)
        assert (await store.engine.probe()).startswith("7.")  # type: ignore[attr-defined]


@integration
async def test_the_clock_follows_the_server(own_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = create_engine(own_server.url)
    true = engine.clock.now()
    monkeypatch.setattr("polymem.core.clock.time.time_ns", lambda: (true - 3_600_000_000) * 1000)
    await engine.open()
    try:
        assert abs(engine.clock.now() - true) < 60_000_000
    finally:
        await engine.close()


@integration
async def test_scripts_are_sent_again_to_a_server_that_forgot_them(store: Store, own_server: RedisServer) -> None:
    client = Redis.from_url(servers.url("redis"))
    await store.kv.put("a", 1)
    await client.script_flush()
    await asyncio.gather(*(store.kv.put(f"{n}", n) for n in range(10)))
    await client.script_flush()
    assert await store.kv.increment("a") == 2
    assert await store.kv.count() == 11
    await client.aclose()


@integration
async def test_a_sentinel_leads_to_the_new_primary(tmp_path: Path, new_store: NewStore) -> None:
    sentinels = Sentinels(tmp_path)
    try:
        async with new_store(sentinels.url) as store:
            await store.kv.put("a", 1)
            while sentinels.replica.say("GET", "none") != b"$-1\r\n":
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.2)
            sentinels.primary.kill()
            assert await _eventually(lambda: store.kv.increment("n")) >= 1
            assert await store.kv.get("a") == 1
    finally:
        sentinels.kill()


@integration
async def test_sentinels_with_a_password_of_their_own(tmp_path: Path, new_store: NewStore) -> None:
    sentinels = Sentinels(tmp_path)
    port = int(sentinels.url.rpartition(":")[2].partition("/")[0])
    try:
        assert say(port, "ACL", "SETUSER", "default", "resetpass", ">s3cret") == b"+OK\r\n"
        async with new_store(sentinels.url, sentinel_password="s3cret") as store:
            await store.kv.put("a", 1)
        with pytest.raises(StorageError) as caught:
            await new_store(f"{sentinels.url}?sentinel_password=s3cres")
        assert "s3cre" not in str(caught.value)
    finally:
        sentinels.kill()


@integration
async def test_sentinels_are_asked_over_tls_too(tmp_path: Path, new_store: NewStore) -> None:
    pytest.importorskip("cryptography")
    certificate, ports = self_signed(tmp_path), free_ports(3)
    tls = ("--tls-cert-file", f"{certificate}", "--tls-key-file", f"{certificate}", "--tls-auth-clients", "no")
    server = RedisServer(tmp_path, ports[0], "--tls-port", f"{ports[1]}", *tls)
    settings = tmp_path / "sentinel.conf"
    settings.write_text(
        f"port 0\ntls-port {ports[2]}\nbind 127.0.0.1\ntls-cert-file {certificate}\ntls-key-file {certificate}\n"
        f"tls-ca-cert-file {certificate}\ntls-auth-clients no\ntls-replication yes\n"
        f"sentinel resolve-hostnames yes\nsentinel announce-hostnames yes\nsentinel monitor main localhost {ports[1]} 1\n"
    )
    sentinel = Process([binary(), settings, "--sentinel"], tmp_path)
    try:
        url = f"rediss+sentinel://localhost:{ports[2]}/main?ssl_ca_certs={certificate}"
        await _eventually(lambda: _puts(new_store(url)))
    finally:
        sentinel.kill()
        server.kill()


async def _puts(store: Store) -> None:
    async with store:
        await store.kv.put("a", 1)


@pytest.mark.anyio
@pytest.mark.integration
@pytest.mark.server("redis_cluster")
async def test_a_cluster_survives_its_primary(tmp_path: Path, new_store: NewStore) -> None:
    """The client finds the replica that took over; what was written before is what replication had."""
    cluster = RedisCluster(tmp_path)
    try:
        async with new_store(cluster.url) as store:
            rooms = [store.namespace(f"{number}") for number in range(30)]
            await asyncio.gather(*(room.kv.put("a", 1) for room in rooms))
            await asyncio.sleep(0.5)
            cluster.primaries()[0].kill()
            for room in rooms:
                assert await _eventually(lambda room=room: room.kv.get("a")) == 1
                await _eventually(lambda room=room: room.kv.put("a", 2))
            assert [await room.kv.get("a") for room in rooms] == [2] * 30
            assert not store.supports("transactions")
    finally:
        cluster.kill()


async def _eventually(call: Callable[[], Any]) -> Any:
    for _ in range(600):
        try:
            return await call()
        except (StorageConnectionError, StorageTimeoutError):
            await asyncio.sleep(0.05)
    return await call()
