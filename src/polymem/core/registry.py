"""Which engine serves a URL: found by its scheme, imported only when used."""

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Final

from polymem.core.engine import Engine
from polymem.errors import StorageDataError, StorageUnsupportedError

Factory = Callable[..., Engine]
GROUP: Final = "polymem.engines"
_BUILT_IN: Final = {
    "memory": ("polymem.engines.memory.engine:from_url", None),
    "sqlite": ("polymem.engines.sqlite.engine:from_url", None),
    "file": ("polymem.engines.json_file.engine:from_url", None),
}
_PLANNED: Final = {
    "postgresql": "postgres", "postgres": "postgres", "redis": "redis", "rediss": "redis", "qdrant": "qdrant",
    "neo4j": "neo4j", "bolt": "neo4j", "typesense": "typesense", "elasticsearch": "elasticsearch",
    "opensearch": "elasticsearch", "s3": "s3",
}  # fmt: skip


def scheme_of(url: str) -> str:
    """The scheme of an engine URL such as `sqlite:///agent.db`."""
    scheme, colon, _ = url.partition(":") if isinstance(url, str) else ("", "", "")
    if not colon or not scheme.replace("+", "").isalnum():
        raise StorageDataError("expected a URL such as sqlite:///agent.db or memory:", field="url")
    return scheme.lower()


def schemes() -> list[str]:
    """Every scheme that can be opened here, third parties' included."""
    return sorted({*_BUILT_IN, *(point.name for point in entry_points(group=GROUP))})


def create_engine(url: str, **options: Any) -> Engine:
    """The engine for a URL, not yet open. Third parties register a factory as an entry point `polymem.engines`."""
    return _factory(scheme_of(url))(url, **options)


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
