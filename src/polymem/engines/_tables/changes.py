"""The latest changes of one namespace, in memory while the engine is open."""

import asyncio
from collections import deque
from itertools import islice
from typing import Final

from polymem.contracts.events import Change, ChangePage, Op
from polymem.core.ids import uuid7

KEPT: Final = 10_000


class ChangeLog:
    """The latest changes of one namespace; the oldest fall out when there is no more room."""

    def __init__(self) -> None:
        self._id, self._count = uuid7(), 0
        self._kept: deque[Change] = deque(maxlen=KEPT)
        self.news = asyncio.Event()
        """Set at the next change, or when the log is given up."""

    @property
    def position(self) -> str:
        return f"{self._id}.{self._count}"

    def append(self, op: Op, key: str | None) -> None:
        self._count += 1
        self._kept.append(Change(op, key, self.position))

    def tell(self) -> None:
        """Wake whoever waits for news."""
        self.news.set()
        self.news = asyncio.Event()

    def page(self, after: str, limit: int) -> ChangePage | None:
        log, _, number = after.rpartition(".")
        if log != self._id or not (number.isascii() and number.isdecimal()):
            return None
        missing = self._count - int(number)
        if not 0 <= missing <= len(self._kept):
            return None
        changes = list(islice(self._kept, len(self._kept) - missing, len(self._kept) - missing + limit))
        return ChangePage(changes, changes[-1].position if changes else after)
