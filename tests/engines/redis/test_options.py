"""Addresses and options of Redis, and what is not shown of them (G-1, G-2)."""

from typing import Any

import pytest

from polymem.core.registry import create_engine
from polymem.engines.redis._address import parse
from polymem.engines.redis._keys import names
from polymem.engines.redis._pool import Limits
from polymem.errors import StorageDataError


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
