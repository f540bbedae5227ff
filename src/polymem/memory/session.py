"""`MemorySession`: one conversation of a `Memory`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from polymem.contracts.turns import Content, Turn, TurnInput
from polymem.core.clock import Ttl, expiry, to_datetime, to_instant
from polymem.core.text import check_limit, check_text
from polymem.errors import StorageDataError
from polymem.memory import write
from polymem.memory.context import ContextBlock, assemble
from polymem.memory.records import TURN, Draft, record_of, text_of, turn_memory_id

if TYPE_CHECKING:
    from polymem.memory.memory import Memory

_CHUNK: Final = 500
"""Turns a transaction: enough to pay for its fsync, few enough that other writers get their turn."""
_NEWEST: Final = 50
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
        losslessly; the `text` and `caption` of parts are searched. `at` is when it was said, now if not given.
        `speaker` is who said it, `subject` whom it is about. Without a `ttl` it stays for ever.
        """
        turn = NewTurn(
            role, content, speaker, at, metadata, subject, source, confidence, importance, ttl, turn_id
        )
        return (await self._add([turn], once=idempotency_key))[0]

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
        given = [_new_turn(turn) for turn in turns]
        if skip_existing and any(turn.turn_id is None for turn in given):
            raise StorageDataError("every turn needs a turn_id when existing ones are skipped", field="turns.turn_id")
        if idempotency_key is not None and len(given) > _CHUNK:
            raise StorageDataError(f"expected at most {_CHUNK} turns with an idempotency key", field="turns")
        ids: list[str] = []
        for start in range(0, len(given), _CHUNK):
            chunk = given[start : start + _CHUNK]
            ids += await self._add(chunk, once=idempotency_key, skip_existing=skip_existing)
        return ids

    async def turns(self, *, limit: int = 10, offset: int = 0) -> list[Turn]:
        """The newest turns, oldest of them first, after skipping the `offset` newest."""
        return await self._memory.store.turns.recent(self.id, limit=limit, offset=offset, newest_first=False)

    async def count(self) -> int:
        """How many turns there are."""
        return await self._memory.store.turns.count(self.id)

    async def context(self, token_budget: int, *, query: str | None = None) -> ContextBlock:
        """A prompt block of at most `token_budget` tokens: the newest turns and the memories that bear on them.

        `query` is what the memories are recalled for, the newest user turn if not given. Memories come from the
        whole tenant, this session's older turns included.
        """
        if check_limit(token_budget, field="token_budget") < 1:
            raise StorageDataError("expected at least 1", field="token_budget")
        newest = await self._memory.store.turns.recent(self.id, limit=_NEWEST)
        wanted = query if query is not None else _question(newest)
        hits = await self._memory.recall(check_text(wanted, field="query"), limit=_HITS)
        found = await self._documents(newest)
        return assemble(
            found, hits, budget=token_budget, count=self._memory.count_tokens, notes=hits.notes
        )

    async def _documents(self, turns: list[Turn]) -> list[Any]:
        ids = [turn_memory_id(self.id, turn.turn_id) for turn in turns]
        documents = await (await self._memory.shelf()).text.get_many(ids)
        return [record_of(documents[id]) for id in ids if id in documents]

    async def _add(self, turns: list[NewTurn], *, once: str | None, skip_existing: bool = False) -> list[str]:
        prepared = [self._prepare(turn) for turn in turns]
        shelf = await self._memory.shelf()
        return await write.add_turns(shelf, self.id, prepared, once=once, skip_existing=skip_existing)

    def _prepare(self, turn: NewTurn) -> tuple[TurnInput, Draft]:
        clock = self._memory.store.engine.clock
        at = clock.now() if turn.at is None else to_instant(turn.at)
        expires_at = expiry(turn.ttl, clock)
        draft = Draft(
            text=text_of(turn.content), kind=TURN, at=at, subject=turn.subject or self.subject, session=self.id,
            role=turn.role, speaker=turn.speaker, source=turn.source, confidence=turn.confidence,
            importance=turn.importance, metadata=dict(turn.metadata or {}), expires_at=expires_at,
        )  # fmt: skip
        ttl = None if expires_at is None else to_datetime(expires_at)
        stored = TurnInput(turn.role, turn.content, turn.turn_id, turn.metadata, to_datetime(at), ttl)
        return stored, draft


def _new_turn(turn: NewTurn | Mapping[str, Any]) -> NewTurn:
    if isinstance(turn, NewTurn):
        return turn
    if not isinstance(turn, Mapping):
        raise StorageDataError("expected a mapping with role and content", field="turns")
    unknown = turn.keys() - set(NewTurn.__dataclass_fields__)
    if unknown:
        raise StorageDataError("unknown member", field=f"turns.{sorted(unknown)[0]}")
    for name in ("role", "content"):
        if name not in turn:
            raise StorageDataError("this member is missing", field=f"turns.{name}")
    return NewTurn(**turn)


def _question(newest: list[Turn]) -> str:
    for turn in newest:
        if turn.role == "user":
            return text_of(turn.content)
    return text_of(newest[0].content) if newest else ""
