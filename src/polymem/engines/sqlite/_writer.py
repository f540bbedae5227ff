"""Group commit: one thread drains a queue of writes into one transaction per fsync.

Each caller gets its own result or its own error, and only after the commit that made its write durable.
"""

import asyncio
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import apsw

from polymem.core.ids import uuid7
from polymem.engines.sqlite._file import BusyHandler
from polymem.errors import Outcome, StorageConnectionError, StorageQueryError, StorageTimeoutError

Operation = Callable[[apsw.Connection], Any]
_MAX_BATCH: Final = 512
SIGNATURE: Final = "select value from pm_meta where name = 'author'"
"""The author of the last commit, a space, and what tells his turn from an earlier one."""
_CLOSED: Final = "rolled back because the store was closed"
_COURTESY: Final = 0.0002
"""Seconds left to another process after a commit; without it the slower one waits for seconds."""


@dataclass(slots=True, eq=False)
class Job:
    """One write and where its result goes."""

    operation: Operation
    future: "asyncio.Future[Any]"
    loop: asyncio.AbstractEventLoop
    savepoint: bool
    batched: bool = True
    author: str = ""
    result: Any = None
    error: Exception | None = None


class Session:
    """A transaction that a caller holds open; its jobs run on the writer thread, one after another."""

    def __init__(self, timeout: float, signature: "Signature", author: str = "") -> None:
        self.signature = signature
        self.loop = asyncio.get_running_loop()
        self.timeout, self.author = timeout, author
        self.begun: asyncio.Future[None] = self.loop.create_future()
        self.ended: str | None = None
        self._queue: queue.SimpleQueue[Job | str] = queue.SimpleQueue()
        self._lock = threading.Lock()

    def submit(self, operation: Operation, *, savepoint: bool = True) -> "asyncio.Future[Any]":
        job = Job(operation, self.loop.create_future(), self.loop, savepoint)
        with self._lock:  # no job may slip in behind the end, where nobody would answer it
            if self.ended is None:
                self._queue.put(job)
                return job.future
        job.future.set_exception(ended_error(self.ended))
        return job.future

    def end(self, statement: str) -> "asyncio.Future[Any]":
        """Run `commit` or `rollback` and give the writer back."""

        def finish(_: apsw.Connection) -> None:
            self.ended = "rolled back"  # also when the commit fails: the writer then undoes everything
            if statement == "commit":
                self.signature.commit({self.author})
                self.ended = "committed"

        return self.submit(finish, savepoint=False)

    def abandon(self, reason: str) -> None:
        """End it from anywhere: whatever was done is rolled back."""
        self._queue.put(reason)

    def next(self, deadline: float) -> Job | str:
        """The next job, or why there is none."""
        left = deadline - time.monotonic()
        try:
            return self._queue.get(timeout=left) if left > 0 else "timed out"
        except queue.Empty:
            return "timed out"

    def close(self, reason: str) -> None:
        """Refuse what is queued and what comes later."""
        with self._lock:
            self.ended = self.ended or reason
        late: list[Job] = []
        while not self._queue.empty():
            job = self._queue.get()
            if isinstance(job, Job):
                job.error = ended_error(self.ended)
                late.append(job)
        _resolve(late)


class Signature:
    """Transactions that leave in the file who wrote last, for caches that must know whether it was somebody else.

    The signature changes with the author only: as long as one writes alone it is neither read nor written.
    """

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._version, self._changes, self._author = -1, 0, ""
        self.elsewhere = False
        """Another connection has committed since this was last set to False."""

    def begin(self) -> None:
        self._connection.execute("begin immediate")
        version: Any = self._connection.execute("pragma data_version").get
        if version != self._version:
            self._version, self._author, self.elsewhere = version, "", True
        self._changes = self._connection.total_changes()

    def commit(self, authors: set[str]) -> None:
        author = authors.pop() if len(authors) == 1 else "several"
        if not author or author == self._author or self._connection.total_changes() == self._changes:
            self._connection.execute("commit")
            return
        if not str(self._connection.execute(SIGNATURE).get).startswith(author):
            self._connection.execute("insert or replace into pm_meta values('author', ?)", (f"{author} {uuid7()}",))
        self._connection.execute("commit")
        self._author = author


