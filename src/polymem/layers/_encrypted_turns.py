"""Turns of which only session, id, place and instants are readable."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import msgspec

from polymem.contracts.turns import TurnDriver, TurnFeatures, TurnRow
from polymem.core.page import Page
from polymem.errors import StorageCorruptError
from polymem.layers._room import Room

MARK: Final = "aes-gcm:"
"""In front of a sealed content, which is base64."""
TURN: Final = "turn"
_SEALED_ROLE: Final = "encrypted"
_Body = tuple[str, str, int | None, str, str, str]
_BODY: Final = msgspec.json.Decoder(_Body)
"""Session and id if they are hidden, the turn id if the caller gave it, role, content, metadata."""


class EncryptedTurns:
    """The sealed turns of one namespace."""

    def __init__(self, inner: TurnDriver, room: Room) -> None:
        self._inner, self._room = inner, room

    @property
    def features(self) -> TurnFeatures:
        return replace(self._inner.features, ordered=False) if self._room.hides else self._inner.features

    async def append(self, rows: Sequence[TurnRow], /, *, replace: bool) -> list[int]:
        return await self._inner.append([self._sealed(row) for row in rows], replace=replace)

    async def get(self, session_id: str, turn_id: int, /, *, include_expired: bool) -> TurnRow | None:
        row = await self._inner.get(self._session(session_id), turn_id, include_expired=include_expired)
        return None if row is None else self._opened(row)

    async def recent(self, session_id: str, /, *, limit: int, offset: int, include_expired: bool) -> list[TurnRow]:
        stored = self._session(session_id)
        rows = await self._inner.recent(stored, limit=limit, offset=offset, include_expired=include_expired)
        return [self._opened(row) for row in rows]

    async def page(self, session_id: str, after: int | None, limit: int, /, *, include_expired: bool) -> list[TurnRow]:
        rows = await self._inner.page(self._session(session_id), after, limit, include_expired=include_expired)
        return [self._opened(row) for row in rows]

    async def delete(self, session_id: str, turn_ids: Sequence[int], /) -> int:
        return await self._inner.delete(self._session(session_id), turn_ids)

    async def touch(self, session_id: str, /, *, expires_at: int | None) -> int:
        return await self._inner.touch(self._session(session_id), expires_at=expires_at)

    async def clear(self, session_id: str, /) -> int:
        return await self._inner.clear(self._session(session_id))

    async def count(self, session_id: str | None, /, *, include_expired: bool) -> int:
        stored = None if session_id is None else self._session(session_id)
        return await self._inner.count(stored, include_expired=include_expired)

    async def sessions(self, after: str | None, limit: int, /) -> Page[str]:
        """Where they are hidden: one more read for each session, and no order."""
        page = await self._inner.sessions(after, limit)
        if not self._room.hides:
            return page
        named = [await self._inner.recent(s, limit=1, offset=0, include_expired=False) for s in page.items]
        return Page([self._opened(row).session_id for rows in named for row in rows], page.after)

    def _session(self, session_id: str) -> str:
        return self._room.stored(session_id, "session")

    def _sealed(self, row: TurnRow) -> TurnRow:
        session, id = self._session(row.session_id), self._room.stored(row.id, TURN)
        kept = self._room.kept
        body: _Body = (kept(row.session_id), kept(row.id), row.turn_id, row.role, row.content, row.metadata)
        sealed = self._room.seal(msgspec.json.encode(body), TURN, session, id, row.created_at)
        return row._replace(id=id, session_id=session, role=_SEALED_ROLE, content=_to_text(sealed), metadata="{}")

    def _opened(self, row: TurnRow) -> TurnRow:
        sealed = _from_text(row.content)
        body = _BODY.decode(self._room.open(sealed, TURN, row.session_id, row.id, row.created_at))
        session, id, turn_id, role, content, metadata = body
        if turn_id not in (None, row.turn_id):
            raise StorageCorruptError("a stored turn was moved to another turn id")
        shown = self._room.shown
        return row._replace(
            session_id=shown(row.session_id, session),
            id=shown(row.id, id),
            role=role,
            content=content,
            metadata=metadata,
        )


def resealed(room: Room, row: TurnRow) -> TurnRow | None:
    """The stored turn under the current key; None where it is already, or is not sealed at all."""
    if not row.content.startswith(MARK):
        return None
    sealed = _from_text(row.content)
    if room.keyring.is_current(sealed):
        return None
    names = (row.session_id, row.id, row.created_at)
    return row._replace(content=_to_text(room.seal(room.open(sealed, TURN, *names), TURN, *names)))


def _to_text(sealed: bytes) -> str:
    return MARK + base64.b64encode(sealed).decode()


def _from_text(content: str) -> bytes:
    try:
        if content.startswith(MARK):
            return base64.b64decode(content[len(MARK) :], validate=True)
    except binascii.Error as error:
        raise StorageCorruptError("a stored turn is damaged") from error
    raise StorageCorruptError("a stored turn was written without encryption")
