"""Conversation turns in `active_context` (TRN-1, PG-1)."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]
import msgspec

from polymem.contracts.turns import TurnFeatures, TurnRow
from polymem.core.clock import Clock, to_datetime
from polymem.core.page import Page
from polymem.engines.postgres._runner import Runner
from polymem.errors import StorageConflictError

_encode: Final = msgspec.json.Encoder().encode
_COLUMNS: Final = (
    "uid, turn_id, role, content, encoded, coalesce(metadata_text, metadata::text), "
    "timestamptz_send(created_at), timestamptz_send(ttl_expires_at)"
)
"""Instants as the server has them, 8 bytes: microseconds since 2000 are at once what rows hold, a datetime is not."""
_FROM_2000: Final = 946_684_800_000_000
_FIRST: Final = -62_135_596_800_000_000
_LAST: Final = 253_402_300_799_999_999
"""The first and the last microsecond of a datetime, for what others wrote as infinity."""
_SESSION: Final = "tenant = $1 and session_id = $2"
_LIVE: Final = "(ttl_expires_at is null or ttl_expires_at > $3)"
_SHOWN: Final = "($4 or ttl_expires_at is null or ttl_expires_at > $3)"
"""$3 is now, $4 whether expired turns are wanted too."""

_APPEND: Final = (
    "select pm_append_turns($1, $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::boolean[], "
    "$8::text[], $9::timestamptz[], $10::timestamptz[], $11, $12)"
)
_APPEND_ONE: Final = """
insert into active_context(tenant, session_id, turn_id, uid, role, content, encoded, metadata, metadata_text, created_at,
ttl_expires_at) select $1, $2, coalesce(max(turn_id), 0) + 1, $3, $4, $5, $6, $7::text::jsonb, nullif($7, '{}'), $8, $9
from active_context where tenant = $1 and session_id = $2 on conflict do nothing returning turn_id"""
_GET: Final = f"select {_COLUMNS} from active_context where {_SESSION} and turn_id = $5 and {_SHOWN}"
# The limit is a literal: of a parameter the server would guess so much that it plans anew each time.
_RECENT: Final = f"select {_COLUMNS} from active_context where {_SESSION} and {_SHOWN} order by turn_id desc limit "
_PAGE: Final = (
    f"select {_COLUMNS} from active_context where {_SESSION} and turn_id > $5 and {_SHOWN} order by turn_id limit $6"
)
_GONE: Final = f"returning ttl_expires_at) select count(*) from gone where {_LIVE}"
_DELETE: Final = f"with gone as (delete from active_context where {_SESSION} and turn_id = any($4) {_GONE}"
_CLEAR: Final = f"with gone as (delete from active_context where {_SESSION} {_GONE}"
_TOUCH: Final = (
    f"with touched as (update active_context set ttl_expires_at = $4 where {_SESSION} and {_LIVE} returning 1) "
    "select count(*) from touched"
)
_COUNT: Final = f"select count(*) from active_context where {_SESSION} and {_SHOWN}"
_COUNT_ALL: Final = f"select count(*) from active_context where tenant = $1 and $2::text is null and {_SHOWN}"
# each step jumps to the next name, so the cost grows with the sessions, not with the turns
_NEXT: Final = "select session_id from active_context where tenant = $1 and session_id > {} order by session_id limit 1"
_SESSIONS: Final = f"""
with recursive names(name) as (
    ({_NEXT.format("$2")}) union all select ({_NEXT.format("name")}) from names where name is not null)
