"""The json_file engine: key-value records, queries and transactions over one human-readable file (KV-6)."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from polymem.contracts.drivers import Drivers
from polymem.contracts.kv import KVFeatures
from polymem.core.clock import Clock, SystemClock
from polymem.core.engine import Health
from polymem.core.page import Page
from polymem.engines._tables.events import expire
from polymem.engines._tables.kv import KVTable, TableKV
from polymem.engines._tables.state import page_of
from polymem.engines._tables.transactions import TableTransactions
from polymem.engines._tables.views import CommittedView, View
from polymem.engines.json_file._datafile import DataFile
from polymem.engines.json_file._errors import translate, translated
from polymem.engines.json_file._saver import Saver, snapshot_of
from polymem.engines.json_file._text import FORMAT
from polymem.engines.json_file.events import JsonFileEvents
from polymem.engines.json_file.kv import JsonFileKV
from polymem.engines.json_file.query import JsonFileQuery
from polymem.engines.json_file.transactions import JsonFileTransactions
from polymem.errors import StorageConnectionError, StorageDataError, StorageError

R = TypeVar("R")
_SWITCHES: Final = {"true": True, "1": True, "false": False, "0": False}


def from_url(url: str, **options: Any) -> "JsonFileEngine":
    """`file:///absolute/data.json` or `file:relative.json`, with `?autosave=false` if wanted."""
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or not path.strip("/"):
        raise StorageDataError("expected file:///absolute/data.json or file:relative.json", field="url")
    given = {**dict(parse_qsl(parts.query, keep_blank_values=True)), **options}
    unknown = given.keys() - {"autosave", "clock"}
    if unknown:
        raise StorageDataError(f"unknown option {min(unknown)}; there is autosave", field=min(unknown))
    return JsonFileEngine(path, **given)


class JsonFileEngine:
    """All data in memory, and in one JSON file that is written whole at every save.

    With `autosave` a write is durable when it returns; without, it is in memory until `save`, `purge` or closing.
    One store of one process at a time may have the file open.
    """

    name = "json_file"
    remote = False

    def __init__(self, path: str | Path, *, autosave: bool | str = True, clock: Clock | None = None) -> None:
        switch = _SWITCHES.get(str(autosave).lower())
        if switch is None:
            raise StorageDataError("expected true or false", field="autosave")
        self.autosave = switch
        self.path = Path(path).expanduser().resolve()  # a link stays one: what it points to is replaced
        self.clock: Clock = clock or SystemClock()
        self._view = CommittedView(self.clock)
        self._file = DataFile(self.path, self.clock)
        self._saver = Saver(self._view, self._file)
        self._loads = 0

    async def open(self) -> None:
        if self._view.over is not None:
            with translated():
                await self._saver.open()
            self._view.open()

    async def close(self) -> None:
        """Finish the writes under way, roll back an open transaction, save.

        Where saving fails the error says why and the engine stays open: free some space and close it again.
        """
        if self._view.over is not None:
            return
        if self._view.interrupt is not None:
            self._view.interrupt(_closed)
        self._view.over = _closed
        try:
            with translated():
                await self._saver.settle()
                await self._saver.save(snapshot_of(self._view.tables))
        except BaseException:
            self._view.over = None
            self._saver.reopen()
            raise
        self._view.close()
        await self._saver.close()

    def drivers(self, namespace: str, /) -> Drivers:
        inside = replace(self._cells(self._view, namespace), events=JsonFileEvents(self._view, namespace))
        if not self.autosave:
            return replace(inside, transactions=TableTransactions(self._view, self._cells))
        return replace(
            inside,
            kv=JsonFileKV(self._view, namespace, KVFeatures(), self._saver),
            transactions=JsonFileTransactions(self._view, self._cells, self._saver),
        )

    def translate(self, error: Exception, /) -> StorageError | None:
        return translate(error)

    async def save(self) -> None:
        """Write what is not in the file yet; durable when it returns. An open transaction is not part of it."""
        self._view.check()
        with translated():
            await self._saver.to_the_end(self._saver.save(snapshot_of(self._view.tables)))

    async def load(self) -> None:
        """Take the state from the file as it is now; what was not saved is lost. Not within a transaction.

        A damaged, foreign or missing file is an error, nothing is recovered, and the state stays as it was.
        """
        self._view.check()
        with translated():
            await self._saver.to_the_end(self._load())

    def changes_elsewhere(self) -> int:
        """A number that changes when data came in by `load`; for caches. Nobody else can write while it is open."""
        return self._loads

    async def namespaces(self, prefix: str, after: str | None, limit: int, /) -> Page[str]:
        self._view.check()
        now = self.clock.now()
        held = (namespace for namespace, table in _tables(self._view, prefix) if table.held(now))
        return page_of(sorted(name for name in held if after is None or name > after), limit, str)

    async def drop_namespace(self, prefix: str, /) -> int:
        return await self._change(lambda view: _drop(view, prefix))

    async def delete_expired(self, limit: int, /) -> int:
        return await self._change(lambda view: _expire(view, limit))

    async def purge(self) -> None:
        """Save, and erase deleted bytes from the copy too. Versions set aside (see `check`) are yours to remove."""
        self._view.check()
        with translated():
            await self._saver.to_the_end(self._purge())

    async def check(self) -> Health:
        """Whether the file holds what was saved, and whether its copy can be read."""
        self._view.check()
        with translated():
            found = await self._saver.problems()
        now = self.clock.now()
        held = [count for _, table in _tables(self._view, "") if (count := table.held(now))]
        details = {
            "path": str(self.path),
            "namespaces": len(held),
            "records": {"kv": sum(held)},
            "saved": self._saver.is_saved(self._view.tables),
            "notes": list(self._file.notes),
            "set_aside": self._file.set_aside(),
        }
        return Health(self.name, f"file format {FORMAT}", not found, found, details)

    async def _load(self) -> None:
        async with self._view.turn:
            self._view.check()
            await self._saver.load()
            self._loads += 1

    async def _purge(self) -> None:
        async with self._view.turn:
            self._view.check()
            await self._saver.purge(snapshot_of(self._view.tables))

    def _cells(self, view: View, namespace: str) -> Drivers:
        return Drivers(
            kv=TableKV(view, namespace, KVFeatures(durable=self.autosave)), query=JsonFileQuery(view, namespace)
        )

    async def _change(self, operation: Callable[[View], Awaitable[R]]) -> R:
        self._view.check()
        if self.autosave:
            return await self._saver.write(operation)
        await self._view.writable()
        return await operation(self._view)


def _closed() -> StorageError:
    return StorageConnectionError("the engine was closed")


def _tables(view: View, prefix: str) -> list[tuple[str, KVTable]]:
    found = ((namespace, named[""]) for (_, namespace), named in view.tables.items() if "" in named)
    return [(namespace, table) for namespace, table in found if namespace.startswith(prefix)]


async def _drop(view: View, prefix: str) -> int:
    now, dropped = view.clock.now(), 0
    for namespace, table in _tables(view, prefix):
        dropped += table.held(now)
        view.drop(KVTable, namespace)
        if table.rows:
            view.note("clear", namespace)
    return dropped


async def _expire(view: View, limit: int) -> int:
    now, deleted = view.clock.now(), 0
    for namespace, table in _tables(view, ""):
        if deleted < limit and table.held(now) < len(table.rows):
            deleted += expire(view, namespace, view.table(KVTable, namespace), now, limit - deleted)
    return deleted
