"""The layers of an engine as its settings say: cache, compression, encryption."""

from collections.abc import Mapping
from typing import Any, NoReturn

from polymem.config.schema import Value
from polymem.config.secrets import EncryptionConfig, Secret
from polymem.errors import StorageDataError
from polymem.layers._cache_policy import CachePolicy

Settings = Mapping[str, Value]


def cache_of(engine: str, settings: Settings) -> CachePolicy | None:
    """The policy; None where the engine has none, or where `cache = false` switches it off."""
    switch, given = _layer(f"{engine}.cache", settings)
    if not switch and (switch is False or not given):
        return None
    options: dict[str, Any] = {name: value.value for name, value in given.items()}
    if type(switch) is int:
        options = {"max_entries": switch, **options}
    try:
        return CachePolicy(**options)
    except StorageDataError as error:
        blamed = given.get(str(error.field)) or settings.get(f"{engine}.cache") or next(iter(given.values()))
        refuse(f"{engine}.cache.{error.field}", blamed, str(error.args[0]))


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


def _secret(key: str, value: Value, variables: Mapping[str, str]) -> Secret:
    return Secret(value.value, key, value.origin, variables)


def _layer(key: str, settings: Settings) -> tuple[bool | int | None, dict[str, Value]]:
    """What switches a layer on or off, None where nothing does, and its settings by name."""
    switch, prefix = settings.get(key), f"{key}."
    given = {name.removeprefix(prefix): value for name, value in settings.items() if name.startswith(prefix)}
    return None if switch is None else switch.value, given


def refuse(key: str, given: Value, expected: str) -> NoReturn:
    raise StorageDataError(f"{given.origin}: {key}: {expected}", field=key)