select name from names where name is not null
and exists (select 1 from active_context where tenant = $1 and session_id = name and {_LIVE}) limit $4"""


class PostgresTurns:
    """The turns of one namespace, which the table calls tenant."""

    features = TurnFeatures()

    def __init__(self, runner: Runner, clock: Clock, namespace: str) -> None:
        self._runner, self._clock, self._tenant = runner, clock, tenant_of(namespace)

    async def append(self, rows: Sequence[TurnRow], /, *, replace: bool) -> list[int]:
        if len(rows) == 1 and rows[0].turn_id is None:
            session_id, _, *values = _stored(rows[0])
            if made := await self._runner.point(_APPEND_ONE, self._tenant, session_id, *values):
                return [made[0][0]]  # else somebody took the number
        try:
            async with self._runner.attempt() as fetch:
                numbers: list[int] = (await fetch(_APPEND, self._tenant, *_columns(rows), replace, self._now()))[0][0]
        except asyncpg.UniqueViolationError as error:
            raise StorageConflictError("a turn with this session and turn id exists", field="turn_id") from error
        return numbers

    async def get(self, session_id: str, turn_id: int, /, *, include_expired: bool) -> TurnRow | None:
        rows = await self._rows(_GET, session_id, include_expired, turn_id)
        return rows[0] if rows else None

    async def recent(self, session_id: str, /, *, limit: int, offset: int, include_expired: bool) -> list[TurnRow]:
        if not offset:
            return await self._rows(f"{_RECENT}{limit}", session_id, include_expired)
        return await self._rows(f"{_RECENT}{limit} offset $5", session_id, include_expired, offset)

    async def page(self, session_id: str, after: int | None, limit: int, /, *, include_expired: bool) -> list[TurnRow]:
        start = -1 if after is None else after
        return await self._rows(_PAGE, session_id, include_expired, start, limit)

    async def delete(self, session_id: str, turn_ids: Sequence[int], /) -> int:
        return await self._number(_DELETE, self._tenant, session_id, self._now(), turn_ids)

    async def touch(self, session_id: str, /, *, expires_at: int | None) -> int:
        until = None if expires_at is None else to_datetime(expires_at)
        return await self._number(_TOUCH, self._tenant, session_id, self._now(), until)

    async def clear(self, session_id: str, /) -> int:
        return await self._number(_CLEAR, self._tenant, session_id, self._now())

    async def count(self, session_id: str | None, /, *, include_expired: bool) -> int:
        statement = _COUNT_ALL if session_id is None else _COUNT
        return await self._number(statement, *self._shown(session_id, include_expired))

    async def sessions(self, after: str | None, limit: int, /) -> Page[str]:
        rows = await self._runner.fetch(_SESSIONS, self._tenant, after or "", self._now(), limit)
        return Page([row[0] for row in rows], rows[-1][0] if rows and len(rows) == limit else None)

    def _shown(self, session_id: str | None, include_expired: bool) -> tuple[Any, ...]:
        return self._tenant, session_id, self._now(), include_expired

    def _now(self) -> datetime:
        return to_datetime(self._clock.now())

    async def _rows(self, statement: str, session_id: str, include_expired: bool, *values: int) -> list[TurnRow]:
        shown = self._shown(session_id, include_expired)
        return [_read(session_id, row) for row in await self._runner.point(statement, *shown, *values)]

    async def _number(self, statement: str, *values: Any) -> int:
        return int((await self._runner.fetch(statement, *values))[0][0])


def tenant_of(namespace: str) -> str:
    """The tenant in the table: the encoded namespace without the `/` that ends it; '' is the root."""
    return namespace[:-1]


def _columns(rows: Sequence[TurnRow]) -> Iterator[tuple[Any, ...]]:
    return zip(*map(_stored, rows), strict=True)


def _stored(row: TurnRow) -> tuple[Any, ...]:
    """A row as the function takes it: content that is one JSON string as plain text."""
    plain = row.content.startswith('"')
    content = msgspec.json.decode(row.content) if plain else row.content
    expires_at = None if row.expires_at is None else to_datetime(row.expires_at)
    return (
        row.session_id, row.turn_id, row.id, row.role, content, not plain, row.metadata, to_datetime(row.created_at),
        expires_at,
    )  # fmt: skip


def _read(session_id: str, row: Any) -> TurnRow:
    uid, turn_id, role, content, encoded, metadata, created_at, expires_at = row
    text = content if encoded else _encode(content).decode()
    until = None if expires_at is None else _instant(expires_at)
    return TurnRow(uid, session_id, turn_id, role, text, metadata, _instant(created_at), until)


def _instant(sent: bytes) -> int:
    return max(min(int.from_bytes(sent, signed=True) + _FROM_2000, _LAST), _FIRST)
