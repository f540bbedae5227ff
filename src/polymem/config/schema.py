"""What can be configured: the typed sections, and the type of every key."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, NamedTuple, get_type_hints

from msgspec import Meta

from polymem.config.masking import masked
from polymem.config.secrets import EncryptionConfig
from polymem.contracts.drivers import CONTRACTS
from polymem.core.metrics_options import MetricsOptions
from polymem.errors import StorageDataError, StorageUnsupportedError
from polymem.layers._cache_policy import CachePolicy

TIERS: Final = ("active", "working", "episodic", "semantic", "archival")
STORES: Final = (
    "config", "memory", "audit", "profile", "session", "document", "interaction", "agent_state", "system",
    "procedure", "personal", "organization",
)  # fmt: skip
ROUTES: Final = {"contracts": CONTRACTS, "tiers": TIERS, "stores": STORES}

Level = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
SECTIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    **{section: dict.fromkeys(names, str) for section, names in ROUTES.items()},
    "memory": {"tenant": str, "language": str, "embed": Literal["static", "none"]},
    "providers": {"anthropic_api_key": str, "openai_api_key": str},
    "logging": {"level": Level, "json": bool},
}
_LEVEL: Final = Meta(ge=1, le=19, description="a whole number from 1 to 19")
_THRESHOLD: Final = Meta(ge=64, description="a whole number of at least 64 bytes")
_URLS: Final = Annotated[list[str], Meta(description="a list of URLs")]
NUMBERS: Final = Annotated[list[float], Meta(description="a list of numbers")]
LAYER_KEYS: Final[Mapping[str, Any]] = {
    "cache": bool | Annotated[int, Meta(ge=1, description="a number of entries")],
    **{f"cache.{name}": kind for name, kind in get_type_hints(CachePolicy).items()},
    "compression": bool,
    "compression.level": Annotated[int, _LEVEL],
    "compression.threshold": Annotated[int, _THRESHOLD],
    "encryption.current": str,
    "encryption.names": str,
    "encryption.hide_keys": bool,
    "metrics": bool,
    **{f"metrics.{name}": kind for name, kind in get_type_hints(MetricsOptions).items()},
    "metrics.percentiles": NUMBERS,
}
"""What lies over an engine, and what is measured of it. Besides there are `encryption.keys.<id>`, strings."""
LAYER_TABLES: Final = ("cache", "compression", "encryption", "encryption.keys", "metrics")
ENGINE_KEYS: Final[Mapping[str, Any]] = {"url": str, "sweep_every": float, "retry_writes": bool, **LAYER_KEYS}
_SERVER: Final = {"pool_size": int, "user": str, "password": str, "api_key": str}
_POSTGRES: Final = {
    "pool_size": int, "min_size": int, "max_size": int, "acquire_timeout": float, "connect_timeout": float,
    "timeout": float, "max_idle": float, "max_lifetime": float, "schema": str, "application_name": str,
    "prepared_statements": bool, "ssl": bool | str, "direct_url": str,
    "vector_index": Literal["exact", "hnsw", "ivfflat"], "replicas": str | _URLS, "read_your_writes": bool, "max_staleness": float,
}  # fmt: skip
_REDIS: Final = {
    "db": int, "username": str, "password": str, "sentinel_username": str, "sentinel_password": str, "pool": int, "socket_timeout": float, "acquire_timeout": float,
    "max_idle": float, "max_lifetime": float, "cluster": bool, "prefix": str, "turn_window": int, "turn_ttl": float, "refresh_ttl_on_read": bool,
    "ssl_ca_certs": str, "ssl_certfile": str, "ssl_keyfile": str, "ssl_password": str, "ssl_cert_reqs": str,
    "ssl_check_hostname": bool,
}  # fmt: skip
ENGINE_OPTIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "memory": {},
    "file": {"autosave": bool},
    "sqlite": {"durability": Literal["full", "normal"], "cache_mb": int},
    **dict.fromkeys(("postgresql", "postgres"), _POSTGRES),
    **dict.fromkeys(
        ("redis", "rediss", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel"), _REDIS
    ),
    **dict.fromkeys(("qdrant", "neo4j", "bolt", "typesense", "elasticsearch"), _SERVER),
}
DEFAULTS: Final[Mapping[str, object]] = {
    "memory.tenant": "default",
    "memory.language": "english",
    "memory.embed": "static",
    "logging.json": False,
}


class Row(NamedTuple):
    """One line of `polymem config`: the value is masked."""

    key: str
    value: object
    origin: str


class Value(NamedTuple):
    """A setting as given, with where it comes from."""

    value: Any
    origin: str


@dataclass(frozen=True, slots=True, repr=False)
class EngineConfig:
    """One named engine and the layers over it. `sweep_every` is in seconds, None is off; `options` are the engine's."""

    name: str
    url: str
    sweep_every: float | None = 60.0
    retry_writes: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    cache: CachePolicy | None = None
    compression: Mapping[str, int] | None = None
    encryption: EncryptionConfig | None = None
    metrics: MetricsOptions = field(default_factory=MetricsOptions)

    def __repr__(self) -> str:
        return f"<EngineConfig {self.name} {masked('url', self.url)}>"


@dataclass(frozen=True, slots=True)
class MemoryConfig:
    """What `polymem.Memory` starts from; `embed` is "static" (the offline model) or "none" (text alone)."""

    tenant: str = "default"
    language: str = "english"
    embed: Literal["static", "none"] = "static"


@dataclass(frozen=True, slots=True)
class Logging:
    """What the command line logs to standard error; no level: nothing."""

    level: Level | None = None
    json: bool = False


@dataclass(frozen=True, slots=True, repr=False)
class Providers:
    """Keys of model providers."""

    anthropic_api_key: str | None = None
    openai_api_key: str | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Config:
    """Everything that is configured. `routes` holds what is not served by the default engine, by "section.name"."""

    engine: str | None
    """The name of the default engine; None where no engine is configured."""
    engines: Mapping[str, EngineConfig]
    routes: Mapping[str, str]
    memory: MemoryConfig
    providers: Providers
    logging: Logging
    values: Mapping[str, Value]
    ignored: tuple[str, ...] = ()
    """POLYMEM_* variables that mean nothing here."""

    def __repr__(self) -> str:
        return f"<Config engine={self.engine} of {', '.join(self.engines) or 'none'}>"

    def describe(self) -> list[Row]:
        """Every setting in order of its key, masked, with its origin."""
        return [Row(key, masked(key, value), origin) for key, (value, origin) in sorted(self.values.items())]

    def named(self, name: str) -> EngineConfig:
        """The engine of that name; StorageDataError if there is none."""
        if name not in self.engines:
            there = ", ".join(self.engines) or "none"
            raise StorageDataError(f"no engine of this name is configured; there are: {there}", field="name")
        return self.engines[name]

    def only(self) -> EngineConfig:
        """The engine that serves everything.

        StorageDataError where none is configured, StorageUnsupportedError where several share the work.
        """
        if self.engine is None:
            raise StorageDataError(
                "no engine is named: give a URL such as sqlite:///agent.db, set POLYMEM_URL, or write polymem.toml "
                "(polymem init)", field="url",
            )  # fmt: skip
        for route, name in self.routes.items():
            if name != self.engine:
                raise StorageUnsupportedError(
                    f"{route} is served by engine {name} and the rest by {self.engine}: one store over several engines "
                    "is not part of this version; open each with StorageFactory(config).create_backend(name)"
                )
        return self.named(self.engine)
