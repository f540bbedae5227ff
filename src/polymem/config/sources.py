"""Where settings come from: each source is a flat mapping of "section.key" to a value with its origin."""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from polymem.config.schema import ENGINE_KEYS, ENGINE_OPTIONS, LAYER_TABLES, SECTIONS, Value
from polymem.errors import StorageDataError

PREFIX: Final = "POLYMEM_"
FALLBACKS: Final = {
    "POSTGRES_URL": "engines.postgres.url",
    "POSTGRES_POOL_SIZE": "engines.postgres.pool_size",
    "REDIS_URL": "engines.redis.url",
    "QDRANT_URL": "engines.qdrant.url",
    "NEO4J_URL": "engines.neo4j.url",
    "NEO4J_USER": "engines.neo4j.user",
    "NEO4J_PASSWORD": "engines.neo4j.password",
    "TYPESENSE_URL": "engines.typesense.url",
    "TYPESENSE_API_KEY": "engines.typesense.api_key",
    "ANTHROPIC_API_KEY": "providers.anthropic_api_key",
    "OPENAI_API_KEY": "providers.openai_api_key",
}
"""CFG-2. One that belongs to an engine counts only where the configuration names that engine."""
_SECTION_DEPTH: Final = 2
"""[engines.local] is the deepest table but for those of its layers; others are values, and of the wrong type."""
_OPTIONS: Final = sorted(
    {*ENGINE_KEYS, *(o for options in ENGINE_OPTIONS.values() for o in options)}, key=len, reverse=True
)


class Variables(NamedTuple):
    """The settings in some variables, and the names of those that mean nothing."""

    settings: dict[str, Value]
    ignored: tuple[str, ...]


def read_toml(path: Path) -> dict[str, Value]:
    """The settings of a file; StorageDataError that names it where it is missing, unreadable or not TOML."""
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StorageDataError(f"{path}: not valid TOML: {_position(error)}", field="config") from None
    except OSError as error:
        raise StorageDataError(f"{path}: {error.strerror}", field="config") from error
    return dict(_flat(content, str(path), ()))


def read_variables(variables: Mapping[str, str], origin: str) -> Variables:
    """POLYMEM_URL, POLYMEM_ENGINE, POLYMEM_<SECTION>_<KEY> and POLYMEM_ENGINES_<NAME>_<OPTION>.

    A variable that belongs to no section is left alone, as other software sets such names too.
    """
    settings, ignored = {}, []
    for name in sorted(name for name in variables if name.startswith(PREFIX)):
        key = _key_of(name.removeprefix(PREFIX).lower())
        if key is None:
            ignored.append(name)
        else:
            settings[key] = Value(variables[name], f"{origin} {name}")
    return Variables(settings, tuple(ignored))


def read_arguments(arguments: Mapping[str, object]) -> dict[str, Value]:
    """Settings by dotted key; None stands for not given."""
    return {key: Value(value, "argument") for key, value in arguments.items() if value is not None}


def fallbacks(variables: Mapping[str, str], origin: str) -> dict[str, Value]:
    """The variables of CFG-2 that are set."""
    return {key: Value(variables[name], f"{origin} {name}") for name, key in FALLBACKS.items() if variables.get(name)}


def _flat(content: Mapping[str, Any], origin: str, path: tuple[str, ...]) -> Iterator[tuple[str, Value]]:
    for key, value in content.items():
        if "." in key:
            raise StorageDataError(f"{origin}: {'.'.join((*path, key))}: unknown key", field=".".join((*path, key)))
        if isinstance(value, dict) and _is_table((*path, key), value):
            yield from _flat(value, origin, (*path, key))
        else:
            yield ".".join((*path, key)), Value(value, origin)


def _is_table(path: tuple[str, ...], content: Mapping[str, Any]) -> bool:
    """An empty one of a layer would be overlooked, so it is not one."""
    of_layer = path[0] == "engines" and ".".join(path[_SECTION_DEPTH:]) in LAYER_TABLES
    return len(path) <= _SECTION_DEPTH or (of_layer and bool(content))


def _key_of(name: str) -> str | None:
    if name in ("url", "engine"):
        return name
    section, _, key = name.partition("_")
    if section == "engines":
        return _engine_key(key)
    return f"{section}.{key}" if section in SECTIONS and key else None


def _engine_key(name: str) -> str:
    """Engine names and options both may hold _, so the option is told by its end."""
    for option in _OPTIONS:
        ending = f"_{option.replace('.', '_')}"
        if name.endswith(ending) and name != ending:
            return f"engines.{name.removesuffix(ending)}.{option}"
    return f"engines.{name}"


def _position(error: ValueError) -> str:
    """Where, and not what: the text of the error may quote the file."""
    where = str(error).rpartition("(at ")[2].rstrip(")")
    return f"at {where}" if where.startswith("line ") else "wrong encoding or unexpected end"
