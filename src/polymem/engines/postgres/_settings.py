"""How an engine is opened: what its URL and options say, checked."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from ssl import SSLContext
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from polymem.contracts._input import several
from polymem.core.text import check_name, check_text
from polymem.errors import StorageDataError

_SCHEMES: Final = ("postgresql", "postgres")
_POOL_SIZE: Final = "pool_size"
"""Another name of `max_size`."""
_OF_DRIVER: Final = frozenset({
    "host", "port", "user", "password", "dbname", "database", "passfile", "service", "servicefile",
    "sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation",
    "ssl_min_protocol_version", "ssl_max_protocol_version", "target_session_attrs", "krbsrvname", "gsslib",
})  # fmt: skip

_FILES: Final = frozenset({"sslcert", "sslkey", "sslrootcert", "sslcrl"})
_MIN_SIZE: Final = 2
_SIZES: Final = ("min_size", "max_size")
_MUST_LAST: Final = ("connect_timeout", "timeout", "max_staleness")
_SECONDS: Final = ("acquire_timeout", "max_idle", "max_lifetime", *_MUST_LAST)
_LEAST_SECONDS: Final = 0.001
"""The server counts in milliseconds, and takes none for no limit at all."""
_YES: Final = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


@dataclass(frozen=True, slots=True)
class Settings:
    """Durations in seconds. `timeout` is that of one statement."""

    dsn: str = field(repr=False)
    min_size: int = _MIN_SIZE
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
    direct_url: str | None = field(default=None, repr=False)
    """Past the pooler, for what needs a session of its own."""
    vector_index: str = "hnsw"
    """Or "ivfflat": how collections with many vectors are searched; "exact": never by an index."""
    replicas: tuple[str, ...] = field(default=(), repr=False)
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
        raise StorageDataError(f"unknown option {name}; there are {', '.join(sorted(known))}", field=name)
    _check_files(others)
    _check_hosts(parts.netloc, field="url")
    options: dict[str, Any] = {}
    for name, value in (*ours.items(), *given.items()):
        options["max_size" if name == _POOL_SIZE else name] = _typed(name, value)
    if "max_size" in options:  # who wants a small pool need not say so twice
        options.setdefault("min_size", min(options["max_size"], _MIN_SIZE))
    dsn = urlunsplit(parts._replace(scheme="postgresql", query=urlencode(others)))
    return _checked(Settings(dsn, **options))


def _check_files(options: dict[str, str]) -> None:
    for name in _FILES & options.keys():
        if options[name] != "system" and not Path(options[name]).is_file():
            raise StorageDataError("there is no such file", field=name)


def _check_hosts(netloc: str, *, field: str) -> None:
    for host in netloc.rpartition("@")[2].split(","):
        try:
            urlsplit(f"//{host}").port  # noqa: B018 - asking for it looks at it
        except ValueError:
            raise StorageDataError("expected host:port, and a port up to 65535", field=field) from None


def _typed(name: str, value: Any) -> Any:
    if name in (*_SIZES, _POOL_SIZE):
        return _number(name, value, int)
    if name in _SECONDS:
        return _number(name, value, float)
    if name == "replicas":
        return _replicas(value)
    return _OTHERS[name](name, value) if value is not None and name in _OTHERS else value


def _flag(name: str, value: Any) -> bool:
    found = _YES.get(str(value).lower())
    if found is None:
        raise StorageDataError("expected true or false", field=name)
    return found


def _text(name: str, value: Any) -> str:
    return check_text(value, field=name)


def _direct(name: str, value: Any) -> str:
    if not isinstance(value, str) or urlsplit(value).scheme not in _SCHEMES:
        raise StorageDataError("expected a URL such as postgresql://user@host/database", field=name)
    _check_hosts(urlsplit(value).netloc, field=name)
    return value


def _tls(name: str, value: Any) -> Any:
    if not isinstance(value, (SSLContext, bool, str)):
        raise StorageDataError("expected an ssl.SSLContext, a bool or one of libpq's sslmode", field=name)
    return value


_OTHERS: Final[dict[str, Callable[[str, Any], Any]]] = {
    "prepared_statements": _flag, "read_your_writes": _flag, "application_name": _text, "direct_url": _direct, "ssl": _tls,
}  # fmt: skip
"""How options that are neither sizes nor seconds are checked."""


def _replicas(value: Any) -> tuple[str, ...]:
    """URLs one by one: each begins with its scheme, since a single one may name several hosts with commas."""
    urls = re.split(r",\s*(?=\w+://)", value) if isinstance(value, str) else list(several(value, field="replicas"))
    for url in urls:
        parts = urlsplit(url) if isinstance(url, str) else None
        if parts is None or parts.scheme not in _SCHEMES:
            raise StorageDataError("expected URLs such as postgresql://user@host/database", field="replicas")
        _check_hosts(parts.netloc, field="replicas")
        options = dict(parse_qsl(parts.query))
        if options.keys() - _OF_DRIVER:
            raise StorageDataError("options of ours are those of the main URL: leave them out here", field="replicas")
        _check_files(options)
    return tuple(urls)


def _number(name: str, value: Any, kind: type[int] | type[float]) -> float:
    least = _LEAST_SECONDS if name in _MUST_LAST else 0
    try:
        if (
            isinstance(value, bool)
            or (kind is int and isinstance(value, float))
            or not least <= (number := kind(value)) < float("inf")
        ):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        what = "a whole number" if kind is int else "seconds"
        raise StorageDataError(f"expected {what} of at least {least:g}", field=name) from None
    return number


def _checked(settings: Settings) -> Settings:
    if not settings.max_size >= 1 or settings.min_size > settings.max_size:
        raise StorageDataError("expected at least 1, and at least min_size", field="max_size")
    if settings.vector_index not in ("exact", "hnsw", "ivfflat"):
        raise StorageDataError("expected exact, hnsw or ivfflat", field="vector_index")
    if settings.schema is not None:
        check_name(settings.schema, field="schema")
    return settings
