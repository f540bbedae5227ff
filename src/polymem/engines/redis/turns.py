"""Conversation turns: a sorted set for each session, changed and read in one round trip (TRN-1, RD-1)."""

from collections.abc import Sequence
from itertools import groupby
from struct import Struct
from typing import Any, Final

import msgspec

from polymem.contracts.turns import TurnFeatures, TurnRow
from polymem.core.clock import MICROSECONDS
from polymem.core.page import Page
from polymem.engines.redis._address import TurnOptions
from polymem.engines.redis._keys import names
from polymem.engines.redis._record import NEVER
from polymem.engines.redis._server import Server
from polymem.engines.redis._turn_scripts import (
    APPEND,
    CLEAR_SESSION,
    COUNT_TURNS,
    DELETE_TURNS,
    LIST,
    LIVE_SESSIONS,
    TOUCH_SESSION,
)
from polymem.errors import StorageConflictError, StorageCorruptError

_DIGITS: Final = 16
_INSTANT: Final = Struct(">q")
_REST_AT: Final = _DIGITS + _INSTANT.size
_SESSIONS: Final = 500
_PACKER: Final = msgspec.msgpack.Encoder()
_UNPACKER: Final = msgspec.msgpack.Decoder(tuple[str, str, str, str, int])


class RedisTurns:
    """The turns of one namespace."""

    def __init__(self, server: Server, prefix: str, namespace: str, options: TurnOptions) -> None:
        self._server, self._namespace, self._options = server, namespace, options
        self._names = names(prefix, namespace)

    @property
    def features(self) -> TurnFeatures:
        return TurnFeatures(durable=self._server.durable, window=self._options.window)

    async def append(self, rows: Sequence[TurnRow], /, *, replace: bool) -> list[int]:
        await self._server.register(self._namespace)
        numbers: list[int] = []
        for session_id, some in groupby(rows, key=lambda row: row.session_id):
            numbers += await self._append(session_id, list(some), replace=replace)
        return numbers

    async def get(self, session_id: str, turn_id: int, /, *, include_expired: bool) -> TurnRow | None:
        low, high = b"[" + digits(turn_id), b"(" + digits(turn_id) + b"\xff"
        found = await self._list(session_id, low, high, limit=1, include_expired=include_expired)
        return found[0] if found else None

    async def recent(self, session_id: str, /, *, limit: int, offset: int, include_expired: bool) -> list[TurnRow]:
        return await self._list(
            session_id, b"-", b"+", limit=limit, offset=offset, newest_first=True, include_expired=include_expired
        )

    async def page(self, session_id: str, after: int | None, limit: int, /, *, include_expired: bool) -> list[TurnRow]:
        low = b"-" if after is None else b"(" + digits(after) + b"\xff"
        return await self._list(session_id, low, b"+", limit=limit, include_expired=include_expired)

    async def delete(self, session_id: str, turn_ids: Sequence[int], /) -> int:
        ids = map(digits, turn_ids)
        return int(await self._server.run(DELETE_TURNS, self._keys(session_id), [self._now(), session_id, *ids]))

    async def touch(self, session_id: str, /, *, expires_at: int | None) -> int:
        now, keys = self._now(), [self._names.turns + session_id.encode(), self._names.expiring]
        until = _INSTANT.pack(NEVER if expires_at is None else expires_at)
        life = self._server.life([expires_at], now)
        return int(await self._server.run(TOUCH_SESSION, keys, [now, session_id, until, life]))

    async def clear(self, session_id: str, /) -> int:
        return int(await self._server.run(CLEAR_SESSION, self._keys(session_id), [self._now(), session_id]))

    async def clear_all(self) -> int:
        """Every session; how many live turns there were."""
        removed = 0
        while some := await self._server.call("ZRANGE", self._names.sessions, 0, _SESSIONS - 1):
            removed += sum([await self.clear(session.decode()) for session in some])
        return removed

    async def count(self, session_id: str | None, /, *, include_expired: bool) -> int:
        if session_id is not None:
            return await self._count([session_id.encode()], include_expired=include_expired)
        total, low = 0, b"-"
        while True:
            some: list[bytes] = await self._server.call(
                "ZRANGEBYLEX", self._names.sessions, low, "+", "LIMIT", 0, _SESSIONS
            )
            if not some:
                return total
            total += await self._count(some, include_expired=include_expired)
            low = b"(" + some[-1]

    async def sessions(self, after: str | None, limit: int, /) -> Page[str]:
        found: list[str] = []
        low = b"-" if after is None else b"(" + after.encode()
        while True:
            live, last = await self._server.run(
                LIVE_SESSIONS,
                [self._names.sessions, self._names.expiring],
                [self._now(), self._names.turns, low, _SESSIONS],
                finish=False,
            )
            found += [session.decode() for session in live]
            if len(found) > limit:
                return Page(found[:limit], found[limit - 1])
            if last is None:
                return Page(found, None)
            low = b"(" + last

    async def _append(self, session_id: str, rows: Sequence[TurnRow], *, replace: bool) -> list[int]:
        now, window = self._now(), self._options.window
        words = [word for row in rows for word in (b"" if row.turn_id is None else digits(row.turn_id), rest(row))]
        life = self._server.life([row.expires_at for row in rows], now)
        arguments = [now, "" if window is None else window, int(replace), session_id, life, *words]
        ids = await self._server.run(APPEND, self._keys(session_id), arguments)
        if ids is None:
            raise StorageConflictError("a turn with this session and turn id exists", field="turn_id")
        return [int(one) for one in ids]

    async def _list(
        self,
        session_id: str,
        low: bytes,
        high: bytes,
        *,
        limit: int,
        include_expired: bool,
        offset: int = 0,
        newest_first: bool = False,
    ) -> list[TurnRow]:
        now = self._now()
        keys = [self._names.turns + session_id.encode(), self._names.expiring]
        order = [session_id, int(newest_first), low, high, limit, offset]
        arguments = ["" if include_expired else now, *order, *self._refreshed(now)]
        found = await self._server.run(LIST, keys, arguments, finish=self._options.refresh_on_read)
        return [turn_row(session_id, member) for member in found]

    def _refreshed(self, now: int) -> tuple[Any, Any]:
        if not self._options.refresh_on_read:
            return "", ""
        until = now + round(self._options.ttl * MICROSECONDS)
        return _INSTANT.pack(until), self._server.life([until], now)

    async def _count(self, sessions: Sequence[bytes], *, include_expired: bool) -> int:
        now = "" if include_expired else self._now()
        counted = await self._server.run(
            COUNT_TURNS, [self._names.expiring], [now, self._names.turns, *sessions], finish=False
        )
        return int(counted)

    def _keys(self, session_id: str) -> list[bytes]:
        return [self._names.turns + session_id.encode(), self._names.sessions, self._names.expiring]

    def _now(self) -> int:
        return self._server.clock.now()


def digits(turn_id: int) -> bytes:
    """Sorts as the number does."""
    return b"%016d" % turn_id


def rest(row: TurnRow) -> bytes:
    """What follows the turn id in a member."""
    expires = NEVER if row.expires_at is None else row.expires_at
    return _INSTANT.pack(expires) + _PACKER.encode((row.id, row.role, row.content, row.metadata, row.created_at))


def turn_row(session_id: str, member: bytes) -> TurnRow:
    try:
        turn_id, expires = int(member[:_DIGITS]), _INSTANT.unpack_from(member, _DIGITS)[0]
        id, role, content, metadata, created_at = _UNPACKER.decode(member[_REST_AT:])
    except (ValueError, msgspec.DecodeError) as error:
        raise StorageCorruptError("a stored turn is damaged, or was not written by this library") from error
    return TurnRow(id, session_id, turn_id, role, content, metadata, created_at, None if expires == NEVER else expires)
