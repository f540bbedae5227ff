"""One file's threads and connections, shared by every engine of this process that opens the file."""

import asyncio
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final, NoReturn, Protocol, TypeVar

import apsw

from polymem.core.ids import uuid7
from polymem.engines.sqlite._file import check_file, connect, create_tables
from polymem.engines.sqlite._indexes import Indexes
from polymem.engines.sqlite._readers import Readers
from polymem.engines.sqlite._renewal import renew_tokens
from polymem.engines.sqlite._writer import SIGNATURE, Session, Writer
from polymem.errors import StorageConnectionError, StorageDataError

Result = TypeVar("Result")
Row = tuple[Any, ...]
_SHARE: Final = 64
"""Reads by key in one turn of the event loop before a task that wants more lets the others run."""
_OLDEST: Final = 0.001
"""Seconds after which a turn that somebody holds up begins a new read transaction, to see what others committed."""
_NO_TURN: Final = -1
Identity = tuple[int, int]


class Runner(Protocol):
    """How a cell reaches the database: directly, or inside a transaction."""

    @property
    def indexes(self) -> Indexes | None:
        """The search indexes of the file; None inside a transaction, which sees rows they don't hold."""
        ...

    async def point(self, statement: str, parameters: Row, /) -> Row | None:
        """One row by its primary key."""
        ...

    async def read(self, operation: Callable[[apsw.Connection], Result], /) -> Result:
        """A read that may take long; the operation sees one state of the database."""
        ...

    async def search(self, operation: Callable[[apsw.Connection], Result], /) -> Result:
        """The same for work that is mostly Python: one at a time, since two would only get in each other's way."""
        ...

    async def write(self, operation: Callable[[apsw.Connection], Result], /, *, savepoint: bool = True) -> Result:
        """A write, durable on return; `savepoint=False` only for a single statement."""
        ...


@dataclass(frozen=True, slots=True)
class Settings:
    """How a file is opened."""

    path: Path
    durability: str = "full"
    cache_mb: int = 16
    vfs: str | None = None

    def connect(self) -> apsw.Connection:
        return connect(self.path, durability=self.durability, cache_mb=self.cache_mb, vfs=self.vfs)


class Database:
    """The writer thread, the two reader threads and the thread for text searches of one file.

    Ranking text is many short steps that need the interpreter lock: two threads at it do less than one, and the event
    loop waits longer.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.users = 0
        self._connections = [settings.connect()]
        try:
            create_tables(self._connections[0])
            renew_tokens(self._connections[0])
            self._connections += [settings.connect() for _ in range(3)]
        except BaseException:
            self._disconnect()
            raise
        self.writer = Writer(self._connections[0])
        self.readers = Readers("reader", self._connections[1:3])
        self.searcher = Readers("searcher", self._connections[3:])
        self.indexes = Indexes()

    def close(self) -> None:
        """Finish what is queued; the last connection to close checkpoints, which leaves one file."""
        self.writer.stop()
        self.readers.stop()
        self.searcher.stop()
        self._disconnect()

    def _disconnect(self) -> None:
        for connection in reversed(self._connections):
            connection.close()


class Registry:
    """The open databases of this process by file identity, so that no file is opened twice."""

    def __init__(self) -> None:
        self._databases: dict[Identity, Database] = {}
        self._inherited: set[Identity] = set()
        self._lock = threading.Lock()

    def acquire(self, settings: Settings) -> Database:
        with self._lock:
            identity = _identity(settings.path)
            if identity in self._inherited:
                raise StorageConnectionError(
                    "the file was open when this process was forked, which SQLite can't bear: fork before opening it, "
                    "or start processes with the spawn method"
                )
            database = self._databases.get(identity)
            if database is None:
                check_file(settings.path)
                database = Database(settings)
                self._databases[_identity(settings.path)] = database
            elif database.settings.durability != settings.durability:
                raise StorageDataError("the file is open in this process with another durability", field="durability")
            database.users += 1
            return database

    def release(self, database: Database) -> None:
        with self._lock:
            database.users -= 1
            if database.users:
                return
            self._databases = {name: held for name, held in self._databases.items() if held is not database}
            database.close()

    def forget(self) -> None:
        """In a forked child: the threads are gone and the connections belong to the parent.

        SQLite keeps the locks of a process by file: a new connection would rely on locks that the child doesn't hold.
        """
        self._inherited |= self._databases.keys()
        self._databases = {}
        self._lock = threading.Lock()


registry = Registry()
os.register_at_fork(after_in_child=registry.forget)


async def acquire(settings: Settings) -> Database:
    """The database of a file, opened in a thread; a caller cancelled meanwhile leaves nothing open."""
    opening = _Opening(settings)
    try:
        return await asyncio.to_thread(opening.run)
    except BaseException:
        opening.abandon()
        raise


class _Opening:
    """A file on its way from the thread that opens it to a caller who may have gone."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._lock = settings, threading.Lock()
        self._opened: Database | None = None
        self._wanted = True

    def run(self) -> Database:
        database = registry.acquire(self._settings)
        with self._lock:
            self._opened, wanted = database, self._wanted
        if not wanted:
            registry.release(database)
        return database

    def abandon(self) -> None:
        with self._lock:
            opened, self._wanted = self._opened, False
        if opened is not None:
            registry.release(opened)


def _identity(path: Path) -> Identity:
    try:
        found = path.stat()
    except FileNotFoundError:
        return (0, 0)
    return (found.st_dev, found.st_ino)


