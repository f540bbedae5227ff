"""From configuration to a store."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from polymem.config.loading import load, resolve
from polymem.config.schema import Config, EngineConfig
from polymem.contracts.drivers import Layer
from polymem.core.clock import Clock
from polymem.core.metrics_options import MetricsOptions
from polymem.core.registry import create_engine
from polymem.core.retry import RetryPolicy
from polymem.errors import StorageDataError
from polymem.opened import Session
from polymem.store import Store

if TYPE_CHECKING:
    from polymem.layers.cache import CachePolicy
    from polymem.layers.compression import Compression
    from polymem.layers.encryption import Encryption, Keyring


class _Configured:
    """The mark of an argument that was not given, so that the configuration decides."""

    def __repr__(self) -> str:
        return "<as configured>"


CONFIGURED: Final = _Configured()


def open(
    url: str | Path | None = None,
    *,
    clock: Clock | None = None,
    sweep_every: float | _Configured | None = CONFIGURED,
    retry_writes: bool | _Configured = CONFIGURED,
    compression: "Compression | bool | _Configured" = CONFIGURED,
    encryption: "Encryption | Keyring | _Configured | None" = CONFIGURED,
    cache: "CachePolicy | int | _Configured | None" = CONFIGURED,
    metrics: MetricsOptions | Mapping[str, Any] | bool | _Configured = CONFIGURED,
    **options: Any,
) -> Store:
    """A store, not open yet: `store = await polymem.open(url)` or `async with polymem.open(url) as store`.

    `url` is an engine's URL such as `sqlite:///agent.db` or `memory:`, or the path of a .toml file; without one
    POLYMEM_URL or `./polymem.toml` says which. Expired records are removed every `sweep_every` seconds (60 unless
    configured otherwise; None or 0: never). With `retry_writes` (the default) an idempotent write whose outcome is
    unknown is repeated. `compression` and `encryption` put layers over the engine; values are compressed before
    they are encrypted. `cache` (a CachePolicy, a number of entries, or True) puts a near cache over all of it. What
    is not given is as configured. `metrics` takes the options of `MetricsOptions`; False measures nothing. Further
    options are the engine's: sqlite has `durability` and `cache_mb`. Raises
    StorageDataError for a bad URL, option or configuration, StorageUnsupportedError for an engine that is not there.
    """
    return store_of(
        resolve(url).only(), clock=clock, sweep_every=sweep_every, retry_writes=retry_writes, compression=compression,
        encryption=encryption, cache=cache, metrics=metrics, **options,
    )  # fmt: skip


class StorageFactory:
    """Builds the engines that a configuration names (`load()` unless one is given)."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or load()

    def create_backend(self, name: str | None = None, **options: Any) -> Store:
        """A store, not open yet, on the engine of that name; without one on the engine that serves everything."""
        found = self.config.only() if name is None else self.config.named(name)
        return store_of(found, **options)


def store_of(
    engine: EngineConfig,
    *,
    clock: Clock | None = None,
    sweep_every: float | _Configured | None = CONFIGURED,
    retry_writes: bool | _Configured = CONFIGURED,
    compression: "Compression | bool | _Configured" = CONFIGURED,
    encryption: "Encryption | Keyring | _Configured | None" = CONFIGURED,
    cache: "CachePolicy | int | _Configured | None" = CONFIGURED,
    metrics: MetricsOptions | Mapping[str, Any] | bool | _Configured = CONFIGURED,
    **options: Any,
) -> Store:
    """A store, not open yet, on one configured engine; arguments win over its configuration."""
    every = engine.sweep_every if isinstance(sweep_every, _Configured) else sweep_every
    writes = engine.retry_writes if isinstance(retry_writes, _Configured) else retry_writes
    if every is not None and (isinstance(every, bool) or not isinstance(every, (int, float)) or not every >= 0):
        raise StorageDataError("expected seconds, None for never", field="sweep_every")
    if not isinstance(writes, bool):
        raise StorageDataError("expected true or false", field="retry_writes")
    given = {"clock": clock, **options} if clock is not None else options
    layers = [*_encrypting(encryption, engine), *_compressing(compression, engine)]
    backend = create_engine(engine.url, **{**engine.options, **given})
    policy = engine.cache if isinstance(cache, _Configured) else cache
    if policy is not None and policy is not False:
        from polymem.layers.cache import CachedEngine  # noqa: PLC0415 - needs an extra

        backend, layers = CachedEngine(backend, policy, layers), []
    retry = RetryPolicy(retry_writes=writes)
    measured = engine.metrics if isinstance(metrics, _Configured) else metrics
    return Store(Session(backend, sweep_every=every or None, retry=retry, layers=layers, metrics=measured))


def _encrypting(encryption: object, engine: EngineConfig) -> list[Layer]:
    if isinstance(encryption, _Configured):
        return [] if engine.encryption is None else [engine.encryption.layer()]
    if encryption is None:
        return []
    from polymem.layers.encryption import Encryption, Keyring  # noqa: PLC0415 - needs an extra

    if isinstance(encryption, Encryption):
        return [encryption]
    if isinstance(encryption, Keyring):
        return [Encryption(encryption)]
    raise StorageDataError("expected a Keyring or an Encryption of polymem.layers.encryption", field="encryption")


def _compressing(compression: object, engine: EngineConfig) -> list[Layer]:
    configured = engine.compression if isinstance(compression, _Configured) else None
    if compression is False or (isinstance(compression, _Configured) and configured is None):
        return []
    from polymem.layers.compression import Compression  # noqa: PLC0415 - needs an extra

    if configured is not None:
        return [Compression(**configured)]
    if compression is True:
        return [Compression()]
    if isinstance(compression, Compression):
        return [compression]
    raise StorageDataError("expected True, False or a Compression of polymem.layers.compression", field="compression")
