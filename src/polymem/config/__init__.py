"""Typed configuration (CFG-1, CFG-2) and the two ways to an engine: `open` and `StorageFactory`.

Later wins: defaults, `polymem.toml`, `.env` (read by the command line only), the environment, arguments.
"""

from polymem.config.loading import load, resolve
from polymem.config.opening import StorageFactory, open, store_of
from polymem.config.schema import Config, EngineConfig, Logging, MemoryConfig, Providers, Row

__all__ = [
    "Config", "EngineConfig", "Logging", "MemoryConfig", "Providers", "Row", "StorageFactory", "load", "open", "resolve", "store_of",
]  # fmt: skip
