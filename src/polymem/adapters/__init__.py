"""Four verbs over any database: `store`, `retrieve`, `search`, `delete` (ADP-1)."""

from polymem.adapters.adapter import StorageAdapter
from polymem.adapters.embedded import MemoryAdapter, SqliteAdapter
from polymem.adapters.postgres import PostgresAdapter
from polymem.adapters.redis import RedisAdapter
from polymem.adapters.validation import validate_field_types, validate_required_fields

__all__ = [
    "MemoryAdapter",
    "PostgresAdapter",
    "RedisAdapter",
    "SqliteAdapter",
    "StorageAdapter",
    "validate_field_types",
    "validate_required_fields",
]
