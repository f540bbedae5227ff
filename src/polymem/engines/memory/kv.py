"""Key-value records in a dict (KV-1 to KV-4)."""

from polymem.contracts.kv import KVFeatures
from polymem.engines._tables.kv import KVTable, TableKV
from polymem.engines._tables.views import View

__all__ = ["KVTable", "MemoryKV"]


class MemoryKV(TableKV):
    """The records of one namespace, for as long as the engine is open."""

    __slots__ = ()

    def __init__(self, view: View, namespace: str) -> None:
        super().__init__(view, namespace, KVFeatures(durable=False))
