"""Changes of key-value records as they are committed: `store.kv.watch(prefix)` (EVT-1).

An engine keeps a log of the changes of every namespace that somebody watches. The log is the queue between writers
and readers: readers pull from it at their own pace and never hold up a writer, and it is bounded. A reader that falls
behind what is kept is told so; nothing is left out in silence. (What this store itself does, with values, is told
by `store.on`.)
"""

from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, NamedTuple, Protocol, Self, final

from polymem.contracts._events_hub import Subscription
from polymem.contracts._events_types import Call, Event
from polymem.core.text import check_limit, check_text
from polymem.errors import StorageDataError

__all__ = ["Call", "Change", "ChangePage", "Event", "EventFeatures", "EventsDriver", "Op", "Subscription", "Watch"]

Op = Literal["put", "delete", "expire", "clear"]
PAGE: Final = 500
_WAIT: Final = 10.0
_LONGEST: Final = 1000
"""Characters of a position; Python refuses to read a number of some thousand digits."""


@dataclass(frozen=True, slots=True)
class EventFeatures:
    """What an events cell can do."""

    kept: int
    """About how many changes the log keeps at most; a reader further behind is refused."""
    cross_process: bool = True
    """Changes made by other processes are seen too."""
    resumable: bool = True
    """A position is good for another instance, and after the database was closed and opened again."""


class Change(NamedTuple):
    """One committed change. It says what happened to a key, not its value: `get` tells what is there now."""

    op: Op
    """"put": written in whatever way, or given another expiry. "delete": removed. "expire": removed after it had
    expired. "clear": everything in the namespace was removed."""
    key: str | None
    """None where `op` is "clear"."""
    position: str
    """Behind this change, for `watch(after=...)`: opaque text without spaces."""


class ChangePage(NamedTuple):
    """Changes in the order of their commits, and where to read on; equal to the last position or behind it."""

    changes: list[Change]
    position: str


class EventsDriver(Protocol):
    """The log of one namespace: exactly its committed changes, never those of another one, each exactly once.

    Nothing need be logged, and writers should pay nothing, before the first `begin`. What is undone by a rollback,
    also of a savepoint, never appears, and the changes of one transaction appear together. A record that was there
    and is gone is one change: removing a key that was absent is none, neither is clearing an empty namespace. Inside
    a transaction there is no such driver (`Drivers.events` is None).
    """

    @property
    def features(self) -> EventFeatures: ...

    async def begin(self) -> str:
        """Log this namespace from now on, at the latest; the position behind its newest committed change.

        Idempotent. An engine may stop logging a namespace that nobody has read for a day, and log it anew later:
        positions from before are then lost.
        """
        ...

    async def read(self, after: str, limit: int, /, *, wait: float) -> ChangePage | None:
        """At most `limit` changes behind a position, at once where there are some.

        Otherwise the first ones that are committed within `wait` seconds, else an empty page; returning early with
        an empty page is allowed. Safe to cancel and to repeat: reading changes nothing. None where the position is
        lost: the log was trimmed beyond it, starts later, is another one, or the text is no position at all. Closing
        the engine ends the wait with a `StorageConnectionError`.
        """
        ...


@final
class Watch:
    """The committed changes of one namespace whose keys start with a prefix, and every "clear".

        async with store.kv.watch("user/") as changes:   # nothing that is committed from here on is missed
            ...                                          # load what is there now
            async for change in changes: ...

    Without `async with` it begins at the first step. It never ends by itself. A change that is read was committed;
    a `get` may show a later state already. Where the log no longer reaches back to where this reader stands (it
    was too slow, or `after` is too old) it raises `StorageDataError`, field "after": begin anew without `after` and
    load everything again. One reader per object.
    """

    def __init__(self, driver: EventsDriver, prefix: str, after: str | None) -> None:
        if after is not None and (not isinstance(after, str) or len(after) > _LONGEST):
            raise StorageDataError("expected the position of an earlier watch or None", field="after")
        self._driver, self._prefix = driver, check_text(prefix, field="prefix")
        self._position = after
        self._ahead: deque[Change] = deque()
        self._behind_page = after

    @property
    def position(self) -> str | None:
        """Behind the last change handed over: `watch(prefix, after=position)` goes on there. None before it begins."""
        return self._position

    async def __aenter__(self) -> Self:
        await self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """There is nothing to release."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        while not self._ahead:
            await self._fetch(_WAIT)
        return self._next()

    async def read(self, limit: int = PAGE, *, wait: float = 0.0) -> list[Change]:
        """The changes that are there, at most `limit`; where there are none, those of the next `wait` seconds."""
        check_limit(limit)
        if isinstance(wait, bool) or not isinstance(wait, (int, float)) or not wait >= 0:
            raise StorageDataError("expected seconds, 0 for what is there now", field="wait")
        if not self._ahead:
            await self._fetch(wait)
        return [self._next() for _ in range(min(limit, len(self._ahead)))]

    def _next(self) -> Change:
        change = self._ahead.popleft()
        self._position = change.position if self._ahead else self._behind_page
        return change

    async def _begin(self) -> str:
        if self._behind_page is None:
            self._position = self._behind_page = await self._driver.begin()
        return self._behind_page

    async def _fetch(self, wait: float) -> None:
        page = await self._driver.read(await self._begin(), PAGE, wait=wait)
        if page is None:
            raise StorageDataError(
                "the log no longer reaches back to this position: watch anew without it, and load everything again",
                field="after",
            )
        self._ahead.extend(c for c in page.changes if c.key is None or c.key.startswith(self._prefix))
        self._behind_page = page.position
        if not self._ahead:
            self._position = page.position
