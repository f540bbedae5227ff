"""From sources to one checked `Config`."""

import os
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from polymem.config.checking import Settings, build, checked
from polymem.config.schema import DEFAULTS, ROUTES, Config, Value
from polymem.config.sources import fallbacks, read_arguments, read_toml, read_variables
from polymem.core.registry import scheme_of
from polymem.errors import StorageDataError

FILE_NAME: Final = "polymem.toml"
DEFAULT_ENGINE: Final = "default"
"""The name of the engine that a bare URL stands for."""
_NOTHING: Final[Mapping[str, str]] = types.MappingProxyType({})


def load(
    path: str | Path | None = None,
    *,
    env: Mapping[str, str] | None = None,
    dotenv: Mapping[str, str] = _NOTHING,
    arguments: Mapping[str, object] | None = None,
) -> Config:
    """The configuration from defaults, a file, `dotenv`, the environment and `arguments`, later wins.

    `path` must exist if given; otherwise `./polymem.toml` is read if it is there. `env` is `os.environ` unless given.
    `arguments` go by dotted key, such as {"memory.tenant": "acme"}; None is not given. A `url` from POLYMEM_URL or the
    arguments is the one engine for everything, whatever the file says about engines. Unknown and missing keys and
    wrong types raise `StorageDataError` naming key and file.
    """
    file = _file(path)
    return _load({} if file is None else read_toml(file), env, dotenv, arguments)


def resolve(
    source: str | Path | None = None,
    *,
    env: Mapping[str, str] | None = None,
    dotenv: Mapping[str, str] = _NOTHING,
    arguments: Mapping[str, object] | None = None,
) -> Config:
    """The configuration behind what `polymem.open` takes: a URL (no file is read), a .toml path, or None: `load()`."""
    if source is None or _is_file(source):
        return load(source, env=env, dotenv=dotenv, arguments=arguments)
    if not isinstance(source, str):
        raise StorageDataError("expected a URL such as sqlite:///agent.db or a path that ends in .toml", field="url")
    scheme_of(source)
    return _load({}, env, dotenv, {**(arguments or {}), "url": source})


def _is_file(source: str | Path) -> bool:
    return str(source).endswith(".toml") and "://" not in str(source)


def _file(path: str | Path | None) -> Path | None:
    if path is not None:
        return Path(path).expanduser()
    return Path(FILE_NAME) if Path(FILE_NAME).is_file() else None


def _load(
    settings: Settings,
    env: Mapping[str, str] | None,
    dotenv: Mapping[str, str],
    arguments: Mapping[str, object] | None,
) -> Config:
    env = os.environ if env is None else env
    (from_file, ignored_there), (from_env, ignored) = (
        read_variables(dotenv, ".env"),
        read_variables(env, "environment"),
    )
    for layer in (from_file, from_env, read_arguments(arguments or {})):
        settings = _over(settings, layer)
    settings = _with_fallbacks(settings, {**fallbacks(dotenv, ".env"), **fallbacks(env, "environment")})
    defaults = {key: Value(value, "default") for key, value in DEFAULTS.items()}
    return build(checked({**defaults, **settings}), tuple(sorted({*ignored_there, *ignored})), {**dotenv, **env})


def _over(settings: Settings, layer: Settings) -> Settings:
    if "url" not in layer:
        return {**settings, **layer}
    kept = {key: value for key, value in settings.items() if not _about_engines(key)}
    url = layer["url"]
    named = {f"engines.{DEFAULT_ENGINE}.url": url, "engine": Value(DEFAULT_ENGINE, url.origin)}
    return {**kept, **{key: value for key, value in layer.items() if key != "url"}, **named}


def _about_engines(key: str) -> bool:
    """What a bare URL replaces; other named engines stay available to `StorageFactory`."""
    section, _, rest = key.partition(".")
    return section in ("engine", *ROUTES) or (section == "engines" and rest.startswith(f"{DEFAULT_ENGINE}."))


def _with_fallbacks(settings: Settings, found: Settings) -> Settings:
    named = {key.split(".")[1] for key in settings if key.startswith("engines.")}
    named |= {str(v.value) for key, v in settings.items() if key == "engine" or key.split(".")[0] in ROUTES}
    wanted = {k: v for k, v in found.items() if not k.startswith("engines.") or k.split(".")[1] in named}
    return {**wanted, **settings}
