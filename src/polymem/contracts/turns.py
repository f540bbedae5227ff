"""Conversation turns (TRN-1)."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple, Protocol, final

from polymem.contracts._input import PAGE, all_checked, json_object, members, several, stream
from polymem.core.clock import Clock, Ttl, expiry, to_datetime, to_instant
from polymem.core.codec import decode_json, encode_json
from polymem.core.ids import uuid7
from polymem.core.page import Page
from polymem.core.text import check_key, check_limit
from polymem.errors import StorageDataError

Content = str | list[dict[str, Any]]
DEFAULT_TTL: Final = 86_400.0
"""Seconds a turn lives unless told otherwise."""
MAX_TURN_ID: Final = 2**53
_LAYERS: Final = ("zstd:", "aes-gcm:")
"""What compression and encryption put in front of a content; no JSON starts so."""


@dataclass(frozen=True, slots=True)
class TurnFeatures:
    """What a turns cell can do."""

    durable: bool = True
    window: int | None = None
    """How many turns a session keeps at most; None: all."""
    ordered: bool = True
    """`sessions` lists them in order."""


class TurnRow(NamedTuple):
    """A turn as a driver stores it: content and metadata are JSON text, instants are microseconds."""

    id: str
    session_id: str
    turn_id: int | None
    """None asks `append` for the next one."""
    role: str
    content: str
    metadata: str
    created_at: int
    expires_at: int | None


class TurnDriver(Protocol):
    """The turns of one namespace. Expired turns are absent unless `include_expired`."""

    @property
    def features(self) -> TurnFeatures: ...

    async def append(self, rows: Sequence[TurnRow], /, *, replace: bool) -> list[int]:
        """Store the rows, all or nothing, in order; their turn ids.

        The next turn_id of a session is one above its highest ever stored and still present, from 1,
        race-free. A (session_id, turn_id) that exists is a `StorageConflictError` unless `replace`.
        """
        ...

    async def get(self, session_id: str, turn_id: int, /, *, include_expired: bool) -> TurnRow | None: ...

    async def recent(self, session_id: str, /, *, limit: int, offset: int, include_expired: bool) -> list[TurnRow]:
        """The newest turns (highest turn_id first)."""
        ...

    async def page(self, session_id: str, after: int | None, limit: int, /, *, include_expired: bool) -> list[TurnRow]:
        """Turns above `after`, oldest first; fewer than `limit` means that there are no more."""
        ...

    async def delete(self, session_id: str, turn_ids: Sequence[int], /) -> int: ...

    async def touch(self, session_id: str, /, *, expires_at: int | None) -> int:
        """Let every live turn of a session expire then (None: never), at once; how many there were."""
        ...

    async def clear(self, session_id: str, /) -> int:
        """Remove a whole session; how many live turns it had."""
        ...

    async def count(self, session_id: str | None, /, *, include_expired: bool) -> int:
        """Turns of a session, or of the namespace."""
        ...

    async def sessions(self, after: str | None, limit: int, /) -> Page[str]:
        """Session ids that have a live turn, in order."""
        ...


@dataclass(frozen=True, slots=True)
class TurnInput:
    """A turn to append; each field means what it means in `Turns.append`."""

    role: str
    content: Content
    turn_id: int | None = None
    metadata: Mapping[str, Any] | None = None
    at: datetime | None = None
    ttl: Ttl | None = DEFAULT_TTL
    id: str | None = None


class Turn(NamedTuple):
    """One message of a conversation."""

    id: str
    session_id: str
    turn_id: int
    """Its place in the session: higher is later."""
    role: str
    content: Content
    metadata: dict[str, Any]
    created_at: datetime
    expires_at: datetime | None
    """From this instant on it is invisible; None is never."""


@final
class Turns:
    """What users hold: `store.turns`, the conversations of one namespace.

    A session exists as long as it has a live turn. Bad input is a `StorageDataError` and nothing is written.
    """

    def __init__(self, driver: TurnDriver, clock: Clock) -> None:
        self._driver, self._clock = driver, clock

    @property
    def features(self) -> TurnFeatures:
        return self._driver.features

    async def append(
        self,
        session_id: str,
        role: str,
        content: Content,
        *,
        turn_id: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        at: datetime | None = None,
        ttl: Ttl | None = DEFAULT_TTL,
        id: str | None = None,
        replace: bool = False,
    ) -> Turn:
        """Store a turn and return it.

        `content` is text ('' is legal) or a list of parts, JSON objects that come back as they are. Without a
        `turn_id` the turn comes after every other of its session, whatever runs at the same time. A `turn_id`
        that exists is a `StorageConflictError` unless `replace`. `at` is when it was said, now if not given;
        `ttl` counts from now (seconds, a timedelta or an aware datetime; None: for ever). `id` is made up
        unless given.
        """
        check_key(session_id, field="session_id")
        row = self._row(session_id, TurnInput(role, content, turn_id, metadata, at, ttl, id))
        numbers = await self._driver.append([row], replace=replace)
        return _turn(row, numbers[0])

    async def append_many(
        self, session_id: str, turns: Iterable[TurnInput | Mapping[str, Any]], *, replace: bool = False
    ) -> list[Turn]:
        """Store turns in order, all or nothing; each is a `TurnInput` or a mapping of its fields."""
        check_key(session_id, field="session_id")
        rows = await all_checked(turns, lambda turn: self._row(session_id, _turn_input(turn)), field="turns")
        if not rows:
            return []
        numbers = await self._driver.append(rows, replace=replace)
        stored = zip(rows, numbers, strict=True)
        return await all_checked(stored, lambda pair: _turn(*pair), field="turns")

    async def get(self, session_id: str, turn_id: int, *, include_expired: bool = False) -> Turn | None:
        """One turn, None where there is none."""
        check_key(session_id, field="session_id")
        row = await self._driver.get(session_id, check_limit(turn_id, field="turn_id"), include_expired=include_expired)
        return None if row is None else _turn(row)

    async def recent(
        self,
        session_id: str,
        *,
        limit: int = 10,
        offset: int = 0,
        newest_first: bool = True,
        include_expired: bool = False,
    ) -> list[Turn]:
        """The `limit` newest turns after skipping the `offset` newest, newest first unless told otherwise."""
        check_key(session_id, field="session_id")
        check_limit(offset, field="offset")
        if not check_limit(limit):
            return []
        rows = await self._driver.recent(session_id, limit=limit, offset=offset, include_expired=include_expired)
        return [_turn(row) for row in (rows if newest_first else reversed(rows))]

    def scan(self, session_id: str, *, include_expired: bool = False) -> AsyncIterator[Turn]:
        """Every turn of a session, oldest first; no snapshot."""
        return self._scan(check_key(session_id, field="session_id"), include_expired)

    async def _scan(self, session_id: str, include_expired: bool) -> AsyncIterator[Turn]:
        after: int | None = None
        while True:
            rows = await self._driver.page(session_id, after, PAGE, include_expired=include_expired)
            for row in rows:
                yield _turn(row)
            if len(rows) < PAGE:
                return
            after = rows[-1].turn_id

    async def exists(self, session_id: str, turn_id: int) -> bool:
        return await self.get(session_id, turn_id) is not None

    async def delete(self, session_id: str, turn_id: int) -> bool:
        """Remove one turn; whether it was there."""
        return await self.delete_many(session_id, [turn_id]) > 0

    async def delete_many(self, session_id: str, turn_ids: Iterable[int]) -> int:
        """Remove turns; how many were there."""
        check_key(session_id, field="session_id")
        numbers = list(dict.fromkeys(check_limit(n, field="turn_id") for n in several(turn_ids, field="turn_ids")))
        return await self._driver.delete(session_id, numbers) if numbers else 0

    async def touch(self, session_id: str, *, ttl: Ttl | None = DEFAULT_TTL) -> int:
        """Let every turn of a session live so long from now on (None: for ever); how many there were."""
        check_key(session_id, field="session_id")
        return await self._driver.touch(session_id, expires_at=expiry(ttl, self._clock))

    async def clear(self, session_id: str) -> int:
        """Remove a whole session; how many turns it had."""
        return await self._driver.clear(check_key(session_id, field="session_id"))

    async def count(self, session_id: str | None = None, *, include_expired: bool = False) -> int:
        """Turns of one session, or of all of them."""
        if session_id is not None:
            check_key(session_id, field="session_id")
        return await self._driver.count(session_id, include_expired=include_expired)

    def sessions(self) -> AsyncIterator[str]:
        """The ids of the sessions that have a live turn, in order; no snapshot."""
        return stream(lambda after: self._driver.sessions(after, PAGE))

    def _row(self, session_id: str, turn: TurnInput) -> TurnRow:
        return TurnRow(
            id=uuid7() if turn.id is None else check_key(turn.id, field="id"),
            session_id=session_id,
            turn_id=None if turn.turn_id is None else _new_turn_id(turn.turn_id),
            role=check_key(turn.role, field="role"),
            content=_content_json(turn.content),
            metadata="{}" if turn.metadata is None else _metadata_json(turn.metadata),
            created_at=self._clock.now() if turn.at is None else to_instant(turn.at),
            expires_at=expiry(turn.ttl, self._clock),
        )


def _turn_input(turn: object) -> TurnInput:
    if isinstance(turn, TurnInput):
        return turn
    optional = ("turn_id", "metadata", "at", "ttl", "id")
    return TurnInput(**members(turn, required=("role", "content"), optional=optional, field="turns"))


def _content_json(content: object) -> str:
    if isinstance(content, str) or (isinstance(content, list) and all(isinstance(part, dict) for part in content)):
        return encode_json(content, field="content").decode()
    raise StorageDataError("expected a string or a list of JSON objects", field="content")


def _metadata_json(metadata: object) -> str:
    return encode_json(json_object(metadata, field="metadata")).decode()


def _new_turn_id(turn_id: int) -> int:
    if check_limit(turn_id, field="turn_id") > MAX_TURN_ID:
        raise StorageDataError("expected at most 2**53, so that there is always a next one", field="turn_id")
    return turn_id


def _turn(row: TurnRow, number: int | None = None) -> Turn:
    """`number` is the turn_id that the row was given, if it came without one."""
    id, session_id, turn_id, role, content, metadata, created_at, expires_at = row
    turn_id = turn_id if number is None else number
    assert turn_id is not None  # noqa: S101 - only a row on its way in has none
    return Turn(
        id,
        session_id,
        turn_id,
        role,
        _content(content),
        decode_json(metadata),
        to_datetime(created_at),
        None if expires_at is None else to_datetime(expires_at),
    )


def _content(text: str) -> Content:
    if text.startswith(_LAYERS):
        mark = text.partition(":")[0]
        raise StorageDataError(
            f"the turn was written through a layer ({mark}) this store is opened without", field="turn_id"
        )
    content: Content = decode_json(text)
    return content
