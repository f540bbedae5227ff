"""The engine: opening, closing, namespaces and the file."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from polymem.contracts.drivers import Drivers
from polymem.core.clock import Clock, SystemClock
from polymem.core.engine import Health
from polymem.core.namespace import subtree_end
from polymem.core.page import Page
from polymem.errors import StorageDataError, StorageError, StorageFullError
from polymem_log.file import LogFile
from polymem_log.kv import LogKV


def from_url(url: str, *, clock: Clock | None = None) -> "LogEngine":
    """`log:///relative.log` or `log:////absolute.log`; the entry point in pyproject.toml names this function."""
    path = unquote(urlsplit(url).path).removeprefix("/")
    if not path:
        raise StorageDataError("expected log:///relative.log or log:////absolute.log", field="url")
    return LogEngine(Path(path), clock=clock)


class LogEngine:
    """What `polymem.core.engine.Engine` asks of an engine."""

    name = "log"
    remote = False

    def __init__(self, path: Path, *, clock: Clock | None = None) -> None:
        self.clock: Clock = clock or SystemClock()
        self._file = LogFile(path)

    async def open(self) -> None:
        self._file.open()

    async def close(self) -> None:
        self._file.close()

    def drivers(self, namespace: str, /) -> Drivers:
        return Drivers(kv=LogKV(self._file, self.clock, namespace))

    def translate(self, error: Exception, /) -> StorageError | None:
        if isinstance(error, OSError):
            return StorageFullError("the file could not be written")
        return None

    async def namespaces(self, prefix: str, after: str | None, limit: int, /) -> Page[str]:
        start = prefix if after is None else after
        names = {namespace for namespace, _ in self._file.records if namespace.startswith(prefix)}
        found = sorted(name for name in names if name > start or (after is None and name == start))
        return Page(found[:limit], found[limit - 1] if len(found) > limit else None)

    async def drop_namespace(self, prefix: str, /) -> int:
        end = subtree_end(prefix)
        gone = [place for place in self._file.records if prefix <= place[0] and (not end or place[0] < end)]
        self._file.write(dict.fromkeys(gone))
        return len(gone)

    async def delete_expired(self, limit: int, /) -> int:
        now, found = self.clock.now(), self._file.records.items()
        gone = [place for place, record in found if record.expires_at is not None and record.expires_at <= now]
        self._file.write(dict.fromkeys(gone[:limit]))
        return len(gone[:limit])

    async def purge(self) -> None:
        self._file.rewrite()

    async def check(self) -> Health:
        return Health(self.name, "1", ok=True, details={"records": len(self._file.records)})
