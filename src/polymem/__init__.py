"""Polymem: the storage layer for AI agents.

Importing the package loads nothing but the standard library; every name is loaded when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    "MetricsAggregator": "polymem.core.aggregates",
    "MetricsCollector": "polymem.core.metrics",
    "OperationTimer": "polymem.core.operation_timer",
    "Storage": "polymem.storage",
    "Store": "polymem.store",
    "configure_logging": "polymem.logs",
    "open": "polymem.config",
}
__all__ = [
    "F",
    "Memory",
    "MetricsAggregator",
    "MetricsCollector",
    "OperationTimer",
    "Storage",
    "Store",
    "configure_logging",
    "open",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'polymem' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
