"""Which engine serves a URL: found by its scheme, imported only when used."""

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Final
from urllib.parse import urlsplit

from polymem.core.engine import Engine
from polymem.errors import StorageDataError, StorageUnsupportedError

Factory = Callable[..., Engine]
GROUP: Final = "polymem.engines"
_BUILT_IN: Final = {
    "memory": ("polymem.engines.memory.engine:from_url", None),
    "sqlite": ("polymem.engines.sqlite.engine:from_url", None),
    "file": ("polymem.engines.json_file.engine:from_url", None),
    "redis": ("polymem.engines.redis.engine:from_url", "redis"),
    "rediss": ("polymem.engines.redis.engine:from_url", "redis"),
    "redis+cluster": ("polymem.engines.redis.engine:from_url", "redis"),
    "rediss+cluster": ("polymem.engines.redis.engine:from_url", "redis"),
    "redis+sentinel": ("polymem.engines.redis.engine:from_url", "redis"),
    "rediss+sentinel": ("polymem.engines.redis.engine:from_url", "redis"),
    "postgresql": ("polymem.engines.postgres.engine:from_url", "postgres"),
    "postgres": ("polymem.engines.postgres.engine:from_url", "postgres"),
}
_PLANNED: Final = {
    "qdrant": "qdrant",
    "neo4j": "neo4j", "bolt": "neo4j", "typesense": "typesense", "elasticsearch": "elasticsearch",
    "opensearch": "elasticsearch", "s3": "s3",
}  # fmt: skip

_WITHOUT_CLIENT: Final = {
    "memory": "it has no connections; share the store",
    "sqlite": (
        "a connection is used by one thread and one transaction at a time, so a shared one could commit what is not "
        "finished; give the path of a file of its own, sqlite:///path, which other apsw connections may open as well"
    ),
    "file": "one process and one store own the file; share the store",
}
"""Engines that make their own connections, and what to do instead of handing one in."""


def scheme_of(url: str) -> str:
    """The scheme of an engine URL such as `sqlite:///agent.db`."""
    scheme, colon, _ = url.partition(":") if isinstance(url, str) else ("", "", "")
    if not colon or not scheme.replace("+", "").isalnum() or not _is_whole(url):
        raise StorageDataError("expected a URL such as sqlite:///agent.db or memory:", field="url")
    return scheme.lower()


def _is_whole(url: str) -> bool:
    """Whether its parts can be told apart: brackets around an address must be closed."""
    try:
        urlsplit(url)
    except ValueError:
        return False
    return True


def schemes() -> list[str]:
    """Every scheme that can be opened here, third parties' included."""
    return sorted({*_BUILT_IN, *(point.name for point in entry_points(group=GROUP))})


def create_engine(url: str, **options: Any) -> Engine:
    """The engine for a URL, not yet open. Third parties register a factory as an entry point `polymem.engines`."""
    scheme = scheme_of(url)
    if scheme in _WITHOUT_CLIENT and options.pop("client", None) is not None:
        raise StorageUnsupportedError(f"{scheme} takes no client: {_WITHOUT_CLIENT[scheme]}")
    return _factory(scheme)(url, **options)


def _factory(scheme: str) -> Factory:
    if scheme in _BUILT_IN:
        target, extra = _BUILT_IN[scheme]
        return _load(target, extra)
    for point in entry_points(group=GROUP, name=scheme):
        factory: Factory = point.load()
        return factory
    if scheme in _PLANNED:
        raise StorageUnsupportedError(
            f"the {_PLANNED[scheme]} engine is not part of this version; there are: {', '.join(schemes())}"
        )
    raise StorageDataError(f"no engine for this scheme; there are: {', '.join(schemes())}", field="url")


def _load(target: str, extra: str | None) -> Factory:
    module, _, name = target.partition(":")
    try:
        factory: Factory = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("polymem"):
            raise
        wanted = f"polymem[{extra}]" if extra else "polymem"
        raise StorageUnsupportedError(f"{error.name} is missing: pip install '{wanted}'") from error
    return factory
