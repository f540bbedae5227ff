"""TLS between client and server: our build of PostgreSQL has none, PgBouncer has (PG-2, G-1)."""

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit
from uuid import uuid4

import pytest
from servers._process import cache_folder
from servers.postgres import PASSWORD, PgBouncer, passable, remove

from polymem.engines.postgres._errors import unreachable
from polymem.errors import PolymemError, StorageAuthError, StorageConnectionError, StorageDataError

pytest.importorskip("cryptography")
from servers.certificates import Authority

pytestmark = [
    pytest.mark.integration, pytest.mark.server("postgres"), pytest.mark.server("pgbouncer"), pytest.mark.anyio,
]  # fmt: skip


class Poolers(NamedTuple):
    """The ports of poolers that insist on TLS, by whose certificate they have."""

    url: str
    right: int
    elsewhere: int
    """For another host."""
    ended: int
    mutual: int
    """Asks its clients for a certificate, too."""
    ours: Authority
    others: Authority

    def at(self, port: int, host: str = "localhost", **options: object) -> str:
        parts = urlsplit(self.url)
        place = f"{parts.username}:{parts.password}@{host}:{port}"
        return parts._replace(netloc=place, query=urlencode(options)).geturl()


@pytest.fixture(name="poolers", scope="module")
def give_poolers(url: str) -> Iterator[Poolers]:
    folder = cache_folder() / f"tls-{uuid4().hex}"
    passable(folder)
    ours, others = Authority(folder, "ours"), Authority(folder, "others")
    files = {
        "right": ours.sign("right", "localhost", "127.0.0.1"),
        "elsewhere": ours.sign("elsewhere", "db.example.org"),
        "ended": ours.sign("ended", "localhost", ended=True),
    }
    started = {name: pooler(folder / name, url, *pair) for name, pair in files.items()}
    asking = {"client_tls_sslmode": "verify-ca", "client_tls_ca_file": ours.file}
    started["mutual"] = pooler(folder / "mutual", url, *files["right"], **asking)
    ports = {name: one.port for name, one in started.items()}
    yield Poolers(url, ours=ours, others=others, **ports)
    for one in started.values():
        one.stop()
    remove(folder)


def pooler(folder: Path, url: str, certificate: Path, key: Path, **settings: object) -> PgBouncer:
    tls = {"client_tls_sslmode": "require", "client_tls_cert_file": certificate, "client_tls_key_file": key}
    return PgBouncer(folder, int(urlsplit(url).port or 0), **{**tls, **settings})


async def works(opened: Any, url: str, **options: Any) -> bool:
    store = await opened(url, **options)
    await store.kv.put("tls", 1)
    return await store.kv.get("tls") == 1


async def refusal(opened: Any, url: str, **options: Any) -> PolymemError:
    with pytest.raises(PolymemError) as caught:
        await opened(url, **options)
    assert PASSWORD not in repr(caught.value)
    return caught.value


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
async def test_a_certificate_that_is_right(mode: str, poolers: Poolers, opened: Any) -> None:
    assert await works(opened, poolers.at(poolers.right, sslmode=mode, sslrootcert=poolers.ours.file))


async def test_how_much_is_asked_of_it(poolers: Poolers, opened: Any) -> None:
    """As libpq has it: `require` asks for TLS, `verify-ca` for an authority that is trusted, `verify-full` for the host."""
    assert await works(opened, poolers.at(poolers.elsewhere, sslmode="require"))
    assert await works(opened, poolers.at(poolers.elsewhere, sslmode="verify-ca", sslrootcert=poolers.ours.file))


async def test_an_authority_that_is_not_trusted(poolers: Poolers, opened: Any) -> None:
    for mode in ("verify-ca", "verify-full"):
        error = await refusal(opened, poolers.at(poolers.right, sslmode=mode, sslrootcert=poolers.others.file))
        assert type(error) is StorageConnectionError
        assert not error.retryable
        assert "sslrootcert" in str(error)


async def test_the_certificate_of_another_host(poolers: Poolers, opened: Any) -> None:
    for host in ("localhost", "127.0.0.1"):
        url = poolers.at(poolers.elsewhere, host, sslmode="verify-full", sslrootcert=poolers.ours.file)
        error = await refusal(opened, url)
        assert type(error) is StorageConnectionError
        assert not error.retryable
        assert "host name" in str(error)


async def test_a_certificate_that_has_expired(poolers: Poolers, opened: Any) -> None:
    error = await refusal(opened, poolers.at(poolers.ended, sslmode="verify-full", sslrootcert=poolers.ours.file))
    assert type(error) is StorageConnectionError
    assert "expired" in str(error)


async def test_a_server_without_tls(url: str, opened: Any) -> None:
    error = await refusal(opened, f"{url}?sslmode=require")
    assert type(error) is StorageConnectionError
    assert not error.retryable
    assert "sslmode" in str(error)


async def test_a_client_that_wants_none(poolers: Poolers, opened: Any) -> None:
    error = await refusal(opened, poolers.at(poolers.right, sslmode="disable"))
    assert isinstance(error, (StorageConnectionError, StorageAuthError))


async def test_a_file_that_is_not_there(poolers: Poolers, opened: Any) -> None:
    error = await refusal(opened, poolers.at(poolers.right, sslmode="verify-full", sslrootcert="/no/such.pem"))
    assert isinstance(error, StorageDataError)
    assert error.field == "sslrootcert"


async def test_a_certificate_of_the_client(poolers: Poolers, opened: Any) -> None:
    certificate, key = poolers.ours.sign("client", "client.example.org")
    known = {"sslmode": "verify-full", "sslrootcert": poolers.ours.file}
    assert await works(opened, poolers.at(poolers.mutual, **known, sslcert=certificate, sslkey=key))
    stranger, secret = poolers.others.sign("stranger", "client.example.org")
    for wrong in ({}, {"sslcert": stranger, "sslkey": secret}):  # the server may be gone before it has said why
        assert isinstance(await refusal(opened, poolers.at(poolers.mutual, **known, **wrong)), StorageConnectionError)


async def test_what_the_server_says_against_the_client() -> None:
    lost = ConnectionResetError()
    lost.__cause__ = ssl.SSLError(1, "[SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert unknown ca")
    for error in (lost, lost.__cause__):
        translated = unreachable(error)
        assert isinstance(translated, StorageConnectionError)
        assert "sslcert" in str(translated)


async def test_a_context_of_ones_own(poolers: Poolers, opened: Any) -> None:
    trusting = ssl.create_default_context(cafile=poolers.ours.file)
    assert await works(opened, poolers.at(poolers.right), ssl=trusting)
    error = await refusal(opened, poolers.at(poolers.right), ssl=ssl.create_default_context())
    assert "sslrootcert" in str(error)
