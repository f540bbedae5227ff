"""`Memory`: what an agent remembers, over one store (TIER-3)."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Generator, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from polymem.contracts._input import Where
from polymem.contracts.filter import F, Filter, parse
from polymem.contracts.text import Document
from polymem.core.clock import Clock, Ttl, expiry
from polymem.core.ids import uuid7
from polymem.core.text import check_key, check_limit, check_text
from polymem.errors import StorageDataError, StorageNotFoundError
from polymem.memory import forget as forgetting
from polymem.memory import recall as recalling
from polymem.memory import write
from polymem.memory.context import CountTokens, approximate_tokens
from polymem.memory.forget import ForgetReport
from polymem.memory.ranking import Weights
from polymem.memory.recall import Question, Recalled
from polymem.memory.records import TURN, Draft, MemoryRecord, draft_of, instant, record_of
from polymem.memory.session import MemorySession
from polymem.memory.shelf import Shelf
from polymem.providers.embedding import EmbeddingProvider, EmbedFunction, adapt, load_default
from polymem.store import Store

Embed = EmbeddingProvider | EmbedFunction | str | None
STATIC: Final = "static"
Records = list[MemoryRecord]
Names = list[str]
"""Spelt here because inside the class `list` is a method."""
_CHANGEABLE: Final = (
    "text", "kind", "subject", "source", "confidence", "importance", "metadata", "valid_from", "valid_to", "ttl",
)  # fmt: skip


class Memory:
    """The memories of one tenant. `Memory.open(url)` makes a store for it, `Memory(store)` uses one you have.

    `embed` is "static" (the offline model of the `embeddings` extra; without it recall works on words alone and
    says so), None, or any callable that takes a list of texts and returns their vectors. `count_tokens` measures
    context blocks. `language` is that of the words searched (`english`, `german`, ..., `trigram`).
    """

    def __init__(
        self,
        store: Store,
        *,
        tenant: str = "default",
        embed: Embed = STATIC,
        count_tokens: CountTokens = approximate_tokens,
        language: str = "english",
        owns_store: bool = False,
    ) -> None:
        if isinstance(embed, str) and embed != STATIC:
            raise StorageDataError('expected "static", None or a callable', field="embed")
        self.tenant = check_key(tenant, field="tenant")
        self.count_tokens = count_tokens
        self._root, self._embed, self._language, self._owns_store = store, embed, language, owns_store
        self._shelf = Shelf(store.namespace(tenant), None, language)
        self._claimed = False

    @classmethod
    def open(
        cls,
        url: str | Path | None = None,
        *,
        tenant: str = "default",
        embed: Embed = STATIC,
        count_tokens: CountTokens = approximate_tokens,
        language: str = "english",
        **options: Any,
    ) -> Self:
        """A memory with a store of its own, which `close` closes; await it or use it as `async with`."""
        from polymem.config import open as open_store  # noqa: PLC0415 - config knows the memory section

        store = open_store(url, **options)
        return cls(
            store, tenant=tenant, embed=embed, count_tokens=count_tokens, language=language, owns_store=True
        )

    async def _open(self) -> Self:
        await self._root.open()
        embed = load_default() if self._embed == STATIC else self._embed
        embedder = None if embed is None or isinstance(embed, str) else await adapt(embed)
        self._shelf = replace(self._shelf, embedder=embedder)
        return self

    async def close(self) -> None:
        """Close the store if it was made for this memory."""
        if self._owns_store:
            await self._root.close()

    def __await__(self) -> Generator[Any, None, Self]:
        return self._open().__await__()

    async def __aenter__(self) -> Self:
        return await self._open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<Memory tenant={self.tenant!r} on {self._root!r}>"

    @property
    def store(self) -> Store:
        """The tenant's store."""
        return self._shelf.store

    @property
    def embedder(self) -> EmbeddingProvider | None:
        """What turns text into vectors, None where recall works on words alone."""
        return self._shelf.embedder

    def session(self, session: str, *, subject: str | None = None) -> MemorySession:
        """One conversation; no I/O. `subject` is whom its turns are about unless they say otherwise."""
        check_key(session, field="session")
        return MemorySession(self, session, subject)

    async def remember(
        self,
        text: str,
        *,
        kind: str = "fact",
        subject: str | None = None,
        session: str | None = None,
        at: datetime | None = None,
        source: str | None = None,
        confidence: float = 1.0,
        importance: float = 0.5,
        metadata: Mapping[str, Any] | None = None,
        valid_from: datetime | None = None,
        valid_to: datetime | None = None,
        ttl: Ttl | None = None,
        idempotency_key: str | None = None,
    ) -> str:
        """Keep a fact, preference, event or whatever `kind` says; its id.

        It holds in [valid_from, valid_to) and disappears after `ttl`. A repeated call with the same
        `idempotency_key` within 7 days stores nothing and gives the first id; with other content it is a
        `StorageConflictError`.
        """
        if kind == TURN:
            raise StorageDataError("turns are added through a session", field="kind")
        draft = Draft(
            check_text(text, field="text"), kind, self._instant(at, "at"), subject=subject, session=session,
            source=source, confidence=confidence, importance=importance, metadata=_metadata(metadata),
            valid_from=instant(valid_from, name="valid_from"), valid_to=instant(valid_to, name="valid_to"),
            expires_at=expiry(ttl, self._clock),
        )  # fmt: skip
        return await write.add_memory(await self.shelf(), uuid7(), draft, once=idempotency_key)

    async def recall(
        self,
        query: str,
        *,
        limit: int = 10,
        session: str | None = None,
        subject: str | None = None,
        kinds: Collection[str] | None = None,
        where: Where | None = None,
        as_of: datetime | None = None,
        weights: Weights | None = None,
    ) -> Recalled:
        """The memories that best answer a question, best first; each hit explains its score.

        `session`, `subject` (whom it is about or who said it), `kinds` and `where` (over a memory's fields, such as
        `F("metadata.turn") == "D1:3"`) narrow the search. `as_of` asks what held at that moment, now if not given.
        `weights` turns on recency, importance and confidence.
        """
        now = self._clock.now()
        question = Question(
            text=check_text(query, field="query"),
            limit=check_limit(limit),
            condition=_condition(session, subject, kinds, where),
            as_of=now if as_of is None else self._instant(as_of, "as_of"),
            now=now,
            weights=weights or Weights(),
        )
        return await recalling.recall(await self.shelf(), question)

    async def get(self, memory_id: str) -> MemoryRecord | None:
        """One memory, None where there is none or it has expired."""
        document = await self._document(memory_id)
        return None if document is None else record_of(document)

    async def list(
        self,
        *,
        limit: int = 100,
        session: str | None = None,
        subject: str | None = None,
        kinds: Collection[str] | None = None,
        where: Where | None = None,
    ) -> Records:
        """The first `limit` memories in order of id; `scan` gives them all."""
        found: Records = []
        if check_limit(limit):
            async for record in self.scan(session=session, subject=subject, kinds=kinds, where=where):
                found.append(record)
                if len(found) == limit:
                    break
        return found

    async def scan(
        self,
        *,
        session: str | None = None,
        subject: str | None = None,
        kinds: Collection[str] | None = None,
        where: Where | None = None,
    ) -> AsyncIterator[MemoryRecord]:
        """Every memory that satisfies the conditions, in order of id; no snapshot."""
        async for document in self._shelf.text.scan(where=_condition(session, subject, kinds, where)):
            if self._live(document):
                yield record_of(document)

    async def update(self, memory_id: str, **changes: Any) -> MemoryRecord:
        """Change a memory (text, kind, subject, source, confidence, importance, metadata, valid_from, valid_to, ttl).

        The former state stays in its history. An id that does not exist is a `StorageNotFoundError`.
        """
        unknown = changes.keys() - set(_CHANGEABLE)
        if unknown:
            raise StorageDataError(f"expected some of {', '.join(_CHANGEABLE)}", field=sorted(unknown)[0])
        before = await self._document(memory_id)
        if before is None:
            raise StorageNotFoundError("no such memory", field="memory_id")
        draft = replace(draft_of(before), **self._prepared(changes))
        await write.replace_memory(await self.shelf(), before, draft)
        return record_of(draft.document(before.id, before.payload.get("turn")))

    async def delete(self, memory_id: str) -> bool:
        """Remove a memory with its history, and the turn itself if it is one; whether it was there."""
        document = await self._document(memory_id)
        if document is None:
            return False
        await forgetting.erase(self._shelf, document)
        return True

    async def history(self, memory_id: str) -> Records:
        """Every state a memory had, oldest first, the present one last; empty where there is none."""
        document = await self._document(memory_id)
        if document is None:
            return []
        former: Any = await self._shelf.notes.get(f"history/{memory_id}") or ()
        return [*(record_of(Document(memory_id, v["fields"], v["payload"])) for v in former), record_of(document)]

    async def sessions(self) -> Names:
        """The ids of all conversations."""
        return [session async for session in self._shelf.store.turns.sessions()]

    async def subjects(self) -> Names:
        """Everyone a memory was said to be about."""
        return [key.removeprefix("subject/") async for key in self._shelf.notes.scan("subject/")]

    async def forget(self, subject: str) -> ForgetReport:
        """Erase everything about a subject or said by them, so that no byte of it is left in the database."""
        return await forgetting.forget(self._shelf, check_key(subject, field="subject"))

    async def sweep(self) -> int:
        """Remove expired memories now; how many there were. Recall never shows them anyway."""
        expired = F("expires_at") <= self._clock.now()
        documents = [document async for document in self._shelf.text.scan(where=expired)]
        for document in documents:
            await forgetting.erase(self._shelf, document)
        return len(documents)

    async def reembed(self, on_progress: Callable[[int], Awaitable[None] | None] | None = None) -> int:
        """Embed every memory again with the model this memory was opened with; how many."""
        return await write.reembed(self._shelf, on_progress)

    async def stats(self) -> dict[str, Any]:
        """How much is remembered, and by which model."""
        shelf = self._shelf
        return {
            "tenant": self.tenant,
            "memories": await shelf.text.count(),
            "turns": await shelf.store.turns.count(),
            "sessions": len(await self.sessions()),
            "subjects": len(await self.subjects()),
            "embedding": await shelf.stored_model(),
        }

    async def shelf(self) -> Shelf:
        """Where memories are kept, once it is sure that the embedding model is the one they were made with."""
        if not self._claimed:
            await self._shelf.claim_model()
            self._claimed = True
        return self._shelf

    @property
    def _clock(self) -> Clock:
        return self._root.engine.clock

    def _instant(self, moment: datetime | None, name: str) -> int:
        return self._clock.now() if moment is None else instant(moment, name=name) or 0

    async def _document(self, memory_id: str) -> Document | None:
        document = await self._shelf.text.get(check_key(memory_id, field="memory_id"))
        return document if document is not None and self._live(document) else None

    def _live(self, document: Document) -> bool:
        expires_at = document.payload.get("expires_at")
        return expires_at is None or expires_at > self._clock.now()

    def _prepared(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        prepared = {name: value for name, value in changes.items() if name != "ttl"}
        for name in ("valid_from", "valid_to"):
            if name in prepared:
                prepared[name] = instant(prepared[name], name=name)
        if "ttl" in changes:
            prepared["expires_at"] = expiry(changes["ttl"], self._clock)
        if "metadata" in prepared:
            prepared["metadata"] = _metadata(prepared["metadata"])
        return prepared


def _condition(
    session: str | None, subject: str | None, kinds: Iterable[str] | None, where: Where | None
) -> Filter | None:
    condition = parse(where)
    extra: list[Filter] = []
    if session is not None:
        extra.append(F("session") == check_key(session, field="session"))
    if subject is not None:
        extra.append(F("about").contains(check_key(subject, field="subject").casefold()))
    if kinds is not None:
        extra.append(F("kind").in_([check_key(kind, field="kinds") for kind in kinds]))
    for part in extra:
        condition = part if condition is None else condition & part
    return condition


def _metadata(metadata: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if metadata is not None and not isinstance(metadata, Mapping):
        raise StorageDataError("expected a mapping", field="metadata")
    return dict(metadata or {})


