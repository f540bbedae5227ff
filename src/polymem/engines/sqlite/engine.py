"""The sqlite engine: every contract in one file, the embedded default."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from polymem.contracts.drivers import Drivers
from polymem.core.clock import Clock, SystemClock
from polymem.core.engine import Health
from polymem.core.page import Page
from polymem.engines.sqlite import _maintenance
from polymem.engines.sqlite._database import FileRunner, Runner, Settings, acquire, registry
from polymem.engines.sqlite._errors import translate
from polymem.engines.sqlite.blobs import SqliteBlobs
from polymem.engines.sqlite.events import SqliteEvents
from polymem.engines.sqlite.graph import SqliteGraph
from polymem.engines.sqlite.kv import SqliteKV
from polymem.engines.sqlite.query import SqliteQuery
from polymem.engines.sqlite.sql import SqliteSql
from polymem.engines.sqlite.text import SqliteText
from polymem.engines.sqlite.transactions import SqliteTransactions
from polymem.engines.sqlite.turns import SqliteTurns
from polymem.engines.sqlite.vectors import SqliteVectors
from polymem.errors import StorageDataError, StorageError

_DURABILITIES: Final = ("full", "normal")


def from_url(url: str, **options: Any) -> "SqliteEngine":
    """`sqlite:///relative.db`, `sqlite:////absolute.db`, with `?durability=normal` or `?cache_mb=64` if wanted."""
    parts = urlsplit(url)
    path = unquote(parts.path.removeprefix("/"))
    if parts.netloc or not path:
        raise StorageDataError("expected sqlite:///relative.db or sqlite:////absolute/path.db", field="url")
    if path == ":memory:":
        raise StorageDataError("for a store without a file use memory:", field="url")
    given = {**dict(parse_qsl(parts.query)), **options}
    unknown = given.keys() - {"durability", "cache_mb", "clock", "vfs"}
    if unknown:
        raise StorageDataError(f"unknown option {min(unknown)}; there are durability, cache_mb", field=min(unknown))
    return SqliteEngine(path, **given)


class SqliteEngine:
    """One file. `durability="full"` syncs every commit; "normal" is faster and may lose the last commits in a power
    cut (never in a crash of the process, never the file's integrity). `cache_mb` is per connection.
    """

    name = "sqlite"
    remote = False

    def __init__(
        self,
        path: str | Path,
        *,
        durability: str = "full",
        cache_mb: int | str = 16,
        clock: Clock | None = None,
        vfs: str | None = None,
    ) -> None:
        if durability not in _DURABILITIES:
            raise StorageDataError(f"expected one of {', '.join(_DURABILITIES)}", field="durability")
        if not str(cache_mb).isdecimal() or int(cache_mb) < 1:
            raise StorageDataError("expected a whole number of megabytes", field="cache_mb")
        self.clock: Clock = clock or SystemClock()
        self._settings = Settings(Path(path).expanduser().absolute(), durability, int(cache_mb), vfs)
        self._runner = FileRunner()

    @property
    def path(self) -> Path:
        return self._settings.path

    async def open(self) -> None:
        if not self._runner.is_open:
            self._runner.attach(await acquire(self._settings))

    async def close(self) -> None:
        database = self._runner.detach()
        if database is not None:
            await asyncio.to_thread(registry.release, database)

    def translate(self, error: Exception, /) -> StorageError | None:
        return translate(error)

    def drivers(self, namespace: str, /) -> Drivers:
        outside = self._cells(self._runner, namespace)
        events = SqliteEvents(self._runner, self.clock, namespace)
        return replace(outside, transactions=SqliteTransactions(self._runner, self._cells), events=events)

    def _cells(self, runner: Runner, namespace: str) -> Drivers:
        return Drivers(
            kv=SqliteKV(runner, self.clock, namespace),
            query=SqliteQuery(runner, self.clock, namespace),
            turns=SqliteTurns(runner, self.clock, namespace),
            vectors=SqliteVectors(runner, namespace),
            text=SqliteText(runner, namespace),
            graph=SqliteGraph(runner, namespace),
            blobs=SqliteBlobs(runner, self.clock, namespace),
            sql=None if namespace else SqliteSql(runner),
        )

    def changes_elsewhere(self) -> int:
        """A number that changes when anybody but this engine has committed to the file; for caches."""
        return self._runner.changes_elsewhere()

    async def namespaces(self, prefix: str, after: str | None, limit: int, /) -> Page[str]:
        return await self._runner.read(lambda c: _maintenance.namespaces(c, prefix, after, limit))

    async def drop_namespace(self, prefix: str, /) -> int:
        return await self._runner.write(lambda c: _maintenance.drop_namespace(c, prefix))

    async def delete_expired(self, limit: int, /) -> int:
        now = self.clock.now()
        return await self._runner.write(lambda c: _maintenance.delete_expired(c, now, limit))

    async def lease(self, name: str, holder: str, seconds: float, /) -> bool:
        """A claim kept in the file, for every process that has it open (see `Leasing`)."""
        now = self.clock.now()
        until = now + int(seconds * 1_000_000)
        return await self._runner.write(lambda c: _maintenance.lease(c, (name, holder), now, until), savepoint=False)

    async def probe(self) -> str:
        """The version of SQLite, from a read of the file."""
        version, _ = await self._runner.read(lambda c: c.execute("select sqlite_version(), count(*) from pm_meta").get)
        return str(version)

    async def check(self) -> Health:
        return await self._runner.read(_maintenance.check)

    async def purge(self) -> None:
        """Rewrite the file without free space and empty the write-ahead log; writers wait meanwhile."""
        await self._runner.unbatched(_maintenance.compact)

    async def backup(self, target: str | Path) -> Path:
        """Copy the database to a new file while it is in use; an existing file is refused."""
        path = Path(target).expanduser().absolute()  # noqa: ASYNC240 - no I/O
        await self._runner.read(lambda c: _maintenance.backup(c, path))
        return path
