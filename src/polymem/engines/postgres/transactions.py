"""Transactions on a connection of their own, at the level asked for (TXN-1, TXN-2).

Those of repeatable read and serializable may end in a retryable conflict; `store.run_in_transaction` repeats them.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from polymem.contracts.drivers import Drivers
from polymem.contracts.transactions import Isolation, TransactionFeatures
from polymem.core.breaker import TransactionOverError, TransactionTimeoutError
from polymem.core.cancellation import to_the_end
from polymem.core.text import check_name
from polymem.engines.postgres._errors import breaks_connection
from polymem.engines.postgres._pool import Link, Pool
from polymem.engines.postgres._runner import Fetch, PoolRunner, Runner
from polymem.errors import (
    StorageConflictError,
    StorageConnectionError,
    StorageDataError,
    StorageError,
    StorageTimeoutError,
)

DriversOf = Callable[[Runner, str], Drivers]
Ending = Callable[[], Awaitable[None]]
# the gate keeps `drop_namespace` out; locking a table fixes no snapshot yet
_BEGIN: Final = "begin isolation level {}; lock table pm_gate in access share mode"
_PATIENT: Final = 10.0
"""Seconds that a rollback may take."""
_UNDO: Final = "rollback to pm_unit; release pm_unit"
_LOST: Final = "the connection was lost, and with it all that the transaction did"
_SILENT: Final = "the server did not answer in time, so the transaction cannot go on"
_TIMED_OUT: Final = "the transaction took longer than allowed and was rolled back"


class PostgresTransactions:
    """Where transactions on one database begin. `ending` wraps how they end."""

    features = TransactionFeatures(optimistic=True)

    def __init__(
        self, runner: PoolRunner, drivers_of: DriversOf, ending: Callable[[Ending], Ending] = lambda end: end
    ) -> None:
        self._runner, self._drivers_of, self._ending = runner, drivers_of, ending

    async def begin(self, *, timeout: float, isolation: Isolation = "serializable") -> "PostgresTransaction":
        pool = self._runner.pool
        link = await pool.acquire()
        try:
            link.timeout = min(timeout, link.timeout)
            await link.run(_BEGIN.format(isolation.replace("_", " ")))
        except BaseException as error:
            await pool.settle(link, error)
            raise
        return PostgresTransaction(TransactionRunner(pool, link, timeout), self._drivers_of, self._ending)


class TransactionRunner:
    """One call after the other on the connection of a transaction, until it is over or its time is up."""

    def __init__(self, pool: Pool, link: Link, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._pool, self._link, self._loop = pool, link, loop
        self._lock = asyncio.Lock()
        self._deadline, self._limit = loop.time() + seconds, link.timeout
        self._timer = loop.call_at(self._deadline, self._expire)
        self._expiry: asyncio.Task[None] | None = None
        self.ended: str | None = None

    async def fetch(self, statement: str, /, *values: Any) -> list[Any]:
        async with self._turn() as link:
            return await link.fetch(statement, *values)

    point = fetch

    @asynccontextmanager
    async def attempt(self) -> AsyncIterator[Fetch]:
        async with self.unit() as link:
            yield link.fetch

    @asynccontextmanager
    async def unit(self, *, read_only: bool = False) -> AsyncIterator[Link]:
        async with self._turn() as link:
            await link.run("savepoint pm_unit" + ("; set local transaction_read_only = on" if read_only else ""))
            try:
                yield link
            except Exception:
                if not link.closed:
                    await link.run(_UNDO)
                raise
            await link.run(_UNDO if read_only else "release pm_unit")  # undoing makes it writable again

    async def run(self, script: str) -> None:
        """Statements about the transaction itself."""
        async with self._turn() as link:
            await link.run(script)

    async def commit(self) -> None:
        async with self._turn() as link:
            await to_the_end(self._finish("committed", link.run("commit")))

    async def rollback(self) -> None:
        """Harmless when the transaction is over."""
        async with self._lock:
            if self.ended is None:
                await self._roll_back("rolled back")

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[Link]:
        async with self._lock:
            left = self._deadline - self._loop.time()
            if self.ended == _TIMED_OUT or (self.ended is None and left <= 0):
                raise TransactionTimeoutError(_TIMED_OUT)
            if self.ended is not None:
                raise TransactionOverError(f"the transaction was {self.ended} already")
            self._link.timeout = min(left, self._limit)
            try:
                yield self._link
            except Exception as error:
                if self.ended is None:  # else it is about the commit, of which nobody knows
                    self._explain(error)
                raise

    def _explain(self, error: Exception) -> None:
        """Raise what it means for a transaction that was not to be committed yet: it never will be."""
        if isinstance(error, TimeoutError):
            late = self._loop.time() >= self._deadline
            raise StorageTimeoutError(_TIMED_OUT if late else _SILENT, retryable=not late) from error
        if breaks_connection(error) or (self._link.closed and not isinstance(error, StorageError)):
            raise StorageConnectionError(_LOST, retryable=True) from error

    def _expire(self) -> None:
        self._expiry = self._loop.create_task(self._time_out())

    async def _time_out(self) -> None:
        async with self._lock:
            if self.ended is None:
                await self._roll_back(_TIMED_OUT)

    async def _roll_back(self, why: str) -> None:
        self._link.timeout = min(self._limit, _PATIENT)
        await to_the_end(self._finish(why, self._link.run("rollback")))

    async def _finish(self, how: str, ending: Any) -> None:
        """Whatever happens, the transaction is over and its connection free, or closed."""
        self._timer.cancel()
        self.ended, link = how, self._link
        try:
            said = await ending
        except BaseException as error:
            await link.settle(error)
            if how == "committed":
                raise
            link.raw.terminate()  # which rolls back, too
        else:
            if how == "committed" and said != "COMMIT":
                self.ended = "rolled back"
                raise StorageConflictError("an operation of the transaction had failed, so it was rolled back")
        finally:
            self._pool.release(link)


class PostgresTransaction:
    """One open transaction."""

    def __init__(self, runner: TransactionRunner, drivers_of: DriversOf, ending: Callable[[Ending], Ending]) -> None:
        self._runner, self._drivers_of = runner, drivers_of
        self._commit, self._rollback = ending(runner.commit), ending(runner.rollback)
        self._savepoints: list[str] = []

    def drivers(self, namespace: str, /) -> Drivers:
        return self._drivers_of(self._runner, namespace)

    async def commit(self) -> None:
        if self._runner.ended != "committed":
            await self._commit()

    async def rollback(self) -> None:
        await self._rollback()

    async def savepoint(self, name: str, /) -> None:
        check_name(name, field="name")
        await self._runner.run(f"savepoint pm_{len(self._savepoints)}")
        self._savepoints.append(name)

    async def rollback_to(self, name: str, /) -> None:
        place = self._place(name)
        await self._runner.run(f"rollback to pm_{place}")
        del self._savepoints[place + 1 :]

    async def release(self, name: str, /) -> None:
        place = self._place(name)
        await self._runner.run(f"release pm_{place}")
        del self._savepoints[place:]

    def _place(self, name: str) -> int:
        """That of the last savepoint of this name; PostgreSQL would end the transaction where there is none."""
        for place in range(len(self._savepoints) - 1, -1, -1):
            if self._savepoints[place] == name:
                return place
        raise StorageDataError("expected the name of a savepoint of this transaction", field="name")
