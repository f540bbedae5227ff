"""The log of changes of the engines in RAM: kept while the engine is open (EVT-1)."""

import asyncio
from contextlib import suppress

from polymem.contracts.events import ChangePage, EventFeatures
from polymem.engines._tables.changes import KEPT, ChangeLog
from polymem.engines._tables.kv import KVTable
from polymem.engines._tables.views import CommittedView, View


class TableEvents:
    """The log of one namespace. It begins when no transaction is open, so that each is in it wholly or not at all."""

    features = EventFeatures(kept=KEPT, cross_process=False, resumable=False)

    def __init__(self, view: CommittedView, namespace: str) -> None:
        self._view, self._namespace = view, namespace

    async def begin(self) -> str:
        self._view.check()
        async with self._view.turn:
            self._view.check()
            return self._view.logs.setdefault(self._namespace, ChangeLog()).position

    async def read(self, after: str, limit: int, /, *, wait: float) -> ChangePage | None:
        page = self._page(after, limit)
        if wait > 0 and page is not None and not page.changes:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._view.logs[self._namespace].news.wait()
            page = self._page(after, limit)
        return page

    def _page(self, after: str, limit: int) -> ChangePage | None:
        self._view.check()
        log = self._view.logs.get(self._namespace)
        return None if log is None else log.page(after, limit)


def expire(view: View, namespace: str, table: KVTable, now: int, limit: int) -> int:
    """Remove at most `limit` expired records and note each; how many."""
    if namespace not in view.logs:
        return table.expire(now, limit)
    before = table.keys()
    expired = table.expire(now, limit)
    for key in before:
        if key not in table.rows:
            view.note("expire", namespace, key)
    return expired
