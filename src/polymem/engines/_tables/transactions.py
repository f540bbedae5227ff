"""One transaction at a time, on a fork of the touched tables; committing swaps the state."""

from asyncio import get_running_loop
from collections.abc import Callable

from polymem.contracts.drivers import Drivers
from polymem.contracts.transactions import Isolation, TransactionFeatures
from polymem.core.breaker import TransactionTimeoutError
from polymem.engines._tables.views import CommittedView, ForkedView, Frozen, Reason, View
from polymem.errors import StorageConnectionError, StorageDataError

Cells = Callable[[View, str], Drivers]


class TableTransactions:
    """Where transactions begin: in order of arrival, each after the end of the one before."""

    def __init__(self, view: CommittedView, cells: Cells) -> None:
        self._view = view
        self._cells = cells

    @property
    def features(self) -> TransactionFeatures:
        return TransactionFeatures()

    async def begin(
        self,
        *,
        timeout: float,
        isolation: Isolation = "serializable",  # noqa: ARG002 - it is serializable anyway
    ) -> "TableTransaction":
        await self._take_turn()
        return TableTransaction(self._view, self._cells, timeout)

    async def _take_turn(self) -> None:
        turn = self._view.turn
        await turn.acquire()
        if self._view.over is not None or turn is not self._view.turn:
            turn.release()
            raise StorageConnectionError("the engine is not open, or was closed while the transaction waited")


class TableTransaction:
    """An open transaction. Its state is a fork, so rolling back is forgetting it."""

    def __init__(self, committed: CommittedView, cells: Cells, timeout: float) -> None:
        self._committed = committed
        self._cells = cells
        self._turn = committed.turn
        self._view = ForkedView(committed)
        self._savepoints: list[tuple[str, Frozen]] = []
        self._timer = get_running_loop().call_later(timeout, self._expire, timeout)
        committed.interrupt = self._end

    def drivers(self, namespace: str, /) -> Drivers:
        return self._cells(self._view, namespace)

    async def commit(self) -> None:
        self._view.check()
        self._committed.tables = self._view.settle()
        self._committed.publish(self._view.changes)
        self._end(lambda: StorageConnectionError("the transaction was committed and is over"))

    async def rollback(self) -> None:
        self._end(lambda: StorageConnectionError("the transaction was rolled back and is over"))

    async def savepoint(self, name: str, /) -> None:
        self._view.check()
        self._savepoints.append((name, self._view.freeze()))

    async def rollback_to(self, name: str, /) -> None:
        index = self._find(name)
        self._view.restore(self._savepoints[index][1])
        del self._savepoints[index + 1 :]

    async def release(self, name: str, /) -> None:
        del self._savepoints[self._find(name) :]

    def _find(self, name: str) -> int:
        """The newest savepoint of that name: an earlier one with the same name is hidden by it."""
        self._view.check()
        for index in range(len(self._savepoints) - 1, -1, -1):
            if self._savepoints[index][0] == name:
                return index
        raise StorageDataError("expected the name of a savepoint of this transaction", field="name")

    def _expire(self, timeout: float) -> None:
        message = f"the transaction was open for longer than {timeout:g} s and was rolled back"
        self._end(lambda: TransactionTimeoutError(message))

    def _end(self, why: Reason) -> None:
        if self._view.over is None:
            self._seal(why)
            self._turn.release()

    def _seal(self, why: Reason) -> None:
        """Nothing can be done in it any more, but nobody else has the turn yet."""
        self._view.over = why
        self._view.tables = {}
        self._timer.cancel()
        self._committed.interrupt = None
