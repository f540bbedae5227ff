"""Polymem: the storage layer for AI agents.

Importing the package loads nothing but the standard library; every name is loaded when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polymem import blocking, errors
    from polymem.adapters.adapter import StorageAdapter
    from polymem.adapters.embedded import MemoryAdapter, SqliteAdapter
    from polymem.adapters.postgres import PostgresAdapter
    from polymem.adapters.redis import RedisAdapter
    from polymem.adapters.validation import validate_field_types, validate_required_fields
    from polymem.config import open
    from polymem.contracts.filter import F
    from polymem.core.aggregates import MetricsAggregator
    from polymem.core.metrics import MetricsCollector
    from polymem.core.operation_timer import OperationTimer
    from polymem.logs import configure_logging
    from polymem.memory.memory import Memory
    from polymem.storage import Storage
    from polymem.store import Store

__version__ = "0.1.0"

_HOMES = {
    "F": "polymem.contracts.filter",
    "Memory": "polymem.memory.memory",
    "MemoryAdapter": "polymem.adapters.embedded",
    "MetricsAggregator": "polymem.core.aggregates",
    "MetricsCollector": "polymem.core.metrics",
    "OperationTimer": "polymem.core.operation_timer",
    "PostgresAdapter": "polymem.adapters.postgres",
    "RedisAdapter": "polymem.adapters.redis",
    "SqliteAdapter": "polymem.adapters.embedded",
    "Storage": "polymem.storage",
    "StorageAdapter": "polymem.adapters.adapter",
    "Store": "polymem.store",
    "configure_logging": "polymem.logs",
    "open": "polymem.config",
    "validate_field_types": "polymem.adapters.validation",
    "validate_required_fields": "polymem.adapters.validation",
}
_MODULES = ("blocking", "errors")
__all__ = [
    "F",
    "Memory",
    "MemoryAdapter",
    "MetricsAggregator",
    "MetricsCollector",
    "OperationTimer",
    "PostgresAdapter",
    "RedisAdapter",
    "SqliteAdapter",
    "Storage",
    "StorageAdapter",
    "Store",
    "blocking",
    "configure_logging",
    "errors",
    "open",
    "validate_field_types",
    "validate_required_fields",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"polymem.{name}")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'polymem' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_MODULES})