class FileRunner:
    """Reads by key inline on the loop thread, long reads on a reader thread, writes by group commit."""

    def __init__(self) -> None:
        self._database: Database | None = None
        self._inline: apsw.Connection | None = None
        self._execute: Callable[[str, Row], apsw.Cursor] = self._not_open
        self._share, self._began, self._seen = _SHARE, 0.0, _NO_TURN
        self.author = uuid7()
        """How the writes of this engine are signed."""
        self._foreign, self._data_version, self._signature = 0, -1, ""
        self._asked, self._asked_at = _NO_TURN, 0.0

    @property
    def is_open(self) -> bool:
        return self._database is not None

    def attach(self, database: Database) -> None:
        try:
            self._inline = database.settings.connect()
        except BaseException:
            registry.release(database)
            raise
        self._inline.set_busy_handler(None)  # never wait on the loop: a busy read goes to a thread
        self._execute = self._inline.execute
        self._database = database

    def detach(self) -> Database | None:
        """Close the inline connection; the database to release, None when there is none."""
        database, inline, self._database, self._inline = self._database, self._inline, None, None
        self._execute = self._not_open
        if inline is not None:
            inline.close()
        return database

    @property
    def database(self) -> Database:
        if self._database is None:
            self._not_open()
        return self._database

    def _not_open(self, *_: object) -> NoReturn:
        raise StorageConnectionError("the store is not open", engine="sqlite")

    @property
    def indexes(self) -> Indexes:
        return self.database.indexes

    async def point(self, statement: str, parameters: Row, /) -> Row | None:
        if self._share <= 0:  # this turn of the loop had its share of reads: let the other tasks run
            await asyncio.sleep(0)
        self._share -= 1
        try:
            if self._seen != self.database.writer.commits or perf_counter() - self._began > _OLDEST:
                self._begin_turn()
            rows = self._execute(statement, parameters).fetchall()
        except apsw.BusyError:
            rows = await self.read(lambda c: c.execute(statement, parameters).fetchall())
        return rows[0] if rows else None

    def _begin_turn(self) -> None:
        """One read transaction for the reads of one turn of the loop: beginning one costs twice as much as a read.

        A task sees every write it was told of: the answer comes with a later turn, or with a new count of commits.
        """
        if self._seen == _NO_TURN:
            asyncio.get_running_loop().call_soon(self._end_turn)
        else:
            self._execute("rollback", ())
        seen, self._seen = self.database.writer.commits, _NO_TURN  # the count first: a commit meanwhile is seen again
        self._execute("begin", ())
        self._seen, self._began = seen, perf_counter()

    def _end_turn(self) -> None:
        self._share, self._seen = _SHARE, _NO_TURN
        if self._inline is not None and self._inline.in_transaction:
            self._inline.execute("rollback")

    async def read(self, operation: Callable[[apsw.Connection], Result], /) -> Result:
        found: Result = await self.database.readers.submit(operation)
        return found

    async def search(self, operation: Callable[[apsw.Connection], Result], /) -> Result:
        found: Result = await self.database.searcher.submit(operation)
        return found

    async def write(self, operation: Callable[[apsw.Connection], Result], /, *, savepoint: bool = True) -> Result:
        found: Result = await self.database.writer.submit(operation, savepoint=savepoint, author=self.author)
        return found

    def data_version(self) -> int:
        """A number that changes when anybody, this engine included, has committed; -1 while that can't be told."""
        try:
            return int(self._execute("pragma data_version", ()).get)
        except apsw.BusyError:
            return -1

    def changes_elsewhere(self) -> int:
        """A number that changes when another engine, here or in another process, has committed.

        Found out once in a turn of the loop, after each commit of this process and after a millisecond, as reads are.
        """
        commits = self.database.writer.commits
        if self._asked == commits and perf_counter() - self._asked_at <= _OLDEST:
            return self._foreign
        if self._asked == _NO_TURN:
            asyncio.get_running_loop().call_soon(self._ask_again)
        self._asked, self._asked_at = commits, perf_counter()
        try:
            if self._seen != _NO_TURN and perf_counter() - self._began > _OLDEST:
                self._begin_turn()
            version: Any = self._execute("pragma data_version", ()).get
            if version != self._data_version:  # the version must be read first: what comes later is then seen later
                signature = str(self._execute(SIGNATURE, ()).get)
                if signature != self._signature or not signature.startswith(self.author):
                    self._foreign += 1
                self._data_version, self._signature = version, signature
        except apsw.BusyError:
            self._foreign, self._asked = self._foreign + 1, _NO_TURN
        return self._foreign

    def _ask_again(self) -> None:
        self._asked = _NO_TURN

    async def unbatched(self, operation: Callable[[apsw.Connection], Result], /) -> Result:
        """Run on the writer's connection outside any transaction (VACUUM, checkpoints)."""
        found: Result = await self.database.writer.submit(operation, savepoint=False, batched=False)
        return found


class TransactionRunner:
    """Everything on the writer's connection, inside the transaction of `session`."""

    indexes = None

    def __init__(self, session: Session) -> None:
        self._session = session

    async def point(self, statement: str, parameters: Row, /) -> Row | None:
        rows = await self.read(lambda c: c.execute(statement, parameters).fetchall())
        return rows[0] if rows else None

    async def read(self, operation: Callable[[apsw.Connection], Result], /) -> Result:
        return await self.write(operation, savepoint=False)

    async def search(self, operation: Callable[[apsw.Connection], Result], /) -> Result:
        return await self.write(operation, savepoint=False)

    async def write(self, operation: Callable[[apsw.Connection], Result], /, *, savepoint: bool = True) -> Result:
        found: Result = await self._session.submit(operation, savepoint=savepoint)
        return found
