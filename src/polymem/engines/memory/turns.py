"""Conversation turns: one table per session, by turn id (TRN-1)."""

from collections.abc import Sequence
from itertools import islice

from polymem.contracts.turns import TurnFeatures, TurnRow
from polymem.core.page import Page
from polymem.engines._tables.expiring import ExpiringTable, is_live
from polymem.engines._tables.state import page_of
from polymem.engines._tables.views import View
from polymem.errors import StorageConflictError


class SessionTable(ExpiringTable[int, TurnRow]):
    """The turns of one session."""


class MemoryTurns:
    """The turns of one namespace."""

    __slots__ = ("_namespace", "_view")

    def __init__(self, view: View, namespace: str) -> None:
        self._view = view
        self._namespace = namespace

    @property
    def features(self) -> TurnFeatures:
        return TurnFeatures(durable=False)

    async def append(self, rows: Sequence[TurnRow], /, *, replace: bool) -> list[int]:
        await self._view.writable()
        numbered = self._number(rows, replace=replace)
        for row in numbered:
            self._view.table(SessionTable, self._namespace, row.session_id).put(_turn_id(row), row)
        return [_turn_id(row) for row in numbered]

    async def get(self, session_id: str, turn_id: int, /, *, include_expired: bool) -> TurnRow | None:
        session = self._session(session_id)
        row = session.rows.get(turn_id) if session else None
        return row if row is not None and (include_expired or is_live(row, self._view.clock.now())) else None

    async def recent(self, session_id: str, /, *, limit: int, offset: int, include_expired: bool) -> list[TurnRow]:
        session, now = self._session(session_id), self._view.clock.now()
        rows = (session.rows[turn_id] for turn_id in reversed(session.keys())) if session else iter(())
        return list(islice((row for row in rows if include_expired or is_live(row, now)), offset, offset + limit))

    async def page(self, session_id: str, after: int | None, limit: int, /, *, include_expired: bool) -> list[TurnRow]:
        session, now = self._session(session_id), self._view.clock.now()
        rows = (session.rows[turn_id] for turn_id in session.keys_after(after)) if session else iter(())
        return list(islice((row for row in rows if include_expired or is_live(row, now)), limit))

    async def delete(self, session_id: str, turn_ids: Sequence[int], /) -> int:
        await self._view.writable()
        if self._session(session_id) is None:
            return 0
        session, now = self._view.table(SessionTable, self._namespace, session_id), self._view.clock.now()
        deleted = sum(session.pop_live(turn_id, now) for turn_id in turn_ids)
        if not session.rows:
            self._view.drop(SessionTable, self._namespace, session_id)
        return deleted

    async def touch(self, session_id: str, /, *, expires_at: int | None) -> int:
        await self._view.writable()
        if self._session(session_id) is None:
            return 0
        session, now = self._view.table(SessionTable, self._namespace, session_id), self._view.clock.now()
        live = [(turn_id, row) for turn_id, row in session.rows.items() if is_live(row, now)]
        for turn_id, row in live:
            session.put(turn_id, row._replace(expires_at=expires_at))
        return len(live)

    async def clear(self, session_id: str, /) -> int:
        await self._view.writable()
        session = self._view.drop(SessionTable, self._namespace, session_id)
        return session.held(self._view.clock.now()) if session else 0

    async def count(self, session_id: str | None, /, *, include_expired: bool) -> int:
        sessions = self._view.named(SessionTable, self._namespace)
        counted = sessions.values() if session_id is None else [sessions[i] for i in [session_id] if i in sessions]
        now = self._view.clock.now()
        return sum(len(session.rows) if include_expired else session.held(now) for session in counted)

    async def sessions(self, after: str | None, limit: int, /) -> Page[str]:
        sessions, now = self._view.named(SessionTable, self._namespace), self._view.clock.now()
        wanted = sorted(name for name in sessions if after is None or name > after)
        return page_of((name for name in wanted if sessions[name].held(now)), limit, str)

    def _session(self, session_id: str) -> SessionTable | None:
        return self._view.find(SessionTable, self._namespace, session_id)

    def _number(self, rows: Sequence[TurnRow], *, replace: bool) -> list[TurnRow]:
        """The rows with their turn ids; nothing is written yet, so a conflict leaves no trace."""
        numbered: dict[tuple[str, int], TurnRow] = {}
        highest: dict[str, int] = {}
        order: list[TurnRow] = []
        for row in rows:
            last = highest.get(row.session_id, self._highest(row.session_id))
            turn_id = last + 1 if row.turn_id is None else row.turn_id
            if not replace and self._exists(numbered, row.session_id, turn_id):
                raise StorageConflictError("a turn with this session and turn id exists", field="turn_id")
            highest[row.session_id] = max(last, turn_id)
            order.append(row._replace(turn_id=turn_id))
            numbered[row.session_id, turn_id] = order[-1]
        return order

    def _highest(self, session_id: str) -> int:
        session = self._session(session_id)
        return session.keys()[-1] if session and session.rows else 0

    def _exists(self, numbered: dict[tuple[str, int], TurnRow], session_id: str, turn_id: int) -> bool:
        session = self._session(session_id)
        stored = session.rows.get(turn_id) if session else None
        row = numbered.get((session_id, turn_id), stored)
        return row is not None and is_live(row, self._view.clock.now())


def _turn_id(row: TurnRow) -> int:
    assert row.turn_id is not None, "stored rows are numbered"  # noqa: S101 - append gave it one
    return row.turn_id
