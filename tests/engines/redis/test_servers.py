"""Redis servers that refuse, forget, are old, encrypted, several or replaced (G-8)."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import servers
from engines.redis.marks import NewStore, integration
from redis.asyncio import Redis
from servers._process import Process, free_ports
from servers.redis import RedisCluster, RedisServer, Sentinels, binary, say

from polymem.core.registry import create_engine
from polymem.engines.redis._server import Server
from polymem.errors import (
    StorageAuthError,
    StorageConnectionError,
    StorageError,
    StorageFullError,
    StorageTimeoutError,
    StorageUnsupportedError,
)
from polymem.store import Store


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
