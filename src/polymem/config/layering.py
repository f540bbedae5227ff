"""What lies over an engine as its settings say: cache, compression, encryption; and what is measured of it."""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from polymem.config.schema import Value
from polymem.config.secrets import EncryptionConfig, Secret
from polymem.core.metrics_options import MetricsOptions
from polymem.errors import StorageDataError
from polymem.layers._cache_policy import CachePolicy

Made = TypeVar("Made")
Settings = Mapping[str, Value]


def cache_of(engine: str, settings: Settings) -> CachePolicy | None:
    """The policy; None where the engine has none, or where `cache = false` switches it off."""
    switch, given = _layer(f"{engine}.cache", settings)
    if not switch and (switch is False or not given):
        return None
    options: dict[str, Any] = {name: value.value for name, value in given.items()}
    if type(switch) is int:
        options = {"max_entries": switch, **options}
    return _made(CachePolicy, options, f"{engine}.cache", settings)


def metrics_of(engine: str, settings: Settings) -> MetricsOptions:
    """What is measured; everything where nothing is said of it."""
    switch, given = _layer(f"{engine}.metrics", settings)
    options: dict[str, Any] = {name: value.value for name, value in given.items()}
    if switch is False:
        options["enabled"] = False
    return _made(MetricsOptions, options, f"{engine}.metrics", settings)


def compression_of(engine: str, settings: Settings) -> Mapping[str, int] | None:
    """The options of the compression, {} for those it has by itself; None where there is none."""
    switch, given = _layer(f"{engine}.compression", settings)
    if not switch and (switch is False or not given):
        return None
    return {name: value.value for name, value in given.items()}


def encryption_of(engine: str, settings: Settings, variables: Mapping[str, str]) -> EncryptionConfig | None:
    """The keys and where they are kept; None where nothing is encrypted."""
    section = f"{engine}.encryption"
    _, given = _layer(section, settings)
    if not given:
        return None
    keys = {
        name.removeprefix("keys."): _secret(f"{section}.{name}", value, variables)
        for name, value in given.items() if name.startswith("keys.")
    }  # fmt: skip
    names = _secret(f"{section}.names", given["names"], variables) if "names" in given else None
    any_of_them = next(iter(given.values()))
    current = given.get("current", any_of_them)
    if "current" not in given or current.value not in keys:
        there = ", ".join(keys) or "none"
        refuse(f"{section}.current", current, f"expected the id of a key in {section}.keys; there are: {there}")
    hide_keys = given.get("hide_keys", any_of_them)
    hides = "hide_keys" in given and bool(hide_keys.value)
    if hides and names is None:
        refuse(f"{section}.names", hide_keys, "missing; hide_keys needs a secret of its own, env:NAME or file:PATH")
    return EncryptionConfig(current.value, keys, names, hides)


def _made(make: Callable[..., Made], options: Mapping[str, Any], key: str, settings: Settings) -> Made:
    """What the options make; where they make no sense, the setting to blame is named."""
    try:
        return make(**options)
    except StorageDataError as error:
        blamed = f"{key}.{str(error.field).rpartition('.')[2]}"
        given = settings.get(blamed) or settings.get(key) or settings[f"{key}.{next(iter(options))}"]
        refuse(blamed, given, str(error.args[0]))


def _secret(key: str, value: Value, variables: Mapping[str, str]) -> Secret:
    return Secret(value.value, key, value.origin, variables)


def _layer(key: str, settings: Settings) -> tuple[bool | int | None, dict[str, Value]]:
    """What switches a layer on or off, None where nothing does, and its settings by name."""
    switch, prefix = settings.get(key), f"{key}."
    given = {name.removeprefix(prefix): value for name, value in settings.items() if name.startswith(prefix)}
    return None if switch is None else switch.value, given


def refuse(key: str, given: Value, expected: str) -> NoReturn:
    raise StorageDataError(f"{given.origin}: {key}: {expected}", field=key)
