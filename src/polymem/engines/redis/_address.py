"""Which servers a URL names, and how to make connections to them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from types import NoneType
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.connection import AbstractConnection, ConnectionPool, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff

from polymem.contracts.turns import DEFAULT_TTL
from polymem.core.clock import MAX_SECONDS
from polymem.engines.redis._cluster_link import ClusterLink
from polymem.engines.redis._line import Line
from polymem.engines.redis._link import Link, ServerLink
from polymem.engines.redis._pool import Limits, Pool
from polymem.errors import StorageDataError

_TLS: Final = (
    "ssl_ca_certs",
    "ssl_ca_data",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_password",
    "ssl_cert_reqs",
    "ssl_check_hostname",
)
_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_CREDENTIALS: Final = ("username", "password", "sentinel_username", "sentinel_password")
_FLAGS: Final = {"true": True, "1": True, "false": False, "0": False}
_NUMBERS: Final[dict[str, Callable[[Any], float]]] = {
    "port": int,
    "db": int,
    "pool": int,
    "socket_timeout": float,
    "acquire_timeout": float,
    "max_idle": float,
    "max_lifetime": float,
    "turn_window": int,
    "turn_ttl": float,
}
_MOST: Final[dict[str, float]] = {"port": 65_535, "turn_ttl": MAX_SECONDS}
OPTIONS: Final = frozenset({
    "host", *_CREDENTIALS, "cluster", "client", "refresh_ttl_on_read", "prefix", *_NUMBERS, *_TLS,
})  # fmt: skip
"""Everything that a URL's query or a caller may say; those of TLS for `rediss` only."""
SCHEMES: Final = ("redis", "rediss", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel")


@dataclass(frozen=True)
class Address:
    """Everything about connections. Times are in seconds."""

    hosts: tuple[tuple[str, int], ...] = (("localhost", 6379),)
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: Mapping[str, Any] | None = field(default=None, repr=False)
    cluster: bool = False
    service: str | None = None
    """The name by which Sentinels know the primary; `hosts` are the Sentinels then."""
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    socket_timeout: float = 5.0
    limits: Limits = field(default_factory=Limits)
    client: Any = field(default=None, repr=False)
    """A client of redis-py whose settings are used, and which is never closed."""

    @property
    def is_cluster(self) -> bool:
        return self.cluster or isinstance(self.client, RedisCluster)

    def link(self) -> Link:
        if self.is_cluster:
            return ClusterLink(self._cluster(), self.limits, self.socket_timeout, owned=self.client is None)
        source = self._source()
        make: Callable[[], AbstractConnection] = source.make_connection
        pool = Pool(lambda: Line(make(), self.socket_timeout), self.limits)
        sentinels = source.sentinel_manager.sentinels if isinstance(source, SentinelConnectionPool) else []
        return ServerLink(pool, make, [] if self.client is not None else [source, *sentinels])

    def _source(self) -> ConnectionPool:
        """Only makes connections: the pool is ours."""
        if self.client is not None:
            source: ConnectionPool = self.client.connection_pool
            return source
        if self.service is not None:
            return self._primary(self.service)
        host, port = self.hosts[0]
        settings = self._settings()
        if self.tls is not None:
            settings["connection_class"] = SSLConnection
        return ConnectionPool(host=host, port=port, db=self.db, **settings)

    def _primary(self, service: str) -> SentinelConnectionPool:
        settings = self._settings()
        asking = {
            **_CALM, "socket_timeout": self.socket_timeout, "ssl": self.tls is not None, **(self.tls or {}),
            "username": self.sentinel_username, "password": self.sentinel_password,
        }  # fmt: skip
        sentinel = Sentinel(list(self.hosts), sentinel_kwargs=asking)  # type: ignore[no-untyped-call]
        return SentinelConnectionPool(  # type: ignore[no-untyped-call]
            service, sentinel, db=self.db, ssl=self.tls is not None, **settings
        )

    def _cluster(self) -> RedisCluster:
        if self.client is not None:
            given: RedisCluster = self.client
            return given
        from redis.asyncio.cluster import ClusterNode  # noqa: PLC0415 - only for clusters

        nodes = [ClusterNode(host, port) for host, port in self.hosts]
        settings = {**self._settings(), "socket_timeout": self.socket_timeout}
        return RedisCluster(startup_nodes=nodes, ssl=self.tls is not None, max_connections=self.limits.size, **settings)

    def _settings(self) -> dict[str, Any]:
        """The limit on replies is ours: redis-py's costs a task for each command."""
        limits = {"socket_timeout": None, "socket_connect_timeout": self.socket_timeout}
        return {**_CALM, **limits, "username": self.username, "password": self.password, **(self.tls or {})}


_CALM: Final[dict[str, Any]] = {"protocol": 2, "retry": Retry(NoBackoff(), 0)}
"""No repetition behind the guard's back."""


@dataclass(frozen=True, slots=True)
class TurnOptions:
    """How sessions are kept (RD-1)."""

    window: int | None = None
    """How many turns a session keeps at most; 0 stores nothing."""
    refresh_on_read: bool = False
    """Whether a turn that is read lives `ttl` seconds from then on."""
    ttl: float = DEFAULT_TTL


def turn_options(given: dict[str, Any]) -> TurnOptions:
    """The options about turns, which are taken out of `given`."""
    found: dict[str, Any] = {}
    if given.get("turn_window") is not None:
        found["window"] = _number("turn_window", given.pop("turn_window"))
    if "turn_ttl" in given:
        found["ttl"] = _number("turn_ttl", given.pop("turn_ttl"))
    found["refresh_on_read"] = _flag(given.pop("refresh_ttl_on_read", False), "refresh_ttl_on_read")
    given.pop("turn_window", None)
    return TurnOptions(**found)


def parse(url: str, options: Mapping[str, Any]) -> tuple[Address, dict[str, Any]]:
    """The address in a URL and in options, and the options that are not about it."""
    parts = urlsplit(url)
    given = {**dict(parse_qsl(parts.query, keep_blank_values=True)), **options}
    if parts.scheme not in SCHEMES:
        raise StorageDataError(f"expected one of {', '.join(SCHEMES)}", field="url")
    kind = parts.scheme.partition("+")[2]
    found = _from_path(parts, sentinel=kind == "sentinel") | _credentials(parts)
    found["hosts"] = _hosts(parts, given, 26_379 if kind == "sentinel" else 6_379)
    secure = parts.scheme.startswith("rediss")
    found["tls"] = _tls(given) if secure else None
    found["cluster"] = kind == "cluster" or _flag(given.pop("cluster", False), "cluster")
    found |= _given(("db", *_CREDENTIALS, "socket_timeout", "client"), given)
    _check(found)
    limits = _given(("pool", "acquire_timeout", "max_idle", "max_lifetime"), given)
    if "pool" in limits:
        limits["size"] = limits.pop("pool")
    return Address(**found, limits=Limits(**limits)), given


def _given(names: Sequence[str], given: dict[str, Any]) -> dict[str, Any]:
    """Those of the options that are there, checked and taken out of `given`."""
    there = {name: given.pop(name) for name in names if name in given}
    return {name: _number(name, value) if name in _NUMBERS else value for name, value in there.items()}


def _check(found: Mapping[str, Any]) -> None:
    for name in _CREDENTIALS:
        if not isinstance(found.get(name), (str, NoneType)):
            raise StorageDataError("expected a string", field=name)
    if not isinstance(found.get("client"), (Redis, RedisCluster, NoneType)):
        raise StorageDataError("expected a client of redis.asyncio: Redis or RedisCluster", field="client")


def _hosts(parts: SplitResult, given: dict[str, Any], port: int) -> tuple[tuple[str, int], ...]:
    where = parts.netloc.rpartition("@")[2]
    listed = tuple(_host(one, port) for one in where.split(",")) if where else ()
    host = given.pop("host", None)
    if not isinstance(host, (str, NoneType)):
        raise StorageDataError("expected a string", field="host")
    own_port = _number("port", given.pop("port")) if "port" in given else None
    first = listed[0] if listed else ("localhost", port)
    return ((host or first[0], int(own_port or first[1])), *listed[1:])


def _host(text: str, port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        found = parts.port
    except ValueError as error:
        raise StorageDataError("expected host:port, and a port up to 65535", field="url") from error
    return parts.hostname or "localhost", found or port


def _credentials(parts: SplitResult) -> dict[str, Any]:
    who, at, _ = parts.netloc.rpartition("@")
    name, _, password = who.partition(":")
    return {"username": unquote(name) or None, "password": unquote(password) or None} if at else {}


def _from_path(parts: SplitResult, *, sentinel: bool) -> dict[str, Any]:
    segments = [unquote(part) for part in parts.path.split("/") if part]
    found: dict[str, Any] = {}
    if sentinel:
        if not segments:
            raise StorageDataError("expected redis+sentinel://host:26379,host2:26379/service/db", field="url")
        found["service"] = segments.pop(0)
    if segments:
        found["db"] = _number("db", segments.pop(0))
    if segments:
        raise StorageDataError("expected nothing after the number of the database", field="url")
    return found


def _tls(given: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {name: given.pop(name) for name in _TLS if name in given}
    for name in _FILES:
        if name in found and not Path(str(found[name])).is_file():
            raise StorageDataError("there is no such file", field=name)
    if "ssl_check_hostname" in found:
        found["ssl_check_hostname"] = _flag(found["ssl_check_hostname"], "ssl_check_hostname")
    return found


def _flag(value: object, field: str) -> bool:
    if str(value).lower() not in _FLAGS:
        raise StorageDataError("expected true or false", field=field)
    return _FLAGS[str(value).lower()]


def _number(field: str, value: object) -> float:
    kind = _NUMBERS[field]
    try:
        number = -1 if isinstance(value, bool) or (kind is int and isinstance(value, float)) else kind(value)
    except (TypeError, ValueError, OverflowError):
        number = -1
    may_be_0, most = field in ("db", "turn_window"), _MOST.get(field, inf)
    if not (number >= 0 if may_be_0 else 0 < number <= most):
        what = "a whole number" if kind is int else "seconds"
        bounds = "of at least 0" if may_be_0 else f"above 0{'' if most == inf else f', at most {most:g}'}"
        raise StorageDataError(f"expected {what} {bounds}", field=field)
    return number
