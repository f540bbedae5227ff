"""Changes of key-value records, those of other processes too: a stream for each namespace that is watched (EVT-1)."""

import asyncio
import re
from random import getrandbits
from typing import Any, Final, cast

from polymem.contracts.events import Change, ChangePage, EventFeatures, Op
from polymem.engines.redis._keys import names
from polymem.engines.redis._scripts import KEPT, READ_LOG, WATCH
from polymem.engines.redis._server import Server

_DAY: Final = 86_400_000
"""How long a log is kept that nobody reads, in milliseconds."""
_POSITION: Final = re.compile(r"([0-9]{1,15})-([0-9]{1,15})", re.ASCII)
_EPOCH_BITS: Final = 48
_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.05


class RedisEvents:
    """The log of one namespace, written by the scripts that write records. A reader that waits asks every 50 ms."""

    features = EventFeatures(kept=KEPT)

    def __init__(self, server: Server, prefix: str, namespace: str) -> None:
        self._server, self._log = server, names(prefix, namespace).log

    async def begin(self) -> str:
        last: bytes = await self._server.run(WATCH, [self._log], [getrandbits(_EPOCH_BITS), _DAY])
        return last.decode()

    async def read(self, after: str, limit: int, /, *, wait: float) -> ChangePage | None:
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + wait, _FIRST_PAUSE
        while True:
            page = await self._page(after, limit)
            if page is None or page.changes or loop.time() >= deadline:
                return page
            await asyncio.sleep(min(pause, max(deadline - loop.time(), 0)))
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _page(self, after: str, limit: int) -> ChangePage | None:
        position = _POSITION.fullmatch(after)
        if position is None:
            return None
        found = await self._server.run(READ_LOG, [self._log], [*position.groups(), limit, _DAY], finish=False)
        if found is None:
            return None
        changes = [_change(*entry) for entry in found]
        return ChangePage(changes, changes[-1].position if changes else after)


def _change(id: bytes, fields: list[Any]) -> Change:
    op = cast("Op", fields[1].decode())
    return Change(op, None if op == "clear" else fields[3].decode(), id.decode())
