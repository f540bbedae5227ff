"""Every key known, every value of its type, every engine that is named there; then the typed `Config`."""

import math
import re
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, NoReturn

import msgspec

from polymem.config.layering import cache_of, compression_of, encryption_of, metrics_of, refuse
from polymem.config.schema import (
    ENGINE_KEYS,
    ENGINE_OPTIONS,
    LAYER_KEYS,
    LAYER_TABLES,
    NUMBERS,
    ROUTES,
    SECTIONS,
    Config,
    EngineConfig,
    Logging,
    MemoryConfig,
    Providers,
    Value,
)
from polymem.core.registry import scheme_of
from polymem.errors import StorageDataError

Settings = dict[str, Value]
_ENGINE_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
_KEY: Final = re.compile(r"encryption\.keys\.[A-Za-z0-9_-]{1,16}")
_PLAIN: Final = str | int | float | bool
_WORDS: Final[dict[Any, str]] = {
    str: "a string", bool: "true or false", int: "a whole number", float: "a number",
    _PLAIN: "a string, a number, true or false",
}  # fmt: skip


def checked(settings: Settings) -> Settings:
    """The settings in their types; StorageDataError names the first key that is wrong, and where it is."""
    return {
        key: Value(_converted(key, given, _type_of(key, given, settings)), given.origin)
        for key, given in settings.items()
    }


def _type_of(key: str, given: Value, settings: Settings) -> Any:
    section, _, name = key.partition(".")
    if key == "engine":
        return str
    if section == "engines":
        return _engine_type(key, given, settings)
    known = SECTIONS.get(section)
    if known is None:
        refuse(key, given, f"unknown key; expected engine, engines.<name>, {', '.join(SECTIONS)}")
    if name not in known:
        refuse(key, given, f"unknown key; expected {', '.join(f'{section}.{one}' for one in known)}")
    return known[name]


def _engine_type(key: str, given: Value, settings: Settings) -> Any:
    _, _, rest = key.partition(".")
    name, _, option = rest.partition(".")
    if not _ENGINE_NAME.fullmatch(name) or not option:
        refuse(
            key,
            given,
            "unknown key; expected engines.<name>.<key>, the name in lower case letters, digits and _",
        )
    if option in ENGINE_KEYS:
        return ENGINE_KEYS[option]
    if _KEY.fullmatch(option):
        return str
    if option.partition(".")[0] in LAYER_TABLES:
        _refuse_layer(key, given, option.partition(".")[0])
    url = settings.get(f"engines.{name}.url")
    known = ENGINE_OPTIONS.get(_scheme(f"engines.{name}.url", url)) if url else {}
    if known is None:  # an engine of a third party, which checks its options itself
        return _PLAIN
    if option not in known:
        refuse(key, given, f"unknown key; expected one of {', '.join((*_outermost(ENGINE_KEYS), *known))}")
    return known[option]


def _outermost(options: Iterable[str]) -> dict[str, None]:
    return dict.fromkeys(option.partition(".")[0] for option in options)


def _refuse_layer(key: str, given: Value, layer: str) -> NoReturn:
    known = [option for option in LAYER_KEYS if option.partition(".")[0] == layer]
    ids = ["encryption.keys.<id>, with up to 16 letters, digits, _ and -"] if layer == "encryption" else []
    refuse(key, given, f"unknown key; expected one of {', '.join([*known, *ids])}")


def _scheme(key: str, url: Value) -> str:
    try:
        return scheme_of(url.value)
    except StorageDataError:
        refuse(key, url, "expected a URL such as sqlite:///agent.db or memory:")


def _converted(key: str, given: Value, kind: Any) -> Any:
    """The value in its type; only variables, which are always text, are converted."""
    text = given.origin.startswith(("environment ", ".env "))
    raw = given.value.split(",") if text and kind is NUMBERS else given.value
    try:
        value = msgspec.convert(raw, kind, strict=not text)
    except msgspec.ValidationError:
        refuse(key, given, f"expected {_expected(kind)}")
    if isinstance(value, float) and not math.isfinite(value) and not key.endswith(".max_staleness"):
        refuse(key, given, "expected a finite number")
    return value


def _expected(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(typing.get_args(kind))}"
    if kind in _WORDS:
        return _WORDS[kind]
    if typing.get_origin(kind) is typing.Annotated:
        return str(kind.__metadata__[0].description)
    return " or ".join(_expected(one) for one in typing.get_args(kind) if one is not type(None))


def build(settings: Settings, ignored: tuple[str, ...], variables: Mapping[str, str]) -> Config:
    """The configuration that checked settings make up; `variables` are those that secrets may be in."""
    names = sorted({key.split(".")[1] for key in settings if key.startswith("engines.")})
    engines = {name: _engine(name, settings, variables) for name in names}
    routes = {key: value.value for key, value in settings.items() if key.split(".")[0] in ROUTES}
    engine = _default_engine(settings, engines)
    for key in ("engine", *routes):
        if key in settings and settings[key].value not in engines:
            refuse(
                key,
                settings[key],
                f"expected the name of an engine; there are: {', '.join(engines) or 'none'}",
            )
    return Config(
        engine, engines, routes, MemoryConfig(**_section("memory", settings)), Providers(**_section("providers", settings)),
        Logging(**_section("logging", settings)), settings, ignored,
    )  # fmt: skip


def _default_engine(settings: Settings, engines: Mapping[str, EngineConfig]) -> str | None:
    if "engine" in settings:
        name: str = settings["engine"].value
        return name
    if len(engines) > 1:
        origin = next(value.origin for key, value in settings.items() if key.startswith("engines."))
        refuse("engine", Value(None, origin), f"missing; expected the default among {', '.join(engines)}")
    return next(iter(engines), None)


def _engine(name: str, settings: Settings, variables: Mapping[str, str]) -> EngineConfig:
    section = f"engines.{name}"
    given = _section(section, settings)
    if "url" not in given:
        origin = next(value.origin for key, value in settings.items() if key.startswith(f"engines.{name}."))
        refuse(f"engines.{name}.url", Value(None, origin), "missing; expected a URL such as sqlite:///agent.db")
    sweep_every = given.get("sweep_every", 60.0)
    if sweep_every < 0:
        refuse(
            f"engines.{name}.sweep_every",
            settings[f"engines.{name}.sweep_every"],
            "expected seconds, 0 for never",
        )
    options = {key: value for key, value in given.items() if key not in ENGINE_KEYS and not _KEY.fullmatch(key)}
    return EngineConfig(
        name, given["url"], sweep_every or None, given.get("retry_writes", True), options,
        cache_of(section, settings), compression_of(section, settings), encryption_of(section, settings, variables),
        metrics_of(section, settings),
    )  # fmt: skip


def _section(section: str, settings: Settings) -> dict[str, Any]:
    prefix = f"{section}."
    return {key.removeprefix(prefix): value.value for key, value in settings.items() if key.startswith(prefix)}
