"""Conversation turns in `pm_turns` (TRN-1)."""

from collections.abc import Sequence
from typing import Any, Final

import apsw

from polymem.contracts.turns import TurnFeatures, TurnRow
from polymem.core.clock import Clock
from polymem.core.page import Page
from polymem.engines.sqlite._database import Runner
from polymem.engines.sqlite._pace import paced
from polymem.errors import StorageConflictError

_COLUMNS: Final = "id, session_id, turn_id, role, content, metadata, created_at, expires_at"
_SESSION: Final = "namespace = ?1 and session_id = ?2"
_LIVE: Final = "(expires_at is null or expires_at > ?3)"
_SHOWN: Final = "(?4 or expires_at is null or expires_at > ?3)"
"""?3 is now, ?4 whether expired turns are wanted too."""

_HIGHEST: Final = f"select max(turn_id) from pm_turns where {_SESSION}"
_APPEND: Final = (
    f"insert into pm_turns(namespace, {_COLUMNS}) values(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) on conflict do update set "
    "id = ?2, role = ?5, content = ?6, metadata = ?7, created_at = ?8, expires_at = ?9 "
    "where ?10 or pm_turns.expires_at <= ?11"
)
_GET: Final = f"select {_COLUMNS} from pm_turns where {_SESSION} and turn_id = ?5 and {_SHOWN}"
_RECENT: Final = (
    f"select {_COLUMNS} from pm_turns where {_SESSION} and {_SHOWN} order by turn_id desc limit ?5 offset ?6"
)
_PAGE: Final = (
    f"select {_COLUMNS} from pm_turns where {_SESSION} and turn_id > ?5 and {_SHOWN} order by turn_id limit ?6"
)
_DELETE: Final = f"delete from pm_turns where {_SESSION} and turn_id = ?3 returning expires_at"
_TOUCH: Final = f"update pm_turns set expires_at = ?4 where {_SESSION} and {_LIVE}"
_COUNT: Final = f"select count(*) from pm_turns where {_SESSION} and {_SHOWN}"
_COUNT_ALL: Final = f"select count(*) from pm_turns where namespace = ?1 and {_SHOWN} and ?2 is null"
# Each step jumps to the next name, so the cost grows with the sessions, not with the turns.
_SESSIONS: Final = f"""
with recursive names(name) as (
    select min(session_id) from pm_turns where namespace = ?1 and session_id > ?2
    union all
    select (select min(session_id) from pm_turns where namespace = ?1 and session_id > name) from names
    where name is not null)
select name from names
where exists (select 1 from pm_turns where namespace = ?1 and session_id = name and {_LIVE}) limit ?4"""


class SqliteTurns:
    """The turns of one namespace."""

    features = TurnFeatures()

    def __init__(self, runner: Runner, clock: Clock, namespace: str) -> None:
        self._runner, self._clock, self._namespace = runner, clock, namespace

    async def append(self, rows: Sequence[TurnRow], /, *, replace: bool) -> list[int]:
        namespace, now = self._namespace, self._clock.now()

        def append(connection: apsw.Connection) -> list[int]:
            highest: dict[str, int] = {}
            return [_append(connection, namespace, row, highest, (replace, now)) for row in paced(rows)]

        return await self._runner.write(append, savepoint=len(rows) > 1)

    async def get(self, session_id: str, turn_id: int, /, *, include_expired: bool) -> TurnRow | None:
        row = await self._runner.point(_GET, (*self._shown(session_id, include_expired), turn_id))
        return None if row is None else TurnRow(*row)

    async def recent(self, session_id: str, /, *, limit: int, offset: int, include_expired: bool) -> list[TurnRow]:
        return await self._rows(_RECENT, (*self._shown(session_id, include_expired), limit, offset))

    async def page(self, session_id: str, after: int | None, limit: int, /, *, include_expired: bool) -> list[TurnRow]:
        start = -1 if after is None else after
        return await self._rows(_PAGE, (*self._shown(session_id, include_expired), start, limit))

    async def delete(self, session_id: str, turn_ids: Sequence[int], /) -> int:
        namespace, now = self._namespace, self._clock.now()

        def delete(connection: apsw.Connection) -> int:
            gone = [e for turn_id in turn_ids for (e,) in connection.execute(_DELETE, (namespace, session_id, turn_id))]
            return sum(expires_at is None or expires_at > now for expires_at in gone)

        return await self._runner.write(delete, savepoint=len(turn_ids) > 1)

    async def touch(self, session_id: str, /, *, expires_at: int | None) -> int:
        row = (self._namespace, session_id, self._clock.now(), expires_at)

        def touch(connection: apsw.Connection) -> int:
            connection.execute(_TOUCH, row)
            return connection.changes()

        return await self._runner.write(touch)

    async def clear(self, session_id: str, /) -> int:
        shown = self._shown(session_id, include_expired=False)

        def clear(connection: apsw.Connection) -> int:
            live = connection.execute(_COUNT, shown).get
            connection.execute(f"delete from pm_turns where {_SESSION}", shown[:2])
            return int(live)

        return await self._runner.write(clear)

    async def count(self, session_id: str | None, /, *, include_expired: bool) -> int:
        statement = _COUNT_ALL if session_id is None else _COUNT
        shown = self._shown(session_id, include_expired)
        return int(await self._runner.read(lambda c: c.execute(statement, shown).get))

    async def sessions(self, after: str | None, limit: int, /) -> Page[str]:
        row = (self._namespace, after or "", self._clock.now(), limit)
        names = await self._runner.read(lambda c: [name for (name,) in c.execute(_SESSIONS, row)])
        return Page(names, names[-1] if names and len(names) == limit else None)

    def _shown(self, session_id: str | None, include_expired: bool) -> tuple[str, str | None, int, bool]:
        return self._namespace, session_id, self._clock.now(), include_expired

    async def _rows(self, statement: str, parameters: tuple[Any, ...]) -> list[TurnRow]:
        return await self._runner.read(lambda c: [TurnRow(*row) for row in c.execute(statement, parameters)])


def _append(
    connection: apsw.Connection, namespace: str, row: TurnRow, highest: dict[str, int], replace: tuple[bool, int]
) -> int:
    """Store one turn and keep account of the highest turn id of its session; a dead turn may be overwritten."""
    last = highest.get(row.session_id)
    if last is None:
        last = connection.execute(_HIGHEST, (namespace, row.session_id)).get or 0
    turn_id = last + 1 if row.turn_id is None else row.turn_id
    connection.execute(_APPEND, (namespace, *row._replace(turn_id=turn_id), *replace))
    if not connection.changes():
        raise StorageConflictError("a turn with this session and turn id exists", field="turn_id")
    highest[row.session_id] = max(last, turn_id)
    return turn_id
