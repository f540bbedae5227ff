"""How a cell reaches the database: on any connection of the pool, or on the one of a transaction."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NoReturn, Protocol

from polymem.engines.postgres._pool import Link, Pool
from polymem.errors import StorageConnectionError

Fetch = Callable[..., Awaitable[list[Any]]]
"""Takes a statement and its values, gives its rows."""


class Runner(Protocol):
    """Statements know their parameters as $1, $2, ..."""

    async def fetch(self, statement: str, /, *values: Any) -> list[Any]:
        """Run one statement; its rows (asyncpg records, which are tuples with names). Outside a transaction it is one."""
        ...

    async def point(self, statement: str, /, *values: Any) -> list[Any]:
        """The same at the least cost, for the few statements worth it: see `Link.point`."""
        ...

    def unit(self, *, read_only: bool = False) -> AbstractAsyncContextManager[Link]:
        """A connection for several statements, or for one that may fail: all or nothing, also within a transaction.

        With `read_only` the server refuses writes.
        """
        ...

    def attempt(self) -> AbstractAsyncContextManager[Fetch]:
        """For one statement that may fail: `fetch` of an ordinary call, or of a `unit` within a transaction."""
        ...


class PoolRunner:
    """Each call on a connection of its own."""

    def __init__(self) -> None:
        self._pool: Pool | None = None

    @property
    def pool(self) -> Pool:
        return self._pool or self.not_open()

    def not_open(self) -> NoReturn:
        raise StorageConnectionError("the store is not open", engine="postgres")

    @property
    def is_open(self) -> bool:
        return self._pool is not None

    def attach(self, pool: Pool) -> None:
        self._pool = pool

    def detach(self) -> Pool | None:
        pool, self._pool = self._pool, None
        return pool

    async def fetch(self, statement: str, /, *values: Any) -> list[Any]:
        pool = self.pool
        link = await pool.acquire()
        try:
            rows = await link.fetch(statement, *values)
        except BaseException as error:
            await pool.settle(link, error)
            raise
        pool.release(link)
        return rows

    async def point(self, statement: str, /, *values: Any) -> list[Any]:
        pool = self._pool or self.not_open()
        link = pool.take() or await pool.acquire()
        try:
            rows = await link.point(statement, *values)
        except BaseException as error:
            await pool.settle(link, error)
            raise
        pool.release(link)
        return rows

    @asynccontextmanager
    async def attempt(self) -> AsyncIterator[Fetch]:
        yield self.fetch

    @asynccontextmanager
    async def unit(self, *, read_only: bool = False) -> AsyncIterator[Link]:
        async with self.pool.lease() as link:
            await link.run("begin read only" if read_only else "begin")
            try:
                yield link
            except Exception:
                if not link.closed:
                    await link.run("rollback")
                raise
            await link.run("commit")
