"""`MemorySession`: one conversation of a `Memory`."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from polymem.contracts._input import all_checked
from polymem.contracts.turns import MAX_TURN_ID, Content, Turn, TurnInput
from polymem.core.clock import Clock, Ttl, expiry, to_datetime, to_instant
from polymem.core.codec import check_json
from polymem.core.text import check_limit, check_text
from polymem.errors import StorageDataError
from polymem.memory import write
from polymem.memory.context import ContextBlock, assemble
from polymem.memory.recall import DOWN, Recalled
from polymem.memory.records import (
    TURN,
    Draft,
    MemoryRecord,
    blobs_of,
    moment,
    record_of,
    record_of_turn,
    text_of,
    turn_memory_id,
)

if TYPE_CHECKING:
    from polymem.memory.memory import Memory

_CHUNK: Final = 500
"""Turns a transaction: enough to pay for its fsync, few enough that other writers get their turn."""
_LEAST_TURN: Final = 8
"""Tokens of a short turn: how many turns are looked at for a budget."""
_NEWEST: Final = (50, 2000)
_HITS: Final = 30


@dataclass(frozen=True, slots=True)
class NewTurn:
    """A turn to add; each field means what it means in `MemorySession.add`."""

    role: str
    content: Content
    speaker: str | None = None
    at: datetime | None = None
    metadata: Mapping[str, Any] | None = None
    subject: str | None = None
    source: str | None = None
    confidence: float = 1.0
    importance: float = 0.5
    ttl: Ttl | None = None
    turn_id: int | None = None


class MemorySession:
    """Add turns, read them back, and get a prompt block; obtained from `memory.session(...)`."""

    def __init__(self, memory: "Memory", session: str, subject: str | None) -> None:
        self._memory, self.id, self.subject = memory, session, subject

    async def add(
        self,
        role: str,
        content: Content,
        *,
        speaker: str | None = None,
        at: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        subject: str | None = None,
        source: str | None = None,
        confidence: float = 1.0,
        importance: float = 0.5,
        ttl: Ttl | None = None,
        turn_id: int | None = None,
        idempotency_key: str | None = None,
    ) -> str:
        """Append a turn, durable and recallable when the call returns; the id of its memory.

        `content` is a text or a list of parts (JSON objects such as tool calls, or images by blob id), stored
        losslessly; the `text`, `caption` and `content` of parts are searched. Blobs that parts name belong to the
        turn: they go with it. `at` is when it was said, now if not given. `speaker` is who said it, `subject` whom
        it is about. Without a `ttl` it stays for ever. `idempotency_key` is that of `Memory.remember`.
        """
        turn = NewTurn(role, content, speaker, at, metadata, subject, source, confidence, importance, ttl, turn_id)
        return (await self._add([turn], idempotency_key, skip_existing=False))[0]

    async def add_many(
        self,
        turns: Iterable[NewTurn | Mapping[str, Any]],
        *,
        skip_existing: bool = False,
        idempotency_key: str | None = None,
    ) -> list[str]:
        """Append turns in order; the ids of those added.

        Up to 500 at a time are all or nothing. With `skip_existing` every turn names its `turn_id`, and those the
        session has already are left out: repeating the call adds nothing.
        """
        given = await all_checked(turns, _new_turn, field="turns")
        if skip_existing and any(turn.turn_id is None for turn in given):
            raise StorageDataError("every turn needs a turn_id when existing ones are skipped", field="turns.turn_id")
        if idempotency_key is not None and len(given) > _CHUNK:
            raise StorageDataError(f"expected at most {_CHUNK} turns with an idempotency key", field="turns")
        return await self._add(given, idempotency_key, skip_existing=skip_existing)

    async def turns(self, *, limit: int = 10, offset: int = 0) -> list[Turn]:
        """The newest turns, oldest of them first, after skipping the `offset` newest."""
        turns = self._memory.shelf().store.turns
        return await turns.recent(self.id, limit=limit, offset=offset, newest_first=False)

    async def count(self) -> int:
        """How many turns there are."""
        return await self._memory.shelf().store.turns.count(self.id)

    async def context(self, token_budget: int, *, query: str | None = None) -> ContextBlock:
        """A prompt block of at most `token_budget` tokens: the newest turns and the memories that bear on them.

        `query` is what the memories are recalled for, the newest user turn if not given. Memories come from the
        whole tenant, this session's older turns included.
        """
        if check_limit(token_budget, field="token_budget") < 1:
            raise StorageDataError("expected at least 1", field="token_budget")
        if query is not None:
            check_text(query, field="query")
        least, most = _NEWEST
        limit = min(max(token_budget // _LEAST_TURN, least), most)
        newest = await self._memory.shelf().store.turns.recent(self.id, limit=limit)
        hits = await self._hits(_question(newest) if query is None else query)
        return assemble(
            await self._records(newest), hits, budget=token_budget, count=self._memory.count_tokens, notes=hits.notes
        )

    async def _hits(self, query: str) -> Recalled:
        try:
            return await self._memory.recall(query, limit=_HITS)
        except DOWN as error:
            return Recalled(notes=[f"memories cannot be searched: {type(error).__name__}"])

    async def _records(self, turns: list[Turn]) -> list[MemoryRecord]:
        """Turns as memories; what only the memory knows (the speaker) is missing while those cannot be read."""
        ids = [turn_memory_id(self.id, turn.turn_id) for turn in turns]
        try:
            documents = await self._memory.patience.wait("turns", self._memory.shelf().text.get_many(ids))
        except DOWN:
            documents = {}
        rows = zip(ids, turns, strict=True)
        return [record_of(documents[id]) if id in documents else record_of_turn(turn) for id, turn in rows]

    async def _add(self, turns: list[NewTurn], key: str | None, *, skip_existing: bool) -> list[str]:
        shelf, clock, ids = self._memory.shelf(), self._memory.store.engine.clock, list[str]()
        prepared = await all_checked(turns, lambda turn: self._prepare(turn, clock), field="turns")
        asked = write.once("add", key, None if key is None else [self.id, [_asked(turn) for turn in turns]])
        for start in range(0, len(prepared), _CHUNK):
            chunk = prepared[start : start + _CHUNK]
            ids += await write.add_turns(shelf, self.id, chunk, asked=asked, skip_existing=skip_existing)
        return ids

    def _prepare(self, turn: NewTurn, clock: Clock) -> tuple[TurnInput, Draft]:
        check_json(turn.content, field="content")
        if turn.turn_id is not None and check_limit(turn.turn_id, field="turn_id") > MAX_TURN_ID:
            raise StorageDataError("expected at most 2**53", field="turn_id")
        at = clock.now() if turn.at is None else to_instant(turn.at)
        expires_at = expiry(turn.ttl, clock)
        draft = Draft(
            text=text_of(turn.content), kind=TURN, at=at, subject=self.subject if turn.subject is None else turn.subject,
            session=self.id, role=turn.role, speaker=turn.speaker, source=turn.source, confidence=turn.confidence,
            importance=turn.importance, metadata=turn.metadata or {}, expires_at=expires_at,
            blobs=blobs_of(turn.content),
        )  # fmt: skip
        ttl = None if expires_at is None else to_datetime(expires_at)
        return TurnInput(turn.role, turn.content, turn.turn_id, draft.metadata, to_datetime(at), ttl), draft


def _new_turn(turn: object) -> NewTurn:
    if isinstance(turn, NewTurn):
        return turn
    if not isinstance(turn, Mapping):
        raise StorageDataError("expected a mapping with role and content", field="turns")
    known = NewTurn.__dataclass_fields__
    unknown = [name for name in turn if name not in known]
    if unknown:
        raise StorageDataError(f"unknown member; expected {', '.join(known)}", field=f"turns.{unknown[0]}")
    for name in ("role", "content"):
        if name not in turn:
            raise StorageDataError("this member is missing", field=f"turns.{name}")
    return NewTurn(**turn)


def _asked(turn: NewTurn) -> dict[str, Any]:
    """What makes two calls the same."""
    return {**asdict(turn), "at": moment(turn.at), "ttl": moment(turn.ttl), "metadata": dict(turn.metadata or {})}


def _question(newest: list[Turn]) -> str:
    for turn in newest:
        if turn.role == "user":
            return text_of(turn.content)
    return text_of(newest[0].content) if newest else ""
