"""Making connections: what kind of server it is, and what may be asked of a connection to it."""

from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]

from polymem.engines.postgres._errors import unreachable
from polymem.engines.postgres._pool import Link, Pool
from polymem.engines.postgres._settings import Settings
from polymem.errors import StorageDataError, StorageError, StorageUnsupportedError

LEAST: Final = 160000
_PROBE: Final = "select pg_backend_pid(), current_setting('server_version_num')::int, current_setting('server_version')"
_SCHEMA: Final = "select current_schema()"
_GRACE: Final = 2.0
"""Seconds that the client waits longer than the server for the end of a statement."""
_CLOSE: Final = 2.0


class Connector:
    """Connects by URL, or borrows from the user's own pool."""

    def __init__(self, settings: Settings, client: asyncpg.Pool | None) -> None:
        self._settings, self._client = settings, client
        self.pooled = False
        """Whether a pooler such as PgBouncer stands before the server."""
        self.version = ""

    async def probe(self) -> None:
        """Find out what the server is; nothing that a pooler could refuse is asked of this connection."""
        raw = await self._raw(statement_cache_size=0, server_settings=self._named)
        try:
            pid, number, self.version = (await raw.fetch(_PROBE, timeout=self._settings.connect_timeout))[0]
            self.pooled = pid != raw.get_server_pid()
        finally:
            await self._give_up(raw)
        if number < LEAST:
            raise StorageUnsupportedError(f"PostgreSQL 16 or newer is needed, the server is {self.version}")

    def pool(self) -> Pool:
        s = self._settings
        return Pool(
            self.link, self.unlink, min_size=s.min_size, max_size=s.max_size,
            acquire_timeout=s.acquire_timeout, max_idle=s.max_idle, max_lifetime=s.max_lifetime,
        )  # fmt: skip

    @property
    def patience(self) -> float:
        """Seconds within which a server that is well answers what costs it nothing."""
        return self._settings.connect_timeout

    @property
    def _named(self) -> dict[str, str]:
        return {"application_name": self._settings.application_name}

    @property
    def prepares(self) -> bool:
        wanted = self._settings.prepared_statements
        return not self.pooled if wanted is None else wanted

    @property
    def listens(self) -> bool:
        """Whether there is a way to the server itself, past any pooler."""
        return self._settings.direct_url is not None or not self.pooled

    async def direct(self) -> Any:
        """A connection of its own to the server itself, for what changes the session."""
        options: dict[str, Any] = {"server_settings": self._named}
        if self._settings.ssl is not None:
            options["ssl"] = self._settings.ssl
        seconds: Any = self._settings.connect_timeout
        return await asyncpg.connect(self._settings.direct_url or self._settings.dsn, timeout=seconds, **options)

    async def patient(self) -> Any:
        """Such a connection whose statements may take hours, as far as no pooler is in between."""
        raw = await self.direct()
        try:
            if self.listens:
                await raw.execute("set statement_timeout = 0")
        except BaseException:
            raw.terminate()
            raise
        return raw

    async def link(self) -> Link:
        """A connection, when `probe` has told what kind it is."""
        raw = await self._raw(statement_cache_size=500 if self.prepares else 0, server_settings=self._server_settings())
        wanted = self._settings.schema
        if wanted is not None and (self.pooled or self._client is not None):
            try:
                await self._check_schema(raw, wanted)
            except BaseException:
                await self._give_up(raw)
                raise
        return Link(raw, prepares=self.prepares, timeout=self._settings.timeout + _GRACE)

    async def unlink(self, link: Link) -> None:
        """Give a connection up; never raises."""
        await self._give_up(link.raw)

    def _server_settings(self) -> dict[str, str]:
        """Part of connecting, not of the session: PgBouncer would refuse all but the name."""
        if self.pooled:
            return self._named
        asked = {**self._named, "statement_timeout": f"{round(self._settings.timeout * 1000)}"}
        if self._settings.schema is not None:
            asked["search_path"] = f'"{self._settings.schema}", public'
        return asked

    async def _check_schema(self, raw: Any, wanted: str) -> None:
        if (await raw.fetch(_SCHEMA, timeout=self._settings.connect_timeout))[0][0] != wanted:
            raise StorageDataError(
                "a connection through a pooler or of your own pool has its own schema: "
                "alter role ... set search_path", field="schema",
            )  # fmt: skip

    async def _raw(self, **options: Any) -> Any:
        seconds: Any = self._settings.connect_timeout  # the driver says int and takes fractions
        try:
            if self._client is not None:
                return await self._client.acquire(timeout=seconds)
            if self._settings.ssl is not None:
                options["ssl"] = self._settings.ssl
            return await asyncpg.connect(
                self._settings.dsn, timeout=seconds, **options,
            )  # fmt: skip
        except StorageError:
            raise
        except Exception as error:
            translated = unreachable(error)
            if translated is None:
                raise
            raise translated from error

    async def _give_up(self, raw: Any) -> None:
        """Never raises: nobody could do anything about it."""
        try:
            if self._client is not None:
                await self._client.release(raw, timeout=_CLOSE)
            elif not raw.is_closed():
                await raw.close(timeout=_CLOSE)
        except Exception:  # noqa: BLE001 - see above
            raw.terminate()
