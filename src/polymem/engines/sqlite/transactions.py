"""Transactions: BEGIN IMMEDIATE on the writer's connection, held for one caller."""

import asyncio
from collections.abc import Callable

import apsw

from polymem.contracts.drivers import Drivers
from polymem.contracts.transactions import Isolation, TransactionFeatures
from polymem.core.text import check_name
from polymem.engines.sqlite._database import FileRunner, Runner, TransactionRunner
from polymem.engines.sqlite._writer import Session
from polymem.errors import StorageDataError

DriversOf = Callable[[Runner, str], Drivers]


class SqliteTransactions:
    """Where transactions on one file begin; each is serializable because there is one writer."""

    features = TransactionFeatures()

    def __init__(self, runner: FileRunner, drivers_of: DriversOf) -> None:
        self._runner, self._drivers_of = runner, drivers_of

    async def begin(
        self,
        *,
        timeout: float,
        isolation: Isolation = "serializable",  # noqa: ARG002 - it is serializable anyway
    ) -> "SqliteTransaction":
        session = Session(timeout, self._runner.database.writer.signature, self._runner.author)
        self._runner.database.writer.begin(session)
        try:
            await session.begun
        except asyncio.CancelledError:
            session.abandon("rolled back")  # nobody will: the caller is gone
            raise
        return SqliteTransaction(session, self._drivers_of)


class SqliteTransaction:
    """One open transaction."""

    def __init__(self, session: Session, drivers_of: DriversOf) -> None:
        self._session, self._drivers_of = session, drivers_of
        self._runner = TransactionRunner(session)

    def drivers(self, namespace: str, /) -> Drivers:
        return self._drivers_of(self._runner, namespace)

    async def commit(self) -> None:
        if self._session.ended != "committed":
            await self._session.end("commit")

    async def rollback(self) -> None:
        if self._session.ended is None:
            await self._session.end("rollback")

    async def savepoint(self, name: str, /) -> None:
        await self._run("savepoint", name)

    async def rollback_to(self, name: str, /) -> None:
        await self._run("rollback to", name)

    async def release(self, name: str, /) -> None:
        await self._run("release", name)

    async def _run(self, verb: str, name: str) -> None:
        # in hex, because SQLite takes "a" and "A" for the same savepoint
        statement = f"{verb} user_{check_name(name, field='name').encode().hex()}"

        def run(connection: apsw.Connection) -> None:
            try:
                connection.execute(statement)
            except apsw.SQLError as error:
                raise StorageDataError("expected the name of a savepoint of this transaction", field="name") from error

        await self._session.submit(run, savepoint=False)
