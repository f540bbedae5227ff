"""What a memory is: the record users see and the document that stores it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from polymem.contracts._input import json_object
from polymem.contracts.text import Document
from polymem.contracts.turns import Content, Turn
from polymem.core.clock import Ttl, to_datetime, to_instant
from polymem.core.text import check_key, check_text
from polymem.errors import StorageDataError
from polymem.memory.ranking import Attributes, indexed_text

TURN: Final = "turn"
TURN_MARK: Final = "#"
MAX_SESSION_BYTES: Final = 495
"""So that with the mark and a turn id of at most 16 digits it is still an id."""


@dataclass(frozen=True, slots=True)
class MemoryRecord:
    """One thing remembered: a turn of a conversation (kind "turn") or a fact, preference, event ..."""

    id: str
    text: str
    kind: str
    subject: str | None
    """Whom it is about."""
    session: str | None
    turn: int | None
    """Its place in the session, for turns."""
    role: str | None
    speaker: str | None
    at: datetime
    """When it was said or learnt."""
    source: str | None
    """Where it comes from: free text, or the id of another memory."""
    confidence: float
    importance: float
    metadata: dict[str, Any]
    valid_from: datetime | None
    valid_to: datetime | None
    """It holds in [valid_from, valid_to); None is unbounded."""
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Hit(MemoryRecord):
    """A record found by `recall`."""

    score: float = 0.0
    scores: dict[str, float] = field(default_factory=dict)
    """How much each signal contributed; they add up to `score`."""
    neighbours: tuple[MemoryRecord, ...] = ()
    """The turns right before and after it in its session."""


def check_session(session: str) -> str:
    """The name of a session in which turns are kept: any text of 1 to 495 UTF-8 bytes."""
    check_key(session, field="session")
    if len(session.encode()) > MAX_SESSION_BYTES:
        raise StorageDataError(f"longer than {MAX_SESSION_BYTES} bytes of UTF-8", field="session")
    return session


def turn_memory_id(session: str, turn: int) -> str:
    """The id of a turn's memory, from which its neighbours' ids follow."""
    return f"{session}{TURN_MARK}{turn}"


def neighbour_ids(memory_id: str) -> tuple[str, ...]:
    """The ids of the turns before and after; none for what is not a turn."""
    session, mark, turn = memory_id.rpartition(TURN_MARK)
    if not mark or not (turn.isascii() and turn.isdecimal()):
        return ()
    number = int(turn)
    after = turn_memory_id(session, number + 1)
    return (turn_memory_id(session, number - 1), after) if number > 0 else (after,)


@dataclass(frozen=True, slots=True)
class Draft:
    """A memory on its way in, checked; all but its id."""

    text: str
    kind: str
    at: int
    subject: str | None = None
    session: str | None = None
    role: str | None = None
    speaker: str | None = None
    source: str | None = None
    confidence: float = 1.0
    importance: float = 0.5
    metadata: Mapping[str, Any] = field(default_factory=dict)
    valid_from: int | None = None
    valid_to: int | None = None
    expires_at: int | None = None
    blobs: Sequence[str] = ()
    """The keys of the blobs that belong to it."""

    def __post_init__(self) -> None:
        check_text(self.text, field="text")
        check_key(self.kind, field="kind")
        if not (self.text.strip() or self.kind == TURN):
            raise StorageDataError("expected at least one word", field="text")
        for name in ("subject", "session", "role", "speaker"):
            if getattr(self, name) is not None:
                check_key(getattr(self, name), field=name)
        if self.source is not None:
            check_text(self.source, field="source")
        for name in ("confidence", "importance"):
            _check_share(getattr(self, name), name)
        if self.valid_from is not None and self.valid_to is not None and self.valid_to < self.valid_from:
            raise StorageDataError("expected an instant not before valid_from", field="valid_to")
        object.__setattr__(self, "metadata", json_object(self.metadata, field="metadata"))

    @property
    def head(self) -> str:
        """Day and speaker (or subject), indexed with the text: worth 4 points of recall."""
        speaker = self.speaker or self.subject or self.role or self.kind
        return indexed_text("", speaker=speaker, at=to_datetime(self.at)).strip()

    @property
    def embedded(self) -> str:
        """What the embedder is given."""
        return f"{self.head} {self.text}"

    def document(self, memory_id: str, turn: int | None = None) -> Document:
        about = sorted({name.casefold() for name in (self.subject, self.speaker) if name})
        payload = {
            "kind": self.kind, "subject": self.subject, "session": self.session, "turn": turn, "role": self.role,
            "speaker": self.speaker, "about": about, "at": self.at, "source": self.source,
            "confidence": self.confidence, "importance": self.importance, "metadata": self.metadata,
            "valid_from": self.valid_from, "valid_to": self.valid_to, "expires_at": self.expires_at,
            "blobs": list(self.blobs),
        }  # fmt: skip
        # what is not set is left out, so that `where` sees it as missing
        return Document(memory_id, {"head": self.head, "text": self.text}, _present(payload))


def draft_of(document: Document) -> Draft:
    """The draft that would store this document again."""
    payload = {k: v for k, v in document.payload.items() if k not in ("about", "turn")}
    return Draft(text=document.fields["text"], **payload)


def record_of(document: Document) -> MemoryRecord:
    return MemoryRecord(**_values(document))


def hit_of(document: Document, score: float, scores: dict[str, float], neighbours: tuple[MemoryRecord, ...]) -> Hit:
    return Hit(**_values(document), score=score, scores=scores, neighbours=neighbours)


def record_of_turn(turn: Turn) -> MemoryRecord:
    """What is known of a turn without its document."""
    draft = Draft(
        text_of(turn.content), TURN, to_instant(turn.created_at), session=turn.session_id, role=turn.role,
        metadata=turn.metadata, expires_at=None if turn.expires_at is None else to_instant(turn.expires_at),
    )  # fmt: skip
    return record_of(draft.document(turn_memory_id(turn.session_id, turn.turn_id), turn.turn_id))


def attributes_of(payload: Mapping[str, Any]) -> Attributes:
    """What the ranking weighs."""
    return Attributes(payload.get("role"), to_datetime(payload["at"]), payload["importance"], payload["confidence"])


def is_expired(payload: Mapping[str, Any], now: int) -> bool:
    expires_at = payload.get("expires_at")
    return expires_at is not None and expires_at <= now


def holds(payload: Mapping[str, Any], now: int, as_of: int) -> bool:
    """Whether a memory is neither expired now nor outside its validity at `as_of`; a turn holds once it was said."""
    if is_expired(payload, now):
        return False
    start, end = payload.get("valid_from"), payload.get("valid_to")
    if start is None and payload["kind"] == TURN and as_of != now:
        start = payload["at"]
    return (start is None or start <= as_of) and (end is None or as_of < end)


def text_of(content: Content) -> str:
    """The words of a turn: its text, or the texts and captions of its parts, also of parts in parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise StorageDataError("expected a string or a list of parts", field="content")
    return "\n".join(_texts(content))


