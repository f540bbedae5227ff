"""Changes of key-value records, those of other processes too, read from the log in the file (EVT-1)."""

import asyncio
from typing import Final

import apsw

from polymem.contracts.events import ChangePage, EventFeatures
from polymem.core.clock import Clock
from polymem.engines.sqlite import _changes
from polymem.engines.sqlite._database import FileRunner

_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.02


class SqliteEvents:
    """The log of one namespace. A reader that waits asks the file every 20 ms whether anybody has committed."""

    features = EventFeatures(kept=_changes.KEPT)

    def __init__(self, runner: FileRunner, clock: Clock, namespace: str) -> None:
        self._runner, self._clock, self._namespace = runner, clock, namespace

    async def begin(self) -> str:
        now = self._clock.now()
        return await self._runner.write(lambda c: _changes.watch(c, self._namespace, now))

    async def read(self, after: str, limit: int, /, *, wait: float) -> ChangePage | None:
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + wait, _FIRST_PAUSE
        while True:
            seen = self._runner.data_version()  # first: what is committed from here on is noticed
            page = await self._page(after, limit)
            if page is None or page.changes or loop.time() >= deadline:
                return page
            after = page.position
            while self._runner.data_version() == seen and loop.time() < deadline:
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    async def _page(self, after: str, limit: int) -> ChangePage | None:
        found = await self._runner.read(lambda c: _changes.page(c, self._namespace, after, limit))
        if found is None:
            return None
        page, read_at = found
        now = self._clock.now()
        if now - read_at > _changes.DAY // 24:
            self._note(now)
        return page

    def _note(self, now: int) -> None:
        """Not awaited: reading must not wait for the writer, whom this very task may hold."""

        def note(connection: apsw.Connection) -> None:
            _changes.note_reader(connection, self._namespace, now)

        self._runner.database.writer.submit(note).add_done_callback(lambda done: done.cancelled() or done.exception())
