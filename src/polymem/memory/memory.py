"""`Memory`: what an agent remembers, over one store (TIER-3)."""

from collections.abc import AsyncIterator, Collection, Generator, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from polymem.contracts._input import Where, several
from polymem.contracts.filter import F, Filter, parse
from polymem.contracts.text import Document
from polymem.core.clock import Clock, Ttl, expiry, to_instant
from polymem.core.ids import uuid7
from polymem.core.text import check_key, check_limit, check_text
from polymem.errors import StorageConnectionError, StorageDataError, StorageUnsupportedError
from polymem.memory import forget as forgetting
from polymem.memory import recall as recalling
from polymem.memory import update as updating
from polymem.memory import write
from polymem.memory.context import CountTokens, approximate_tokens
from polymem.memory.forget import ForgetReport
from polymem.memory.patience import SECONDS, Patience
from polymem.memory.ranking import Weights
from polymem.memory.recall import Question, Recalled
from polymem.memory.records import (
    TURN,
    Draft,
    MemoryRecord,
    check_session,
    instant,
    is_expired,
    moment,
    record_of,
)
from polymem.memory.reembed import Progress, reembed
from polymem.memory.session import MemorySession
from polymem.memory.shelf import Shelf, history_key
from polymem.memory.subjects import subjects
from polymem.providers.embedding import INSTALL_HINT, EmbeddingProvider, EmbedFunction, adapt, load_default
from polymem.store import Store

Embed = EmbeddingProvider | EmbedFunction | str | None
STATIC: Final = "static"
CONFIGURED: Final = "configured"
Records = list[MemoryRecord]
Names = list[str]
"""Spelt here because inside the class `list` is a method."""