def _texts(parts: list[Any]) -> Iterator[str]:
    for part in parts:
        for key in ("text", "caption", "content") if isinstance(part, dict) else ():
            if isinstance(part.get(key), str):
                yield part[key]
            elif isinstance(part.get(key), list):
                yield from _texts(part[key])


def blobs_of(content: object) -> list[str]:
    """The keys of the blobs that the parts of a turn name, however deep: `{"type": "image", "blob": "photo"}`."""
    found: dict[str, None] = {}
    waiting = [content] if not isinstance(content, str) else []
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if isinstance(item.get("blob"), str):
                found[item["blob"]] = None
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
    return sorted(found)


def instant(moment: datetime | None, *, name: str) -> int | None:
    return None if moment is None else to_instant(moment, field=name)


def moment(given: Ttl | None) -> str | None:
    """An instant or a duration as text, to compare calls by."""
    return None if given is None else str(to_instant(given) if isinstance(given, datetime) else given)


def _values(document: Document) -> dict[str, Any]:
    payload = document.payload
    plain = {name: payload.get(name) for name in ("subject", "session", "turn", "role", "speaker", "source")}
    instants = {name: payload.get(name) for name in ("valid_from", "valid_to", "expires_at")}
    return {
        "id": document.id, "text": document.fields["text"], "kind": payload["kind"], **plain,
        "at": to_datetime(payload["at"]), "confidence": payload["confidence"], "importance": payload["importance"],
        "metadata": payload.get("metadata", {}),
        **{name: None if value is None else to_datetime(value) for name, value in instants.items()},
    }  # fmt: skip


def _present(payload: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in payload.items() if value is not None and value not in ({}, [])}


def _check_share(value: object, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise StorageDataError("expected a number from 0 to 1", field=name)
