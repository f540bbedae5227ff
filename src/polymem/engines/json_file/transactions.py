"""Transactions whose commit is one save of the file."""

from polymem.contracts.transactions import Isolation
from polymem.engines._tables.state import Tables
from polymem.engines._tables.transactions import Cells, TableTransaction, TableTransactions
from polymem.engines._tables.views import CommittedView
from polymem.engines.json_file._saver import Saver
from polymem.errors import StorageConnectionError


class JsonFileTransactions(TableTransactions):
    """Where transactions begin. Without autosave a commit writes nothing, and `TableTransactions` does."""

    def __init__(self, view: CommittedView, cells: Cells, saver: Saver) -> None:
        super().__init__(view, cells)
        self._saver = saver

    async def begin(
        self,
        *,
        timeout: float,
        isolation: Isolation = "serializable",  # noqa: ARG002 - it is serializable anyway
    ) -> "JsonFileTransaction":
        await self._take_turn()
        return JsonFileTransaction(self._view, self._cells, timeout, self._saver)


class JsonFileTransaction(TableTransaction):
    """An open transaction."""

    def __init__(self, committed: CommittedView, cells: Cells, timeout: float, saver: Saver) -> None:
        super().__init__(committed, cells, timeout)
        self._saver = saver

    async def commit(self) -> None:
        """Durable when it returns. Once begun it is done to its end, also when the caller is cancelled."""
        self._view.check()
        tables = self._view.settle()
        self._seal(lambda: StorageConnectionError("the transaction was committed and is over"))
        await self._saver.to_the_end(self._save(tables))

    async def _save(self, tables: Tables) -> None:
        try:
            await self._saver.adopt(tables, self._view.changes)
        finally:
            self._turn.release()
