"""Conversation turns within a transaction: a session is loaded whole."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Final

from polymem.contracts.turns import TurnFeatures, TurnRow
from polymem.core.clock import MICROSECONDS
from polymem.core.page import Page
from polymem.engines.redis._address import TurnOptions
from polymem.engines.redis._keys import names
from polymem.engines.redis._line import Command
from polymem.engines.redis._overlay import Overlay, Place
from polymem.engines.redis._server import Server
from polymem.engines.redis._staging import in_full
from polymem.engines.redis._turn_scripts import STORE_SESSION
from polymem.engines.redis.turns import digits, rest, turn_row
from polymem.errors import StorageConflictError

_KIND: Final = "turns"
Session = Mapping[int, TurnRow]
"""By turn id, in order."""


class OverlayTurns:
    """The turns of one namespace. Each operation loads what it needs first and then never waits: it is atomic."""

    def __init__(self, server: Server, overlay: Overlay, namespace: str, options: TurnOptions) -> None:
        self._server, self._overlay, self._namespace, self._options = server, overlay, namespace, options
        self._names = names(server.prefix, namespace)

    @property
    def features(self) -> TurnFeatures:
        return TurnFeatures(durable=self._server.durable, window=self._options.window)

    async def append(self, rows: Sequence[TurnRow], /, *, replace: bool) -> list[int]:
        await self._load(list(dict.fromkeys(row.session_id for row in rows)))
        sessions = {row.session_id: dict(self._session(row.session_id)) for row in rows}
        numbers = [self._add(sessions[row.session_id], row, replace=replace) for row in rows]
        for session_id, session in sessions.items():
            self._stage(session_id, session)
        return numbers

    async def get(self, session_id: str, turn_id: int, /, *, include_expired: bool) -> TurnRow | None:
        rows = [row for row in await self._rows(session_id, include_expired=include_expired) if row.turn_id == turn_id]
        return self._refreshed(session_id, rows)[0] if rows else None

    async def recent(self, session_id: str, /, *, limit: int, offset: int, include_expired: bool) -> list[TurnRow]:
        rows = reversed(await self._rows(session_id, include_expired=include_expired))
        return self._refreshed(session_id, list(islice(rows, offset, offset + limit)))

    async def page(self, session_id: str, after: int | None, limit: int, /, *, include_expired: bool) -> list[TurnRow]:
        rows = await self._rows(session_id, include_expired=include_expired)
        later = (row for row in rows if after is None or (row.turn_id or 0) > after)
        return self._refreshed(session_id, list(islice(later, limit)))

    async def delete(self, session_id: str, turn_ids: Sequence[int], /) -> int:
        rows = await self._rows(session_id, include_expired=False)
        gone = {row.turn_id for row in rows} & set(turn_ids)
        kept = {number: row for number, row in self._session(session_id).items() if number not in turn_ids}
        self._stage(session_id, kept)
        return len(gone)

    async def touch(self, session_id: str, /, *, expires_at: int | None) -> int:
        rows = await self._rows(session_id, include_expired=False)
        later = {row.turn_id or 0: row._replace(expires_at=expires_at) for row in rows}
        self._stage(session_id, {**self._session(session_id), **later})
        return len(later)

    async def clear(self, session_id: str, /) -> int:
        rows = await self._rows(session_id, include_expired=False)
        self._stage(session_id, {})
        return len(rows)

    async def count(self, session_id: str | None, /, *, include_expired: bool) -> int:
        sessions = await self._all() if session_id is None else [session_id]
        return sum([len(await self._rows(one, include_expired=include_expired)) for one in sessions])

    async def sessions(self, after: str | None, limit: int, /) -> Page[str]:
        later = [name for name in await self._all() if after is None or name > after]
        found = [name for name in later if await self._rows(name, include_expired=False)]
        return Page(found[:limit], found[limit - 1] if len(found) > limit > 0 else None)

    def writes(self) -> list[Command]:
        """What commits the staged sessions: only the members that differ."""
        return [self._write(session) for session in self._overlay.changes(_KIND, self._namespace)]

    def _write(self, session_id: str) -> Command:
        place = self._place(session_id)
        old = {_member(row) for row in self._overlay.read[place].values()}
        rows: Session = self._overlay.staged[place]
        new = {_member(row) for row in rows.values()}
        ends = [row.expires_at for row in rows.values()]
        first = min((end for end in ends if end is not None), default=None)
        gone, come = sorted(old - new), sorted(new - old)
        keys = [self._names.turns + session_id.encode(), self._names.sessions, self._names.expiring]
        life = self._server.life(ends, self._server.clock.now())
        known = "" if first is None else first
        return in_full(STORE_SESSION, keys, [session_id, life, known, len(gone), *gone, *come])

    def _add(self, session: dict[int, TurnRow], row: TurnRow, *, replace: bool) -> int:
        number = max(session, default=0) + 1 if row.turn_id is None else row.turn_id
        present = session.get(number)
        if present is not None and not replace and self._is_live(present):
            raise StorageConflictError("a turn with this session and turn id exists", field="turn_id")
        session[number] = row._replace(turn_id=number)
        return number

    def _stage(self, session_id: str, session: Session) -> None:
        """The newest of them, where there is a window."""
        kept, window = sorted(session), self._options.window
        kept = kept if window is None else kept[max(len(kept) - window, 0) :]
        self._overlay.stage(self._place(session_id), {number: session[number] for number in kept})

    def _refreshed(self, session_id: str, rows: list[TurnRow]) -> list[TurnRow]:
        if not rows or not self._options.refresh_on_read:
            return rows
        until = self._server.clock.now() + round(self._options.ttl * MICROSECONDS)
        later = [row._replace(expires_at=until) for row in rows]
        self._stage(session_id, {**self._session(session_id), **{row.turn_id or 0: row for row in later}})
        return later

    async def _rows(self, session_id: str, *, include_expired: bool) -> list[TurnRow]:
        await self._load([session_id])
        return [row for row in self._session(session_id).values() if include_expired or self._is_live(row)]

    async def _all(self) -> list[str]:
        await self._load(await self._overlay.listing(self._names.sessions))
        return self._overlay.names(_KIND, self._namespace)

    async def _load(self, sessions: Sequence[str]) -> None:
        self._overlay.check()
        for session_id in sessions:
            if self._place(session_id) not in self._overlay.read:
                key = self._names.turns + session_id.encode()
                (members,) = await self._overlay.watch([key], ("ZRANGE", key, 0, -1))
                rows = {row.turn_id: row for row in (turn_row(session_id, member) for member in members)}
                self._overlay.read.setdefault(self._place(session_id), rows)

    def _place(self, session_id: str) -> Place:
        return Place(_KIND, self._namespace, session_id)

    def _session(self, session_id: str) -> Session:
        session: Session = self._overlay.see(self._place(session_id))
        return session

    def _is_live(self, row: TurnRow) -> bool:
        return row.expires_at is None or row.expires_at > self._server.clock.now()


def _member(row: TurnRow) -> bytes:
    return digits(row.turn_id or 0) + rest(row)
