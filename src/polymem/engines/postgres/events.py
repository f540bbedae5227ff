"""Changes of key-value records, those of other processes too, read from a log in the database (EVT-1)."""

import asyncio
from typing import Final

from polymem.contracts.events import ChangePage, EventFeatures
from polymem.core.clock import Clock
from polymem.engines.postgres import _kv_changes
from polymem.engines.postgres._clock import ServerClock
from polymem.engines.postgres._listener import Listener
from polymem.engines.postgres._runner import PoolRunner

_FIRST_PAUSE: Final = 0.002
_PATIENCE, _UNHEARD = 1.0, 0.05
"""Seconds after which a reader looks without having been woken, and where nobody can wake it."""


class PostgresEvents:
    """The log of one namespace. Commits wake those who wait, by NOTIFY."""

    features = EventFeatures(kept=_kv_changes.KEPT)

    def __init__(self, runner: PoolRunner, clock: Clock, namespace: str, listener: Listener) -> None:
        self._runner, self._clock, self._namespace, self._listener = runner, clock, namespace, listener

    async def begin(self) -> str:
        return await _kv_changes.watch(self._runner, self._namespace, self._clock.now())

    async def read(self, after: str, limit: int, /, *, wait: float) -> ChangePage | None:
        if wait <= 0:
            return await self._page(after, limit)
        woken = self._listener.subscribe(self._namespace)
        try:
            return await self._wait(after, limit, wait, woken)
        finally:
            self._listener.unsubscribe(self._namespace, woken)

    async def _wait(self, after: str, limit: int, wait: float, woken: asyncio.Event) -> ChangePage | None:
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + wait, self._patience
        while True:
            page = await self._page(after, limit)
            left = deadline - loop.time()
            if page is None or page.changes or left <= 0:
                return page
            after = page.position
            if await _set_within(woken, min(pause, left)):
                woken.clear()
                pause = _FIRST_PAUSE  # what was notified may wait for an older transaction to end
            else:
                pause = min(2 * pause, self._patience)

    @property
    def _patience(self) -> float:
        return _PATIENCE if self._listener.heard else _UNHEARD

    async def _page(self, after: str, limit: int) -> ChangePage | None:
        now = self._clock.now()
        own = None if isinstance(self._clock, ServerClock) else now
        found = await _kv_changes.page(self._runner, self._namespace, after, limit, own)
        if found is None:
            return None
        if now - found.read_at > _kv_changes.DAY // 24:
            await _kv_changes.note_reader(self._runner, self._namespace, now)
        return found.page


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):  # `wait_for` may swallow a cancellation
            await event.wait()
    except TimeoutError:
        return False
    return True
