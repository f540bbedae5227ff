"""Group commit: the writes of one moment become one state, one file and one fsync (KV-6)."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

from polymem.contracts.kv import Record
from polymem.engines._tables.kv import KVTable
from polymem.engines._tables.state import Tables
from polymem.engines._tables.views import CommittedView, ForkedView, Noted, View
from polymem.engines.json_file._datafile import DataFile
from polymem.engines.json_file._errors import UnsyncedError
from polymem.engines.json_file._text import State
from polymem.errors import StorageConnectionError

R = TypeVar("R")
Operation = Callable[[View], Awaitable[Any]]
_BREATH: Final = 256
"""Operations after which others on the loop get their turn."""


@dataclass(slots=True, eq=False)
class _Job:
    """One write and where its result goes."""

    operation: Operation
    future: "asyncio.Future[Any]"
    result: Any = None
    error: Exception | None = None

    def answer(self, failure: BaseException | None) -> None:
        if self.future.done():
            return  # the caller was cancelled; its write is saved all the same
        if failure is not None or self.error is not None:
            self.future.set_exception(failure or cast("Exception", self.error))
        else:
            self.future.set_result(self.result)


class Saver:
    """Takes writes to the file with its one thread; what is not there yet is not in the view either."""

    def __init__(self, view: CommittedView, file: DataFile) -> None:
        self._view, self._file = view, file
        self._waiting: list[_Job] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._draining = False
        self._closing = True
        self._saved: State = {}

    async def open(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="polymem-json-file")
        opening = self._start(self._call(self._file.open))
        try:
            self._take(await asyncio.shield(opening))
        except BaseException:
            await asyncio.wait([opening])  # when it is cancelled the thread goes on, and may yet get the lock
            if opening.exception() is None:
                await self._call(self._file.close)
            self._thread.shutdown()
            raise
        self._disk = asyncio.Lock()  # of the loop that opens it
        self._closing = False

    async def write(self, operation: Callable[[View], Awaitable[R]]) -> R:
        """Do it to the state and save that, together with whatever else is waiting."""
        if self._closing:
            raise StorageConnectionError("the engine is not open")
        job = _Job(operation, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        if not self._draining:
            self._draining = True
            self._start(self._drain())
        return cast("R", await job.future)

    async def to_the_end(self, work: Coroutine[Any, Any, R]) -> R:
        """Wait for work that goes on when the caller is cancelled; closing waits for it too."""
        return await asyncio.shield(self._start(work))

    def _start(self, work: Coroutine[Any, Any, R]) -> "asyncio.Task[R]":
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def adopt(self, tables: Tables, changes: list[Noted]) -> None:
        """Make this the committed state as soon as it is on the disk; the caller has the turn."""
        await self.save(state_of(tables))
        self._view.tables = tables
        self._view.publish(changes)

    async def save(self, state: State) -> None:
        """Write the file unless it is as it should be. The state must not change any more."""
        async with self._disk:
            if state == self._saved:
                return
            try:
                await self._call(self._file.write, state)
            except UnsyncedError:  # it is in the file; unless it is acknowledged the next save takes it out again
                self._saved = state
                raise
            self._saved = state

    async def load(self) -> None:
        async with self._disk:
            self._take(await self._call(self._file.load))

    async def purge(self, state: State) -> None:
        async with self._disk:
            await self._call(self._file.purge, state)
            self._saved = state

    async def problems(self) -> list[str]:
        async with self._disk:
            return await self._call(self._file.problems, self._saved)

    def is_saved(self, tables: Tables) -> bool:
        return state_of(tables) == self._saved

    async def settle(self) -> None:
        """Take no more writes; return when those under way are over."""
        self._closing = True
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    async def close(self) -> None:
        await self._call(self._file.close)
        self._thread.shutdown(wait=True)

    def reopen(self) -> None:
        """Closing did not work out: go on."""
        self._closing = False

    async def _drain(self) -> None:
        try:
            while self._waiting:
                async with self._view.turn:
                    jobs, self._waiting = self._waiting, []
                    await self._commit(jobs)
        finally:
            self._draining = False

    async def _commit(self, jobs: list[_Job]) -> None:
        """All of them or, where the file cannot be written, none; each gets its own answer."""
        failure: BaseException | None = None
        try:
            fork = ForkedView(self._view)
            await self.adopt(await _done(jobs, fork), fork.changes)
        except Exception as error:  # noqa: BLE001 - handed to every caller
            failure = error
        except asyncio.CancelledError:
            failure = StorageConnectionError("the event loop ended while the file was written")
            raise
        finally:
            for job in jobs:
                job.answer(failure)

    def _take(self, state: State) -> None:
        tables: Tables = {}
        for namespace, records in state.items():
            table = KVTable()
            for key, record in records.items():
                table.put(key, record)
            tables[KVTable, namespace] = {"": table}
        self._view.tables, self._saved = tables, snapshot_of(tables)
        self._view.forget_changes()

    async def _call(self, function: Callable[..., R], *args: Any) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)


async def _done(jobs: list[_Job], fork: ForkedView) -> Tables:
    """The state after these writes."""
    for number, job in enumerate(jobs, 1):
        try:
            job.result = await job.operation(fork)
        except Exception as error:  # noqa: BLE001 - belongs to this caller alone
            job.error = error
        if number % _BREATH == 0:
            await asyncio.sleep(0)
    return fork.settle()


def state_of(tables: Tables) -> dict[str, dict[str, Record]]:
    """The records that are to be written, not copied."""
    found = ((namespace, named[""].rows) for (_, namespace), named in tables.items() if "" in named)
    return {namespace: rows for namespace, rows in found if rows}


def snapshot_of(tables: Tables) -> dict[str, dict[str, Record]]:
    """A copy of them, which writes to the tables leave as it is."""
    return {namespace: dict(rows) for namespace, rows in state_of(tables).items()}
