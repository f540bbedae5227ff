"""Two ways to see the tables: the committed state, and the fork of it that a transaction works on."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from polymem.core.clock import Clock
from polymem.engines._tables.state import Kept, Tables
from polymem.errors import StorageConnectionError, StorageError

KeptT = TypeVar("KeptT", bound=Kept)
Reason = Callable[[], StorageError]


class View:
    """The tables as the cells of one side see them.

    A cell that writes does `await view.writable()` first and then never awaits, so that each of its
    operations is atomic on the event loop.
    """

    def __init__(self, clock: Clock, tables: Tables) -> None:
        self.clock = clock
        self.tables = tables
        self.over: Reason | None = None
        """Why nothing can be read or written any more."""

    def check(self) -> None:
        if self.over is not None:
            raise self.over()

    def find(self, kind: type[KeptT], namespace: str, name: str = "") -> KeptT | None:
        """A table to read."""
        if self.over is not None:
            raise self.over()
        names = self.tables.get((kind, namespace))
        found: KeptT | None = None if names is None else names.get(name)
        return found

    def named(self, kind: type[KeptT], namespace: str) -> Mapping[str, KeptT]:
        """All tables of a kind in a namespace, to read."""
        self.check()
        return self.tables.get((kind, namespace), {})

    def table(self, kind: type[KeptT], namespace: str, name: str = "") -> KeptT:
        """A table to write to, made where there is none."""
        table = self.find(kind, namespace, name)
        if table is None:
            table = self.tables.setdefault((kind, namespace), {})[name] = kind()
        return table

    def drop(self, kind: type[KeptT], namespace: str, name: str = "") -> KeptT | None:
        """Remove a table; what it was."""
        self.check()
        names = self.tables.get((kind, namespace), {})
        dropped: KeptT | None = names.pop(name, None)
        if not names:
            self.tables.pop((kind, namespace), None)
        return dropped

    async def writable(self) -> None:
        """Wait until writes are allowed."""
        self.check()


class CommittedView(View):
    """What everybody sees. `turn` is held by the open transaction and handed on in order of arrival."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock, {})
        self.turn = asyncio.Lock()
        self.interrupt: Callable[[Reason], None] | None = None
        """Rolls back the open transaction; None while there is none."""
        self.over = lambda: StorageConnectionError("the engine is not open")

    def open(self) -> None:
        if self.over is not None:
            self.over = None
            self.turn = asyncio.Lock()  # of the loop that opens it

    def close(self) -> None:
        if self.interrupt is not None:
            self.interrupt(lambda: StorageConnectionError("the engine was closed, the transaction rolled back"))
        self.tables = {}
        self.over = lambda: StorageConnectionError("the engine is closed")

    async def writable(self) -> None:
        while self.interrupt is not None:
            async with self.turn:
                pass
        self.check()


class ForkedView(View):
    """A transaction's view: tables are copied when first written to, the committed ones stay untouched."""

    def __init__(self, committed: View) -> None:
        super().__init__(committed.clock, dict(committed.tables))
        self._own: set[tuple[type[Kept], str] | tuple[type[Kept], str, str]] = set()
        """What was copied since the last savepoint and may be changed in place."""
        self._forked: list[Kept] = []

    def table(self, kind: type[KeptT], namespace: str, name: str = "") -> KeptT:
        self.check()
        names, full = self._names(kind, namespace), (kind, namespace, name)
        if full not in self._own:
            found: KeptT | None = names.get(name)
            names[name] = kind() if found is None else found.fork()
            self._own.add(full)
            self._forked.append(names[name])
        table: KeptT = names[name]
        return table

    def drop(self, kind: type[KeptT], namespace: str, name: str = "") -> KeptT | None:
        self.check()
        self._names(kind, namespace)
        self._own.discard((kind, namespace, name))
        return super().drop(kind, namespace, name)

    def freeze(self) -> Tables:
        """The state as it is now, for `restore`: whatever is written from here on is written to copies."""
        self._own.clear()
        return dict(self.tables)

    def restore(self, frozen: Tables) -> None:
        self.tables = dict(frozen)
        self._own.clear()

    def settle(self) -> Tables:
        """The state to become the committed one."""
        for table in self._forked:
            table.settle()
        return self.tables

    def _names(self, kind: type[Kept], namespace: str) -> dict[str, Any]:
        if (kind, namespace) not in self._own or (kind, namespace) not in self.tables:
            self.tables[kind, namespace] = dict(self.tables.get((kind, namespace), {}))
            self._own.add((kind, namespace))
        return self.tables[kind, namespace]
