"""The engine: opening, closing, namespaces, sweeping, snapshots, and which cells there are."""

import asyncio
import platform
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Final

from polymem.contracts.drivers import Drivers
from polymem.core.clock import Clock, SystemClock
from polymem.core.engine import Health
from polymem.core.page import Page
from polymem.engines._tables.events import expire
from polymem.engines._tables.state import page_of
from polymem.engines._tables.views import CommittedView, View
from polymem.engines.memory import _snapshot
from polymem.engines.memory._check import figures, problems
from polymem.engines.memory._file import read_file, write_file
from polymem.engines.memory.blobs import MemoryBlobs
from polymem.engines.memory.events import MemoryEvents
from polymem.engines.memory.graph import MemoryGraph
from polymem.engines.memory.kv import KVTable, MemoryKV
from polymem.engines.memory.query import MemoryQuery
from polymem.engines.memory.sql import MemorySql, SqlDatabase, translate_sql
from polymem.engines.memory.text import MemoryText
from polymem.engines.memory.transactions import MemoryTransactions
from polymem.engines.memory.turns import MemoryTurns
from polymem.engines.memory.vectors import MemoryVectors
from polymem.errors import StorageDataError, StorageError

_URLS: Final = ("memory:", "memory://")


def from_url(url: str, *, clock: Clock | None = None, **options: Any) -> "MemoryEngine":
    """An engine for `memory:`, each with a state of its own."""
    address, _, query = url.partition("?")
    unknown = [*options, *(part.partition("=")[0] for part in query.split("&") if part)]
    if unknown:
        raise StorageDataError("the memory engine has no such option; it knows: clock", field=unknown[0])
    if address.lower() not in _URLS:
        raise StorageDataError("expected memory: with nothing after it", field="url")
    return MemoryEngine(clock, url)


class MemoryEngine:
    """Everything in this process's memory. Closing forgets all of it: take a snapshot first to keep it."""

    name = "memory"
    remote = False

    def __init__(self, clock: Clock | None = None, url: str | None = None) -> None:
        self.clock: Clock = clock or SystemClock()
        self.url = url or "memory:"
        self._view = CommittedView(self.clock)
        self._transactions = MemoryTransactions(self._view, _cells)

    async def open(self) -> None:
        self._view.open()

    async def close(self) -> None:
        self._view.close()

    def drivers(self, namespace: str, /) -> Drivers:
        events = MemoryEvents(self._view, namespace)
        return replace(_cells(self._view, namespace), transactions=self._transactions, events=events)

    def translate(self, error: Exception, /) -> StorageError | None:
        """Dicts raise nothing of their own: only SQL has errors to translate."""
        return error if isinstance(error, StorageError) else translate_sql(error)

    def changes_elsewhere(self) -> int:
        """Always the same: nobody else can write here."""
        return 0

    async def namespaces(self, prefix: str, after: str | None, limit: int, /) -> Page[str]:
        self._view.check()
        now = self.clock.now()
        held = {
            namespace
            for (kind, namespace), named in self._view.tables.items()
            if kind.counted and namespace.startswith(prefix) and any(table.held(now) for table in named.values())
        }
        return page_of(sorted(name for name in held if after is None or name > after), limit, str)

    async def drop_namespace(self, prefix: str, /) -> int:
        await self._view.writable()
        now, dropped = self.clock.now(), 0
        for kind, namespace in list(self._view.tables):
            if namespace.startswith(prefix) and kind is not SqlDatabase:
                tables = self._view.tables.pop((kind, namespace)).values()
                dropped += sum(table.held(now) for table in tables) if kind.counted else 0
                if kind is KVTable and any(table.rows for table in tables):
                    self._view.note("clear", namespace)
        return dropped

    async def delete_expired(self, limit: int, /) -> int:
        await self._view.writable()
        now, deleted = self.clock.now(), 0
        for (kind, namespace), named in list(self._view.tables.items()):
            for name, table in list(named.items()):
                room = limit - deleted
                kv = kind is KVTable
                expired = expire(self._view, namespace, table, now, room) if kv else table.expire(now, room)
                deleted += expired if kind.counted else 0
                if expired and not table.rows:
                    self._view.drop(kind, namespace, name)
        return deleted

    async def purge(self) -> None:
        """Nothing to do: what is deleted is gone."""

    async def check(self) -> Health:
        found = ["the engine is not open"] if self._view.over else problems(self._view.tables)
        details = figures(self._view.tables, self.clock.now())
        return Health(self.name, f"Python {platform.python_version()}", not found, found, details)

    async def snapshot(self) -> bytes:
        """The committed state, every contract and namespace, as bytes for `restore` (KV-7)."""
        self._view.check()
        return _snapshot.dump(self._view.tables)

    async def restore(self, data: bytes) -> None:
        """Replace the whole state by that of a snapshot.

        A foreign, damaged or newer snapshot is a `StorageCorruptError` and changes nothing.
        """
        tables = _snapshot.load(data, self.clock)
        await self._view.writable()
        self._view.tables = tables
        self._view.forget_changes()

    async def snapshot_to(self, path: str | PathLike[str]) -> None:
        """Write a snapshot to a file, which is replaced at once and whole."""
        await asyncio.to_thread(write_file, Path(path), await self.snapshot())

    async def restore_from(self, path: str | PathLike[str]) -> None:
        """`restore` from a file; a file that is not there is a `StorageNotFoundError`."""
        await self.restore(await asyncio.to_thread(read_file, Path(path)))


def _cells(view: View, namespace: str) -> Drivers:
    """What a namespace offers, seen from outside or from inside a transaction."""
    return Drivers(
        kv=MemoryKV(view, namespace),
        query=MemoryQuery(view, namespace),
        turns=MemoryTurns(view, namespace),
        vectors=MemoryVectors(view, namespace),
        text=MemoryText(view, namespace),
        graph=MemoryGraph(view, namespace),
        blobs=MemoryBlobs(view, namespace),
        sql=None if namespace else MemorySql(view),
    )