class Memory:
    """The memories of one tenant. `Memory.open(url)` makes a store for it, `Memory(store)` uses one you have.

    `embed` is "static" (the offline model of the `embeddings` extra; without it recall works on words alone and
    says so), None, or any callable that takes a list of texts and returns their vectors. `count_tokens` measures
    context blocks. `language` is that of the words searched (`english`, `german`, ..., `trigram`). Recall waits
    `tier_timeout` seconds for each of words, vectors and embedder (twelve times that for its first answer, which
    may load an index), then goes on without and says so.
    """

    def __init__(
        self,
        store: Store,
        *,
        tenant: str = "default",
        embed: Embed = STATIC,
        count_tokens: CountTokens = approximate_tokens,
        language: str = "english",
        tier_timeout: float = SECONDS,
        owns_store: bool = False,
    ) -> None:
        _check_embed(embed)
        if not callable(count_tokens):
            raise StorageDataError("expected a callable that counts the tokens of a text", field="count_tokens")
        if not store.supports("text"):
            raise StorageUnsupportedError(
                "a memory is searched by words: it needs sqlite, postgresql or memory, without encryption",
                engine=store.engine.name,
            )
        self.tenant = check_key(tenant, field="tenant")
        self.count_tokens, self.patience = count_tokens, Patience(tier_timeout)
        self._root, self._embed, self._owns_store = store, embed, owns_store
        no_embedder = INSTALL_HINT if embed == STATIC else "opened without an embedder: found by words alone"
        self._shelf = Shelf(store.namespace(tenant), None, language, no_embedder)
        self._shelf.text  # noqa: B018 - refuses an unknown language
        self._is_open = False

    @classmethod
    def open(
        cls,
        url: str | Path | None = None,
        *,
        tenant: str | None = None,
        embed: Embed = CONFIGURED,
        count_tokens: CountTokens = approximate_tokens,
        language: str | None = None,
        tier_timeout: float = SECONDS,
        **options: Any,
    ) -> Self:
        """A memory with a store of its own, which `close` closes; await it or use it as `async with`.

        `url` and `options` are those of `polymem.open`. What is not given comes from the section `[memory]` of the
        configuration: tenant "default", language "english" and embed "static" unless it says otherwise.
        """
        from polymem.config.loading import resolve  # noqa: PLC0415 - slow to import, and most memories share a store
        from polymem.config.opening import store_of  # noqa: PLC0415

        config = resolve(url)
        if options.get("encryption", config.only().encryption) is not None:
            raise StorageUnsupportedError(
                "a memory is searched by words and vectors, which encrypted values don't allow; encrypt the whole file "
                "(a SQLite cipher) or the disk instead", operation="encryption",
            )  # fmt: skip
        settings = config.memory
        configured = None if settings.embed == "none" else settings.embed
        return cls(
            store_of(config.only(), **options),
            tenant=settings.tenant if tenant is None else tenant,
            embed=configured if embed == CONFIGURED else embed,
            language=settings.language if language is None else language,
            count_tokens=count_tokens, tier_timeout=tier_timeout, owns_store=True,
        )  # fmt: skip

    async def _open(self) -> Self:
        if self._is_open:
            return self
        await self._root.open()
        try:
            embed = load_default() if self._embed == STATIC else self._embed
            embedder = None if embed is None or isinstance(embed, str) else await adapt(embed)
        except BaseException:
            await self.close()
            raise
        self._shelf, self._is_open = replace(self._shelf, embedder=embedder), True
        self._root.sweep_too(self.sweep)
        return self

    async def close(self) -> None:
        """Close the store if it was made for this memory; closing twice is harmless."""
        self._is_open = False
        self._root.sweep_too(self.sweep, wanted=False)
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
        if subject is not None:
            check_key(subject, field="subject")
        return MemorySession(self, check_session(session), subject)

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
        shelf, facts = self.shelf(), {} if metadata is None else metadata
        draft = Draft(
            text, kind, self._instant(at, "at"), subject=subject, session=session,
            source=source, confidence=confidence, importance=importance, metadata=facts,
            valid_from=instant(valid_from, name="valid_from"), valid_to=instant(valid_to, name="valid_to"),
            expires_at=expiry(ttl, self._clock),
        )  # fmt: skip
        given = (moment(at), moment(valid_from), moment(valid_to), moment(ttl))
        payload = {**draft.document("").payload, "at": None, "expires_at": None}
        asked = write.once("remember", idempotency_key, [text, payload, given])
        return await write.add_memory(shelf, uuid7(), draft, asked=asked)

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
        `weights` turns on recency, importance and confidence. What is down or slow is done without, see `notes`.
        Of a question longer than 10,000 characters only so many are used.
        """
        now = self._clock.now()
        if weights is not None and not isinstance(weights, Weights):
            raise StorageDataError("expected a Weights", field="weights")
        question = Question(
            text=check_text(query, field="query"),
            limit=check_limit(limit),
            condition=_condition(session, subject, kinds, where),
            as_of=now if as_of is None else self._instant(as_of, "as_of"),
            now=now,
            weights=weights or Weights(),
        )
        return await recalling.recall(self.shelf(), question, self.patience)

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
        records = self.scan(session=session, subject=subject, kinds=kinds, where=where)
        if check_limit(limit):
            async for record in records:
                found.append(record)
                if len(found) == limit:
                    break
        return found

    def scan(
        self,
        *,
        session: str | None = None,
        subject: str | None = None,
        kinds: Collection[str] | None = None,
        where: Where | None = None,
    ) -> AsyncIterator[MemoryRecord]:
        """Every memory that satisfies the conditions, in order of id; no snapshot."""
        return self._scan(_condition(session, subject, kinds, where))

    async def update(self, memory_id: str, **changes: Any) -> MemoryRecord:
        """Change a memory (text, kind, subject, source, confidence, importance, metadata, valid_from, valid_to, ttl).

        The former state stays in its history. An id that does not exist is a `StorageNotFoundError`. Of a turn the
        text, metadata and expiry change in its session too; the text of one made of parts can't be changed.
        """
        return await updating.update(self.shelf(), check_key(memory_id, field="memory_id"), changes)

    async def delete(self, memory_id: str) -> bool:
        """Remove a memory with its history, and the turn itself if it is one; whether it was there."""
        return await forgetting.delete(self.shelf(), check_key(memory_id, field="memory_id"))

    async def history(self, memory_id: str) -> Records:
        """Every state a memory had, oldest first, the present one last; empty where there is none."""
        document = await self._document(memory_id)
        if document is None:
            return []
        former: Any = await self.shelf().notes.get(history_key(memory_id)) or ()
        return [*(record_of(Document(memory_id, v["fields"], v["payload"])) for v in former), record_of(document)]

    async def sessions(self) -> Names:
        """The ids of all conversations that have a turn, in order."""
        return [session async for session in self.shelf().store.turns.sessions()]

    async def subjects(self) -> Names:
        """Everyone a memory is about, in order."""
        return await subjects(self.shelf(), self._clock.now())

    async def forget(self, subject: str) -> ForgetReport:
        """Erase everything about a subject or said by them, so that no byte of it is left in the database.

        Turns, other memories, their former versions, vectors, names, and blobs that nobody else's turn names; case
        does not matter in names. `StorageTimeoutError` with the outcome "applied" says that all of it is gone for
        every reader, but that another process kept the file in use, so that bytes may be left: call it again.
        """
        shelf, name = self.shelf(), check_key(subject, field="subject")
        return await forgetting.forget(shelf, name, refresh=recalling.has_indexes(self.patience))

    async def sweep(self) -> int:
        """Remove expired memories now; how many there were. They are invisible anyway."""
        return await forgetting.sweep(self.shelf())

    async def reembed(self, on_progress: Progress | None = None) -> int:
        """Embed every memory again with the model this memory was opened with; how many there are.

        The new vectors take the place of the old ones all at once at the end. An interrupted call changes nothing;
        the next one goes on where it stopped. `on_progress` is told the number done so far.
        """
        return await reembed(self.shelf(), on_progress)

    async def stats(self) -> dict[str, Any]:
        """How much is remembered, and by which model."""
        shelf = self.shelf()
        embedding = await shelf.current()
        live = ~(F("expires_at") <= self._clock.now())
        return {
            "tenant": self.tenant,
            "memories": await shelf.text.count(where=live),
            "turns": await shelf.store.turns.count(),
            "sessions": len(await self.sessions()),
            "subjects": len(await self.subjects()),
            "embedding": embedding and {"model": embedding.model, "dimensions": embedding.dimensions},
        }

    def shelf(self) -> Shelf:
        """Where memories are kept."""
        if not self._is_open:
            raise StorageConnectionError("the memory is not open: await it, or use it in `async with`")
        return self._shelf

    @property
    def _clock(self) -> Clock:
        clock: Clock = self._root.engine.clock
        return clock

    def _instant(self, moment: datetime | None, name: str) -> int:
        return self._clock.now() if moment is None else to_instant(moment, field=name)

    async def _document(self, memory_id: str) -> Document | None:
        document = await self.shelf().text.get(check_key(memory_id, field="memory_id"))
        return None if document is None or is_expired(document.payload, self._clock.now()) else document

    async def _scan(self, condition: Filter | None) -> AsyncIterator[MemoryRecord]:
        async for document in self.shelf().text.scan(where=condition):
            if not is_expired(document.payload, self._clock.now()):
                yield record_of(document)


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
        extra.append(F("kind").in_([check_key(kind, field="kinds") for kind in several(kinds, field="kinds")]))
    for part in extra:
        condition = part if condition is None else condition & part
    return condition


def _check_embed(embed: object) -> None:
    if embed is None or embed == STATIC or isinstance(embed, EmbeddingProvider):
        return
    if isinstance(embed, str) or not callable(embed):
        raise StorageDataError('expected "static", None or a callable', field="embed")
