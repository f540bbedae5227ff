"""How memories come out: a union of what words and vectors find, ranked and explained."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final, TypeVar

import numpy as np

from polymem.contracts._input import all_checked
from polymem.contracts.filter import Filter, matches
from polymem.contracts.text import Document, TextQuery
from polymem.contracts.vectors import Vector, Vectors
from polymem.core.clock import to_datetime
from polymem.errors import (
    StorageAuthError,
    StorageConnectionError,
    StorageDataError,
    StorageError,
    StorageRateLimitError,
    StorageTimeoutError,
)
from polymem.memory.patience import Patience
from polymem.memory.ranking import (
    CANDIDATES,
    Match,
    Query,
    Ranked,
    Ranking,
    Weights,
    best_case,
    candidates,
    common_share,
    is_first_person,
    query_vector,
    question_words,
    text_trust,
)
from polymem.memory.records import Hit, attributes_of, hit_of, holds, neighbour_ids, record_of
from polymem.memory.shelf import Shelf, document_of
from polymem.providers.embedding import StaticEmbedder, TokenVectors

_log = logging.getLogger("polymem.memory")
DOWN: Final = (StorageConnectionError, StorageTimeoutError, StorageAuthError, StorageRateLimitError)
_MOST_WORDS: Final = 64
"""Of a question as long as a page only the rarest words are looked for."""
_LONGEST: Final = 10_000
_CUT: Final = f"of the question only the first {_LONGEST} characters were used"
_LONG: Final = 1000
"""Characters of a question that are worth a hop to a thread."""
_WITHOUT: Final = {
    "text search": "found by vectors alone",
    "vector search": "found by words alone",
    "the embedder": "found by words alone",
}
_TEXT, _VECTORS, _EMBEDDER = _WITHOUT
_STATIC: Final = "the offline model"
Answer = TypeVar("Answer")
Default = TypeVar("Default")


class Recalled(list[Hit]):
    """The hits, best first; `notes` says what the answer had to do without."""

    def __init__(self, hits: Collection[Hit] = (), notes: Collection[str] = ()) -> None:
        super().__init__(hits)
        self.notes = tuple(notes)


@dataclass(frozen=True, slots=True)
class Question:
    """One call of recall, checked."""

    text: str
    limit: int
    condition: Filter | None
    as_of: int
    now: int
    weights: Weights


async def recall(shelf: Shelf, question: Question, patience: Patience) -> Recalled:
    """The memories that answer a question. A source that is down is done without, unless there is no other."""
    short = replace(question, text=question.text[:_LONGEST])
    words = question_words(short.text, shelf.language)
    if not question.limit or not words:
        return Recalled()
    found = await _Recall(shelf, short, patience).run(words)
    return found if short == question else Recalled(found, [*found.notes, _CUT])


def has_indexes(patience: Patience) -> bool:
    """Whether a call of recall has loaded them."""
    return patience.knows(f"{_TEXT} (index)")


class _Recall:
    """One call on its way: what answers, what was loaded, and what the answer lacks."""

    def __init__(self, shelf: Shelf, question: Question, patience: Patience) -> None:
        self._shelf, self._question, self._patience = shelf, question, patience
        self._space: Vectors | None = None
        self._down: dict[str, StorageError] = {}
        self._notes: list[str] = []
        self._near = cache(neighbour_ids)
        self._documents: dict[str, Document | None] = {}
        """What was looked at; None is absent."""

    async def run(self, words: tuple[str, ...]) -> Recalled:
        self._space = await self._ask(_VECTORS, self._shelf.vectors, None, part="model")
        if self._shelf.embedder is None:
            self._notes.append(self._shelf.no_embedder)
        tokens = await self._tokens()
        rows, frequencies = await self._statistics({*words, *(tokens.words if tokens else ())} - {""})
        vector = await self._vector(tokens, rows, frequencies)
        by_words, by_vector = await asyncio.gather(
            self._by_words(_rarest(words, frequencies), rows), self._by_vector(vector)
        )
        self._check_anything_answered()
        found = candidates(by_words, by_vector or (), self._near)
        cosines = None if vector is None or by_vector is None else await self._cosines(vector, found)
        trust = text_trust(words, rows, frequencies)
        return await self._hits(await self._best(by_words, cosines, trust))

    async def _ask(
        self, source: str, call: Callable[[], Awaitable[Answer]], instead: Default, *, part: str = "index"
    ) -> Answer | Default:
        """What a source answers, `instead` where it is down; that is noted once, and it is not asked again."""
        if source in self._down:
            return instead
        try:
            return await self._patience.wait(f"{source} ({part})", call())
        except DOWN as error:
            self._down[source] = error
            self._notes.append(f"{source} is down: {_WITHOUT[source]}")
            _log.warning("recall degraded: %s", type(error).__name__, extra={"operation": "recall"})
            return instead

    def _check_anything_answered(self) -> None:
        if _TEXT in self._down and (self._space is None or {_VECTORS, _EMBEDDER} & self._down.keys()):
            raise self._down[_TEXT]

    async def _tokens(self) -> TokenVectors | None:
        embedder, text = self._shelf.embedder, self._question.text
        if not isinstance(embedder, StaticEmbedder):
            return None
        if self._patience.knows(_STATIC) and len(text) < _LONG:
            return embedder.tokens(text)
        return await self._patience.wait(_STATIC, asyncio.to_thread(embedder.tokens, text))

    async def _statistics(self, words: Iterable[str]) -> tuple[int, dict[str, int]]:
        """How many memories there are, and how many of them hold each word."""
        nothing: tuple[int, dict[str, int]] = (0, {})
        counting = self._ask(_TEXT, lambda: self._shelf.text.frequencies(words), nothing)
        if self._space is None or self._patience.knows(f"{_VECTORS} (index)"):
            rows, frequencies = await counting
        else:  # both indexes are loaded at once
            (rows, frequencies), _ = await asyncio.gather(counting, self._ask(_VECTORS, self._space.mean, None))
        return rows, dict(frequencies)

    async def _vector(self, tokens: TokenVectors | None, rows: int, frequencies: dict[str, int]) -> Vector | None:
        if tokens is not None:
            return query_vector(tokens, rows, frequencies)
        embedder = self._shelf.embedder
        return None if embedder is None else await self._ask(_EMBEDDER, self._embedded, None)

    async def _embedded(self) -> Vector:
        """The question by an embedder of the user's, which may fail in any way."""
        assert self._shelf.embedder is not None  # noqa: S101 - only asked for where there is one
        try:
            return await self._shelf.embedder.embed(self._question.text)
        except StorageDataError:
            raise
        except Exception as error:
            raise StorageConnectionError(f"the embedder failed: {type(error).__name__}") from error

    async def _by_words(self, words: tuple[str, ...], rows: int) -> list[Match]:
        query = TextQuery(words=words, common=common_share(rows))
        limit, condition = max(CANDIDATES, self._question.limit), self._question.condition
        return await self._ask(_TEXT, lambda: self._shelf.text.rank(query, limit=limit, where=condition), [])

    async def _by_vector(self, vector: Vector | None) -> list[Match] | None:
        """The nearest, None where vectors cannot be used."""
        space, limit = self._space, max(CANDIDATES, self._question.limit)
        if space is None or vector is None or not np.any(vector):
            return None
        condition = self._question.condition
        return await self._ask(_VECTORS, lambda: space.rank(vector, limit=limit, where=condition), None)

    async def _cosines(self, vector: Vector, ids: Sequence[str]) -> list[Match] | None:
        space = self._space
        if space is None:
            return None
        found = await self._ask(_VECTORS, lambda: space.centred_cosines(vector, ids), None)
        return None if found is None else list(found.items())

    async def _best(self, words: list[Match], cosines: list[Match] | None, trust: float) -> list[Ranked]:
        """The best `limit` that count.

        Ranks all as if they counted and were worth what a memory can be, looks at those on top, and ranks again
        until all on top were looked at: that takes two or three rounds and a tenth of the documents.
        """
        question = self._question
        query = Query(is_first_person(question.text), trust, to_datetime(question.now))
        ranking = Ranking(words, cosines, neighbours=self._near, query=query, weights=question.weights)
        further = (2 * question.limit + 10) * (1 if question.condition is None else 4)
        while True:
            seen = {id: d.payload for id, d in self._documents.items() if d is not None and self._counts(d)}
            best, decisive = ranking.standing(
                {id: attributes_of(payload) for id, payload in seen.items()},
                count=further, assumed=best_case(query), without=self._documents.keys() - seen.keys(),
            )  # fmt: skip
            top = best[: question.limit]
            needed = {*(hit.id for hit in top), *decisive}
            if seen.keys() >= needed:
                return top
            around = (near for hit in top for near in self._near(hit.id))
            await self._load([*needed, *(hit.id for hit in best), *around])
            further *= 3  # what is on top may not count in masses, such as turns of others beside those of one

    def _counts(self, document: Document) -> bool:
        """Whether it holds and satisfies the filter, which the neighbours of what was found need not."""
        condition = self._question.condition
        if not holds(document.payload, self._question.now, self._question.as_of):
            return False
        return condition is None or matches(condition, document.payload)

    async def _load(self, ids: Iterable[str]) -> None:
        wanted = [id for id in dict.fromkeys(ids) if id not in self._documents]
        if not wanted:
            return
        found = await self._ask(_TEXT, lambda: self._shelf.text.get_many(wanted), None)
        if found is None:
            found = await self._load_from_vectors(wanted)
        self._documents.update((id, found.get(id)) for id in wanted)

    async def _load_from_vectors(self, ids: Sequence[str]) -> dict[str, Document]:
        self._check_anything_answered()
        space = self._space
        records = {} if space is None else await self._ask(_VECTORS, lambda: space.get_many(ids), {})
        self._check_anything_answered()
        return {id: document_of(record) for id, record in records.items()}

    async def _hits(self, top: list[Ranked]) -> Recalled:
        """The hits with the turns around each."""
        await self._load(near for hit in top for near in self._near(hit.id))
        await asyncio.sleep(0)  # ranking has had this turn of the loop
        return Recalled(await all_checked(top, self._hit, field="limit"), self._notes)

    def _hit(self, found: Ranked) -> Hit:
        document, question = self._documents[found.id], self._question
        assert document is not None  # noqa: S101 - what is ranked on top was looked at
        near = [d for id in self._near(found.id) if (d := self._documents[id]) is not None]
        around = (record_of(d) for d in near if holds(d.payload, question.now, question.as_of))
        return hit_of(document, found.score, found.scores, tuple(around))


def _rarest(words: tuple[str, ...], frequencies: dict[str, int]) -> tuple[str, ...]:
    if len(words) <= _MOST_WORDS:
        return words
    known = [word for word in words if frequencies.get(word)]
    return tuple(sorted(known, key=frequencies.__getitem__)[:_MOST_WORDS]) or words[:_MOST_WORDS]
