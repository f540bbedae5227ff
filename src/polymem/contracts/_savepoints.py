"""The savepoints of one transaction (TXN-2): blocks that undo themselves, and marks to go back to by name."""

from collections.abc import Generator
from types import TracebackType
from typing import final

from polymem.contracts._events_hub import Pending
from polymem.contracts.transactions import Transaction
from polymem.core.cancellation import to_the_end
from polymem.core.text import check_name
from polymem.errors import StorageDataError


@final
class Savepoints:
    """Those that are open, the outermost first, each with how many events were pending when it was opened."""

    def __init__(self, transaction: Transaction, told: Pending) -> None:
        self._transaction, self._told = transaction, told
        self._marks: dict[str, int] = {}

    async def open(self, name: str | None) -> str:
        name = f"nested_{len(self._marks)}" if name is None else check_name(name, field="name")
        if name in self._marks:
            raise StorageDataError("a savepoint of this name is open; give another one, or none", field="name")
        self._marks[name] = self._told.mark
        try:
            await self._transaction.savepoint(name)
        except BaseException:
            del self._marks[name]
            raise
        return name

    async def rollback_to(self, name: str) -> None:
        if check_name(name, field="name") not in self._marks:
            raise StorageDataError("expected the name of a savepoint that is open", field="name")
        self._told.undo(self._marks[name])
        self._forget(name, itself=False)
        await to_the_end(self._transaction.rollback_to(name))

    async def close(self, name: str, *, undo: bool) -> None:
        """Nothing where going back to an outer one has taken it away."""
        if name in self._marks:
            try:
                if undo:
                    await self.rollback_to(name)
            finally:
                self._forget(name, itself=True)
            await to_the_end(self._transaction.release(name))

    def _forget(self, name: str, *, itself: bool) -> None:
        names = list(self._marks)
        for later in names[names.index(name) + (not itself) :]:
            del self._marks[later]


@final
class Savepoint:
    """`async with` it, for a block that undoes itself when it raises; or await it, and it stays for `rollback_to`."""

    def __init__(self, savepoints: Savepoints, name: str | None) -> None:
        self._savepoints, self._name = savepoints, name

    async def open(self) -> None:
        self._name = await self._savepoints.open(self._name)

    def __await__(self) -> Generator[object, None, None]:
        return self.open().__await__()

    async def __aenter__(self) -> None:
        await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._name is not None  # noqa: S101 - it was entered
        await self._savepoints.close(self._name, undo=kind is not None)
