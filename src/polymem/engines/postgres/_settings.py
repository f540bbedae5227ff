"""How an engine is opened: what its URL and options say, checked."""

import re
from dataclasses import dataclass, fields
from pathlib import Path
from ssl import SSLContext
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from polymem.core.text import check_name
from polymem.errors import StorageDataError

_POOL_SIZE: Final = "pool_size"
"""Another name of `max_size`."""
_OF_DRIVER: Final = frozenset({
    "host", "port", "user", "password", "dbname", "database", "passfile", "service", "servicefile",
    "sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation",
    "ssl_min_protocol_version", "ssl_max_protocol_version", "target_session_attrs", "krbsrvname", "gsslib",
})  # fmt: skip

_FILES: Final = frozenset({"sslcert", "sslkey", "sslrootcert", "sslcrl"})


@dataclass(frozen=True, slots=True)
class Settings:
    """Durations in seconds. `timeout` is that of one statement."""

    dsn: str
    min_size: int = 2
    max_size: int = 10
    acquire_timeout: float = 5.0
    connect_timeout: float = 5.0
    timeout: float = 30.0
    max_idle: float = 300.0
    max_lifetime: float = 3600.0
    schema: str | None = None
    application_name: str = "polymem"
    prepared_statements: bool | None = None
    """None: unless the server is behind a pooler such as PgBouncer."""
    ssl: SSLContext | bool | str | None = None
    """As asyncpg takes it; None: as the URL's `sslmode` says."""
    direct_url: str | None = None
    """Past the pooler, for what needs a session of its own."""
    vector_index: str = "hnsw"
    """Or "ivfflat": how collections with many vectors are searched; "exact": never by an index."""
    replicas: tuple[str, ...] = ()
    """URLs of streaming replicas, which answer reads."""
    read_your_writes: bool = True
    """Whether a read shows all that this store has written before it."""
    max_staleness: float = 10.0
    """A replica that lags further behind is not read from."""


def read_settings(url: str, given: dict[str, Any]) -> Settings:
    """The settings of a URL with our options and those of libpq in its query, and of options given beside it."""
    parts = urlsplit(url)
    known = {f.name for f in fields(Settings)} - {"dsn"} | {_POOL_SIZE}
    in_url = dict(parse_qsl(parts.query, keep_blank_values=True))
    ours = {name: value for name, value in in_url.items() if name in known}
    others = {name: value for name, value in in_url.items() if name not in known}
    for name in [*(others.keys() - _OF_DRIVER), *(given.keys() - known)]:
        raise StorageDataError(f"unknown option {name}; there are {', '.join(sorted(known))}", field="url")
    _check_files(others)
    options = {**ours, **given}
    if _POOL_SIZE in options:
        options["max_size"] = options.pop(_POOL_SIZE)
    dsn = urlunsplit(parts._replace(scheme="postgresql", query=urlencode(others)))
    return _checked(Settings(dsn, **{name: _typed(name, value) for name, value in options.items()}))


def _check_files(options: dict[str, str]) -> None:
    for name in _FILES & options.keys():
        if options[name] != "system" and not Path(options[name]).is_file():
            raise StorageDataError("there is no such file", field=name)


def _typed(name: str, value: Any) -> Any:
    if name in ("min_size", "max_size"):
        return _number(name, value, int)
    if name in ("acquire_timeout", "connect_timeout", "timeout", "max_idle", "max_lifetime", "max_staleness"):
        return _number(name, value, float)
    if name in ("prepared_statements", "read_your_writes") and isinstance(value, str):
        return value.lower() in ("1", "true", "yes", "on")
    return _replicas(value) if name == "replicas" else value


def _replicas(value: Any) -> tuple[str, ...]:
    """URLs one by one: each begins with its scheme, since a single one may name several hosts with commas."""
    urls = re.split(r",\s*(?=\w+://)", value) if isinstance(value, str) else list(value)
    for url in urls:
        parts = urlsplit(url) if isinstance(url, str) else None
        if parts is None or parts.scheme not in ("postgresql", "postgres"):
            raise StorageDataError("expected URLs such as postgresql://user@host/database", field="replicas")
        options = dict(parse_qsl(parts.query))
        if options.keys() - _OF_DRIVER:
            raise StorageDataError("options of ours are those of the main URL: leave them out here", field="replicas")
        _check_files(options)
    return tuple(urls)


def _number(name: str, value: Any, kind: type[int] | type[float]) -> float:
    try:
        if isinstance(value, bool) or not 0 <= (number := kind(value)) < float("inf"):
            raise ValueError
    except (TypeError, ValueError):
        what = "a whole number" if kind is int else "seconds"
        raise StorageDataError(f"expected {what} of at least 0", field=name) from None
    return number


def _checked(settings: Settings) -> Settings:
    if not settings.max_size >= 1 or settings.min_size > settings.max_size:
        raise StorageDataError("expected at least 1, and at least min_size", field="max_size")
    if settings.vector_index not in ("exact", "hnsw", "ivfflat"):
        raise StorageDataError("expected exact, hnsw or ivfflat", field="vector_index")
    if not settings.max_staleness > 0:
        raise StorageDataError("expected more than 0 seconds", field="max_staleness")
    if settings.schema is not None:
        check_name(settings.schema, field="schema")
    return settings
