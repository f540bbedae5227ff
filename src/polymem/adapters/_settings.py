"""What the `config` of an adapter says, checked; the rest is the engine's."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from polymem.adapters.validation import validate_field_types, validate_known_fields
from polymem.config.opening import store_of
from polymem.config.schema import ENGINE_OPTIONS, EngineConfig
from polymem.contracts.turns import DEFAULT_TTL
from polymem.core.clock import MAX_SECONDS
from polymem.core.registry import scheme_of
from polymem.core.text import check_key
from polymem.errors import StorageDataError
from polymem.store import Store

_OF_EVERY_ADAPTER: Final = ("url", "table", "tenant", "metrics")
_OF_EVERY_STORE: Final = ("client", "clock", "sweep_every", "retry_writes")
_TYPES: Final[Mapping[str, Any]] = {
    "url": str, "table": str, "tenant": str, "host": str, "port": int, "db": int, "password": str | None, "min_size": int,
    "pool_size": int, "timeout": int | float, "socket_timeout": int | float, "window_size": int,
    "ttl_seconds": int | float, "refresh_ttl_on_read": bool,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Declaration:
    """What tells one adapter from another."""

    schemes: tuple[str, ...]
    url: str | None = None
    """Where to connect unless told; None: it must be told."""
    tables: tuple[str, ...] = ("active_context",)
    """The first is the default."""
    options: tuple[str, ...] = ()
    """What its `config` may hold beside the options of the engine."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Names in `config` and what the engine calls them."""
    one_session: bool = False
    """Whether a search must name its session."""


@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """`ttl` is in seconds, `limit` that of a search which names none; `options` are the store's and the engine's."""

    url: str
    table: str
    tenant: str
    ttl: float
    limit: int
    options: Mapping[str, Any]

    def store(self) -> Store:
        """A store, not open yet, on the root namespace. The environment has no say in it."""
        return store_of(EngineConfig("adapter", self.url), **self.options)


def read_config(config: Mapping[str, Any], declared: Declaration) -> Settings:
    """`StorageDataError` names the key to blame."""
    validate_field_types(config, _TYPES)
    url = _url(config, declared)
    engine = [name for name in ENGINE_OPTIONS[scheme_of(url)] if name not in declared.renamed.values()]
    validate_known_fields(config, (*_OF_EVERY_ADAPTER, *declared.options, *declared.renamed, *engine, *_OF_EVERY_STORE))
    in_url = parse_qs(urlsplit(url).query)
    for name, other in declared.renamed.items():
        if other in in_url:
            raise StorageDataError(f"{other} in the URL: say {name} beside it", field="url")
    given = {**{n: value for n, value in declared.defaults.items() if n not in in_url}, **config}
    _check_positive(given)
    options = {
        declared.renamed.get(name, name): given[name] for name in given if name not in ("url", "table", "tenant")
    }
    return Settings(
        url, _table(given, declared), check_key(given.get("tenant", "default"), field="tenant"),
        given.get("ttl_seconds", DEFAULT_TTL), given.get("window_size", 10), options,
    )  # fmt: skip


def _url(config: Mapping[str, Any], declared: Declaration) -> str:
    url: str | None = config.get("url", declared.url)
    if url is None:
        raise StorageDataError(f"missing; expected a URL that starts with {declared.schemes[0]}:", field="url")
    if scheme_of(url) not in declared.schemes:
        raise StorageDataError(f"expected a URL that starts with one of {', '.join(declared.schemes)}", field="url")
    return url


def _table(given: Mapping[str, Any], declared: Declaration) -> str:
    table: str = given.get("table", declared.tables[0])
    if table not in declared.tables:
        raise StorageDataError(f"expected one of {', '.join(declared.tables)}", field="table")
    return table


def _check_positive(given: Mapping[str, Any]) -> None:
    for name in ("ttl_seconds", "timeout", "socket_timeout", "pool_size"):
        if name in given and not 0 < given[name] < MAX_SECONDS:
            raise StorageDataError(f"expected a number above 0 and below {MAX_SECONDS:g}", field=name)
    for name in ("window_size", "min_size", "db"):
        if name in given and given[name] < 0:
            raise StorageDataError("expected a whole number of at least 0", field=name)
