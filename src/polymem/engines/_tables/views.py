"""Two ways to see the tables: the committed state, and the fork of it that a transaction works on."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from polymem.contracts.events import Op
from polymem.core.clock import Clock
from polymem.engines._tables.changes import ChangeLog
from polymem.engines._tables.state import Kept, Tables
from polymem.errors import StorageConnectionError, StorageError

KeptT = TypeVar("KeptT", bound=Kept)
Reason = Callable[[], StorageError]
Noted = tuple[Op, str, str | None]
"""A change: what was done, in which namespace, to which key (None: to all)."""


class View:
    """The tables as the cells of one side see them.

    A cell that writes does `await view.writable()` first and then never awaits, so that each of its
    operations is atomic on the event loop.
    """

    def __init__(self, clock: Clock, tables: Tables) -> None:
        self.clock = clock
        self.tables = tables
        self.logs: dict[str, ChangeLog] = {}
        """The change logs of the namespaces that are watched."""
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

    def note(self, op: Op, namespace: str, key: str | None = None) -> None:
        """Log a change of a namespace that is watched; a fork keeps it until it is committed."""
        if namespace in self.logs:
            self.publish([(op, namespace, key)])

    def publish(self, changes: Iterable[Noted]) -> None:
        raise NotImplementedError

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
        self.forget_changes()

    def publish(self, changes: Iterable[Noted]) -> None:
        """Tell the readers of the logs, at once where there are several changes."""
        told: set[ChangeLog] = set()
        for op, namespace, key in changes:
            log = self.logs.get(namespace)
            if log is not None:
                log.append(op, key)
                told.add(log)
        for log in told:
            log.tell()

    def forget_changes(self) -> None:
        """The state is another one altogether: who watches must begin anew."""
        logs, self.logs = self.logs, {}
        for log in logs.values():
            log.tell()

    async def writable(self) -> None:
        while self.interrupt is not None:
            async with self.turn:
                pass
        self.check()


Frozen = tuple[Tables, int]
"""The tables, and how many changes had been noted."""


class ForkedView(View):
    """A transaction's view: tables are copied when first written to, the committed ones stay untouched."""

    def __init__(self, committed: View) -> None:
        super().__init__(committed.clock, dict(committed.tables))
        self.logs = committed.logs
        self.changes: list[Noted] = []
        """What is to be published once it is committed."""
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

    def publish(self, changes: Iterable[Noted]) -> None:
        self.changes.extend(changes)

    def freeze(self) -> Frozen:
        """The state as it is now, for `restore`: whatever is written from here on is written to copies."""
        self._own.clear()
        return dict(self.tables), len(self.changes)

    def restore(self, frozen: Frozen) -> None:
        tables, changes = frozen
        self.tables = dict(tables)
        del self.changes[changes:]
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
