"""Which records are written, by whomever, read again and again from notes that triggers make (CCH-2).

No NOTIFY: commits that send one wait for each other, up to the end of their fsync. A look finds what was committed
since the last one, whatever the order of the transactions: the rows that the new snapshot shows and the old one did not.
What was acknowledged before a look was sent has been told when its answer is there.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]

from polymem.core.engine import Hearer
from polymem.engines.postgres._connecting import Connector
from polymem.engines.postgres._errors import translate
from polymem.engines.postgres._pool import Link
from polymem.engines.postgres._runner import PoolRunner
from polymem.errors import StorageConnectionError, StorageUnsupportedError

_log = logging.getLogger("polymem.engines.postgres")
_IDLE: Final = "10 minutes"
"""After which triggers go that nobody has use for, and what they have noted."""
_KEPT: Final = 10.0
"""Seconds for which notes are kept at least."""
_MOST: Final = 10_000
"""Notes that are told one by one; when there are more, anything may have been written."""
_LONGEST_PAUSE: Final = 1.0
_FIRST_PAUSE: Final = 0.05
# who goes by a snapshot knows what is in progress there: everything else below its end was shown
_LOOK: Final = f"""
select t.id, pg_postmaster_start_time(), t.trims, pg_current_snapshot()::text, n.namespace, n.keys
from pm_telling t left join (
    select namespace, keys from pm_told where xid >= pg_snapshot_xmax($1::text::pg_snapshot)
    union all
    select namespace, keys from pm_told where xid = any(array(select pg_snapshot_xip($1::text::pg_snapshot)))
    limit {_MOST}) n on true"""
# what was committed before the last trim was told to everybody who has looked since
_TRIM: Final = f"""
with due as (
    select id, snapshot from pm_telling where at < clock_timestamp() - interval '{_KEPT:g} s' for update skip locked),
noted as (
    update pm_telling t set trims = trims + 1, snapshot = pg_current_snapshot(), at = clock_timestamp()
    from due where t.id = due.id)
delete from pm_told using due where xid < pg_snapshot_xmax(due.snapshot) and pg_visible_in_snapshot(xid, due.snapshot)"""


class Notes:
    """Reads the notes on a connection of its own; when anything is amiss, what was heard counts for nothing, and all
    begins anew.
    """

    def __init__(self, connector: Connector, hearer: Hearer, heard: Callable[[], None], within: float) -> None:
        """`within` is how late a write may be told, in seconds; `heard` is called before anything is told."""
        self._connector, self._hearer, self._heard, self._within = connector, hearer, heard, within
        self._every = min(within, _LONGEST_PAUSE) / 3
        self._link: Link | None = None
        self._name: tuple[Any, Any] | None = None
        self._trims, self._snapshot = 0, ""
        self._trimmed = self._proven = -math.inf
        self._task: asyncio.Task[None] | None = None

    def current(self) -> bool:
        return self._proven >= monotonic() - self._within

    async def open(self) -> "Notes":
        """`StorageUnsupportedError` where the role may not have writes noted, or nobody may."""
        try:
            await self._begin()
        except BaseException as error:
            await self._end()
            if isinstance(error, asyncpg.InsufficientPrivilegeError):
                raise StorageUnsupportedError("the role may not have writes noted; see polymem db grants") from error
            if isinstance(error, Exception) and (failure := translate(error)) is not None:
                raise failure from error
            raise
        self._task = asyncio.create_task(self._follow())
        return self

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._end()

    async def _begin(self) -> None:
        """Return when everything that is written from now on will be told."""
        link = self._link = await self._connector.link()
        await self._trim(link)
        asked, rows = monotonic(), await link.fetch(_LOOK, None)
        if not rows:
            await link.fetch("select pm_tell()")
            asked, rows = monotonic(), await link.fetch(_LOOK, None)
        link.timeout = self._connector.patience
        self._name = None
        self._heard()
        self._hearer.drop()  # of what was written before nobody heard
        self._note(asked, rows)

    async def _end(self) -> None:
        link, self._link, self._proven = self._link, None, -math.inf
        self._hearer.drop()
        if link is not None:
            await self._connector.unlink(link)

    async def _follow(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                if self._link is None:
                    await self._begin()
                pause = _FIRST_PAUSE
                await self._look(self._link)
            except Exception as error:  # noqa: BLE001 - whatever it is, listen again
                _log.debug("not listening for changes: %s", type(error).__name__)
                if self._link is not None:
                    self._link.raw.terminate()
            await self._end()
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _look(self, link: Any) -> None:
        """Look again and again, until that makes no sense any more, which raises."""
        while True:
            if self._trimmed < monotonic() - _KEPT:
                await self._trim(link)
            asked = monotonic()
            self._note(asked, await link.fetch(_LOOK, self._snapshot))
            await asyncio.sleep(self._every)

    async def _trim(self, link: Link) -> None:
        self._trimmed = monotonic()
        await link.fetch(_TRIM)

    def _note(self, asked: float, rows: list[Any]) -> None:
        """Of one more trim than was known everything had been read, of two perhaps not."""
        name, trims = (tuple(rows[0][:2]), rows[0][2]) if rows else (None, 0)
        if name is None or (self._name is not None and (name != self._name or trims > self._trims + 1)):
            raise StorageConnectionError("the notes of what was written are others, or some are gone", retryable=True)
        self._tell([(namespace, keys) for *_, namespace, keys in rows if namespace is not None])
        self._name, self._trims, self._snapshot, self._proven = name, trims, rows[0][3], asked

    def _tell(self, notes: list[tuple[str, list[str] | None]]) -> None:
        if not notes:
            return
        self._heard()
        if len(notes) == _MOST:
            self._hearer.drop()
            return
        for namespace, keys in notes:
            for key in [None] if keys is None else keys:
                self._hearer.changed(namespace, key)


async def end_unread(runner: PoolRunner) -> None:
    """Note nothing any more when nobody has read for a while."""
    await runner.fetch("select pm_untell($1::text::interval)", _IDLE)


async def forget(runner: PoolRunner) -> None:
    """Remove every note: it names deleted records. Who has not read them begins anew."""
    async with runner.unit() as link:
        await link.run("update pm_telling set trims = trims + 2; delete from pm_told")
