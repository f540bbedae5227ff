"""One connection that listens for notifications, and wakes those who wait for changes of a namespace."""

import asyncio
import logging
from hashlib import md5
from typing import Any, Final

from polymem.engines.postgres._connecting import Connector

_log = logging.getLogger("polymem.engines.postgres")
CHANNEL: Final = "pm_kv_changes"
_AGAIN: Final = 1.0
"""Seconds after which a lost connection is sought again."""


class Listener:
    """Connects when somebody first waits. Notifications are hints: readers also look by themselves now and then, and
    often where there is no way past a pooler.
    """

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self.heard = False
        """Whether notifications are heard now."""
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._task: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()
        self._closed = False

    def reopen(self) -> None:
        self._closed = False

    def subscribe(self, namespace: str) -> asyncio.Event:
        """An event that is set with each notification of the namespace from now on; `unsubscribe` it."""
        event = asyncio.Event()
        self._waiting.setdefault(_payload(namespace), set()).add(event)
        if self._task is None and self._connector.listens and not self._closed:
            self._task = asyncio.create_task(self._listen())
        return event

    def unsubscribe(self, namespace: str, event: asyncio.Event) -> None:
        waiting = self._waiting.get(_payload(namespace), set())
        waiting.discard(event)
        if not waiting:
            self._waiting.pop(_payload(namespace), None)

    async def close(self) -> None:
        self._closed = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._wake_all()

    async def _listen(self) -> None:
        while True:
            try:
                await self._follow()
            except Exception as error:  # noqa: BLE001 - whatever it is, readers go on without being woken
                _log.debug("not listening for changes: %s", type(error).__name__)
            await asyncio.sleep(_AGAIN)

    async def _follow(self) -> None:
        """Listen until the connection is lost."""
        connection = await self._connector.direct()
        try:
            self._lost.clear()
            connection.add_termination_listener(lambda *_: self._lost.set())
            await connection.add_listener(CHANNEL, self._notified)
            self.heard = True
            self._wake_all()  # what came before nobody heard
            await self._lost.wait()
        finally:
            self.heard = False
            connection.terminate()

    def _notified(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        for event in self._waiting.get(str(payload), ()):
            event.set()

    def _wake_all(self) -> None:
        for events in self._waiting.values():
            for event in events:
                event.set()


def _payload(namespace: str) -> str:
    return md5(namespace.encode(), usedforsecurity=False).hexdigest()
