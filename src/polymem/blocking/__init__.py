"""Polymem for synchronous callers (scripts, notebooks): one explicit portal, owned and closed by its caller.

    with polymem.blocking.open("sqlite:///agent.db") as store:
        store.kv.put("theme", {"dark": True})
        for key in store.kv.scan():
            ...

    with polymem.blocking.Memory.open("sqlite:///agent.db", tenant="acme") as memory:
        memory.session("s1").add("user", "I moved to Lisbon")

A `Portal` is a thread with an event loop of its own, so it works where a loop already runs (it blocks that loop for
the time of the call). What it gives out mirrors the asynchronous objects: a method that is awaited there returns its
result here, async iterators are iterators, async context managers are context managers. Signatures and behaviour are
those of the asynchronous classes; since they are mirrored at run time, type checkers see `Any`.

Any thread may use a portal. Each thread has its own transactions, as each task has in asyncio.
"""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import polymem.config
from polymem.blocking.mirrors import Blocking, BlockingTransactions
from polymem.blocking.portal import Portal
from polymem.errors import StorageConnectionError

__all__ = ["Blocking", "BlockingMemory", "BlockingStore", "Memory", "Portal", "open"]


class _Owner(Blocking):
    """A mirror that was opened here, so closing it closes what it was opened with."""

    def __init__(self, portal: Portal, target: Any, *, owned: bool) -> None:
        super().__init__(portal, target)
        self._owned, self._closed = owned, False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> Self:
        """Open already, unless closed: then StorageConnectionError."""
        if self._closed:
            raise StorageConnectionError("the store is closed")
        return self

    def close(self) -> None:
        """Close the store, and its portal unless one was handed in. Closing twice is harmless."""
        if self._closed:
            return
        self._closed = True
        try:
            self._portal.call(self._target.close)
        finally:
            if self._owned:
                self._portal.close()


class BlockingStore(_Owner, BlockingTransactions):
    """A `polymem.Store`, opened; the methods are those of `Store`, without await."""


def open(url: str | Path | None = None, *, portal: Portal | None = None, **options: Any) -> BlockingStore:
    """An opened store; `url` and `options` as for `polymem.open`.

    Without a `portal` it starts its own, which `close()` ends; several stores may share one that is handed in.
    """
    return BlockingStore(*_opened(portal, lambda: polymem.config.open(url, **options)), owned=portal is None)


class BlockingMemory(_Owner):
    """A `polymem.Memory`, opened; the methods are those of `Memory`, without await."""


class Memory:
    """Where a blocking memory comes from: `polymem.blocking.Memory.open(...)`."""

    @staticmethod
    def open(url: str | Path | None = None, *, portal: Portal | None = None, **options: Any) -> BlockingMemory:
        """An opened memory; `url` and `options` (tenant=, embed=, ...) as for `polymem.Memory.open`."""
        from polymem.memory.memory import Memory as AsyncMemory  # noqa: PLC0415 - slow, and a plain store needs none of it

        return BlockingMemory(*_opened(portal, lambda: AsyncMemory.open(url, **options)), owned=portal is None)


def _opened(portal: Portal | None, make: Callable[[], Any]) -> tuple[Portal, Any]:
    entrance = portal or Portal()
    try:
        target = entrance.call(make)
        return entrance, entrance.call(target.__aenter__)
    except BaseException:
        if portal is None:
            entrance.close()
        raise
