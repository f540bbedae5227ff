"""How memories come out: a union of what words and vectors find, ranked and explained."""

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

from polymem.contracts.filter import Filter, matches
from polymem.contracts.text import Document, TextHit, TextQuery
from polymem.contracts.vectors import Vector
from polymem.core.clock import to_datetime
from polymem.errors import StorageConnectionError, StorageTimeoutError
from polymem.memory.ranking import (
    CANDIDATES,
    Match,
    Query,
    Ranked,
    Weights,
    centred_cosines,
    common_share,
    is_first_person,
    query_vector,
    question_words,
    rank,
    text_trust,
)
from polymem.memory.records import Hit, MemoryRecord, attributes_of, hit_of, holds, neighbour_ids, record_of
from polymem.memory.shelf import Shelf
from polymem.providers.embedding import INSTALL_HINT, StaticEmbedder

_log = logging.getLogger("polymem.memory")
_DOWN = (StorageConnectionError, StorageTimeoutError)


class Recalled(list[Hit]):
    """The hits, best first; `notes` says what the answer had to do without."""

    def __init__(self, hits: Collection[Hit] = (), notes: Collection[str] = ()) -> None:
        super().__init__(hits)
        self.notes = tuple(notes)


@dataclass(slots=True)
class Question:
    """One call of recall, checked."""

    text: str
    limit: int
    condition: Filter | None
    as_of: int
    now: int
    weights: Weights
    notes: list[str] = field(default_factory=list)


async def recall(shelf: Shelf, question: Question) -> Recalled:
    """The memories that answer a question."""
    words = question_words(question.text, shelf.language)
    if not question.limit or not words:
        return Recalled()
    rows, frequencies, vector = await _prepare(shelf, question, words)
    text_hits, near = await asyncio.gather(_by_words(shelf, question, words, rows), _by_vector(shelf, question, vector))
    documents = await _documents(shelf, question, text_hits, near)
    cosines = await _cosines(shelf, vector, documents) if near is not None else None
    query = Query(is_first_person(question.text), text_trust(words, rows, frequencies), to_datetime(question.now))
    ranked = rank(
        [(hit.id, hit.score) for hit in text_hits],
        cosines,
        neighbours=neighbour_ids,
        attributes={id: attributes_of(document.payload) for id, document in documents.items()},
        query=query,
        weights=question.weights,
    )
    return await _hits(shelf, question, ranked[: question.limit], documents)


async def _prepare(
    shelf: Shelf, question: Question, words: tuple[str, ...]
) -> tuple[int, dict[str, int], Vector | None]:
    """The statistics of the question's words in the collection searched, and the question as a vector."""
    embedder = shelf.embedder
    tokens = embedder.tokens(question.text) if isinstance(embedder, StaticEmbedder) else None
    wanted = {*words, *(word for word in (tokens.words if tokens else ()) if word)}
    try:
        rows, frequencies = await shelf.text.frequencies(wanted)
    except _DOWN:
        rows, frequencies = 0, {}
    if tokens is not None:
        return rows, dict(frequencies), query_vector(tokens, rows, frequencies)
    return rows, dict(frequencies), None if embedder is None else await embedder.embed(question.text)


async def _by_words(shelf: Shelf, question: Question, words: tuple[str, ...], rows: int) -> list[TextHit]:
    try:
        query = TextQuery(words=words, common=common_share(rows))
        return await shelf.text.search(query, limit=CANDIDATES, where=question.condition)
    except _DOWN as error:
        _degrade(question, "text search is down: found by vectors alone", error)
        return []


async def _by_vector(shelf: Shelf, question: Question, vector: Vector | None) -> dict[str, dict[str, object]] | None:
    """The payloads of the nearest by id, None where vectors cannot be used."""
    if shelf.vectors is None:
        question.notes.append(INSTALL_HINT)
        return None
    if vector is None or not np.any(vector):
        return None
    try:
        hits = await shelf.vectors.search(vector, limit=CANDIDATES, where=question.condition)
    except _DOWN as error:
        _degrade(question, "vector search is down: found by words alone", error)
        return None
    return {hit.id: hit.payload for hit in hits}


def _degrade(question: Question, note: str, error: Exception) -> None:
    question.notes.append(note)
    _log.warning("recall degraded: %s", type(error).__name__, extra={"operation": "recall"})


async def _documents(
    shelf: Shelf, question: Question, text_hits: list[TextHit], near: Collection[str] | None
) -> dict[str, Document]:
    """Every candidate that exists, satisfies the filter and holds: both lists and the neighbours of text hits."""
    found = {hit.id: Document(hit.id, hit.fields, hit.payload) for hit in text_hits}
    others = [*(near or ()), *(id for hit in text_hits for id in neighbour_ids(hit.id))]
    loaded = await shelf.text.get_many([id for id in dict.fromkeys(others) if id not in found])
    return {
        id: document
        for id, document in {**found, **loaded}.items()
        if holds(document.payload, question.now, question.as_of)
        and (question.condition is None or matches(question.condition, document.payload))
    }


async def _cosines(shelf: Shelf, vector: Vector | None, documents: dict[str, Document]) -> list[Match]:
    assert shelf.vectors is not None and vector is not None  # noqa: S101, PT018 - there were vector hits
    records = await shelf.vectors.get_many(list(documents))
    if not records:
        return []
    rows = np.stack([record.vector for record in records.values()])
    scores = centred_cosines(vector, rows, await shelf.vectors.mean())
    return list(zip(records, (float(score) for score in scores), strict=True))


async def _hits(
    shelf: Shelf, question: Question, ranked: list[Ranked], documents: dict[str, Document]
) -> Recalled:
    """The hits with the turns around each."""
    around = {id for found in ranked for id in neighbour_ids(found.id)}
    near = await shelf.text.get_many(around) if around else {}
    records = {
        id: record_of(document)
        for id, document in near.items()
        if holds(document.payload, question.now, question.as_of)
    }
    return Recalled([_hit(found, documents[found.id], records) for found in ranked], question.notes)


def _hit(found: Ranked, document: Document, records: dict[str, MemoryRecord]) -> Hit:
    neighbours = tuple(records[id] for id in neighbour_ids(found.id) if id in records)
    return hit_of(document, found.score, found.scores, neighbours)