class Writer:
    """The one thread that writes to a file."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._busy = BusyHandler()
        connection.set_busy_handler(self._busy)
        self._queue: queue.SimpleQueue[Job | Session | None] = queue.SimpleQueue()
        self._ahead: list[Job | Session | None] = []
        self.signature = Signature(connection)
        self.commits = 0
        self._serving: Session | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._drain, name="polymem-sqlite-writer", daemon=True)
        self._thread.start()

    def submit(
        self, operation: Operation, *, savepoint: bool = True, batched: bool = True, author: str = ""
    ) -> "asyncio.Future[Any]":
        """Queue a write; a single statement needs no savepoint, what cannot run in a transaction is not batched."""
        loop = asyncio.get_running_loop()
        job = Job(operation, loop.create_future(), loop, savepoint, batched, author)
        self._queue.put(job)
        return job.future

    def begin(self, session: Session) -> None:
        self._queue.put(session)

    def stop(self) -> None:
        """Finish the writes that are queued, roll back an open transaction, end the thread; blocks until it has."""
        self._stopping = True
        self._queue.put(None)
        if self._serving is not None:
            self._serving.abandon(_CLOSED)
        self._thread.join()

    def _drain(self) -> None:
        while (item := self._ahead.pop() if self._ahead else self._queue.get()) is not None:
            if isinstance(item, Session):
                self._serve(item)
                continue
            jobs = self._gather(item) if item.batched else [item]
            if item.batched:
                self._commit(jobs)
            else:
                _run(self._connection, item)
            _resolve(jobs)
            self._be_courteous()

    def _gather(self, first: Job) -> list[Job]:
        """All writes that wait now, up to the first item that cannot join them."""
        jobs = [first]
        while len(jobs) < _MAX_BATCH and not self._ahead:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
            if isinstance(item, Job) and item.batched:
                jobs.append(item)
            else:
                self._ahead.append(item)
        return jobs

    def _commit(self, jobs: list[Job]) -> None:
        """Run the batch in one transaction; where that fails as a whole, each job in a transaction of its own."""
        error = self._attempt(jobs)
        if error is None:
            return
        if len(jobs) == 1 or isinstance(error, apsw.BusyError):  # each alone would wait as long again
            for job in jobs:
                job.result, job.error = None, error
            return
        for job in jobs:
            job.result, job.error = None, None
            job.error = self._attempt([job]) or job.error

    def _attempt(self, jobs: list[Job]) -> Exception | None:
        """None once committed; otherwise nothing of the batch is in the file."""
        connection = self._connection
        try:
            self.signature.begin()
            for job in jobs:
                _run(connection, job)
                if not connection.in_transaction:  # a full disk makes SQLite roll back everything
                    return job.error or StorageQueryError("the operation ended the transaction it ran in")
            self.signature.commit({job.author for job in jobs})
        except Exception as error:  # noqa: BLE001 - handed to every caller of the batch
            _rollback(connection)
            return error
        self.commits += 1
        return None

    def _be_courteous(self) -> None:
        """Pause a moment when another process wrote since our last commit, or kept us waiting."""
        if self._busy.calls or self.signature.elsewhere:
            self._busy.calls, self.signature.elsewhere = 0, False
            time.sleep(_COURTESY)

    def _serve(self, session: Session) -> None:
        """Hold the file for a caller's transaction until it ends or its time is over."""
        self._serving = session
        deadline = time.monotonic() + session.timeout
        error = self._begin()
        _tell(session.loop, [(session.begun, None, error)])
        if error is not None:
            session.close("not begun")
        while session.ended is None:
            self._step(session, deadline)
        _rollback(self._connection)
        session.close("over")
        self._serving = None

    def _begin(self) -> Exception | None:
        if self._stopping:
            return StorageConnectionError("the store is closed")
        try:
            self.signature.begin()
        except Exception as error:  # noqa: BLE001 - handed to the caller
            return error
        return None

    def _step(self, session: Session, deadline: float) -> None:
        job = session.next(deadline)
        if isinstance(job, str):
            session.close(job)
            return
        _run(self._connection, job)
        self.commits += session.ended == "committed"
        if session.ended is None and not self._connection.in_transaction:
            session.close("rolled back after an error")  # a full disk makes SQLite roll back everything
        _resolve([job])


def _run(connection: apsw.Connection, job: Job) -> None:
    try:
        job.result = _in_savepoint(connection, job.operation) if job.savepoint else job.operation(connection)
    except Exception as error:  # noqa: BLE001 - belongs to this caller alone
        job.error = error


def _in_savepoint(connection: apsw.Connection, operation: Operation) -> Any:
    connection.execute("savepoint pm_job")
    try:
        result = operation(connection)
    except BaseException:
        if connection.in_transaction:  # a full disk makes SQLite roll back everything, savepoints included
            connection.execute("rollback to pm_job")
            connection.execute("release pm_job")
        raise
    connection.execute("release pm_job")
    return result


def _rollback(connection: apsw.Connection) -> None:
    """The transaction is over afterwards, even where the disk fails at it."""
    if connection.in_transaction:
        with suppress(apsw.Error):
            connection.execute("rollback")


def ended_error(how: str) -> Exception:
    """Why an operation of a transaction that is over cannot run."""
    if how == "timed out":
        return StorageTimeoutError(
            "the transaction took longer than its timeout and was rolled back", retryable=False,
            outcome=Outcome.NOT_APPLIED,
        )  # fmt: skip
    return StorageConnectionError(f"the transaction is {how}")


Told = tuple["asyncio.Future[Any]", Any, Exception | None]


def _resolve(jobs: list[Job]) -> None:
    told: dict[asyncio.AbstractEventLoop, list[Told]] = defaultdict(list)
    for job in jobs:
        told[job.loop].append((job.future, job.result, job.error))
    for loop, results in told.items():
        _tell(loop, results)


def _tell(loop: asyncio.AbstractEventLoop, results: list[Told]) -> None:
    try:
        loop.call_soon_threadsafe(_settle, results)
    except RuntimeError:  # that loop is closed: nobody waits there any more
        return


def _settle(results: list[Told]) -> None:
    for future, result, error in results:
        if future.done():
            continue  # the caller was cancelled; its write is committed all the same
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
