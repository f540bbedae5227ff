"""Where a tenant's memories are kept: the collections every part of `Memory` works on."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import numpy as np

from polymem.contracts._input import all_checked
from polymem.contracts.kv import KeyValue
from polymem.contracts.text import Document, Text
from polymem.contracts.vectors import VectorRecord, Vectors
from polymem.errors import StorageDataError
from polymem.memory.records import Draft
from polymem.providers.embedding import INSTALL_HINT, EmbeddingProvider, Matrix
from polymem.store import Store

_FIRST_SPACE: Final = "memory"
_CURRENT: Final = "embedding"
_NEXT: Final = "reembedding"


@dataclass(frozen=True, slots=True)
class Embedding:
    """Which model made the vectors of a tenant, and the collection they are in."""

    model: str
    dimensions: int
    space: str = _FIRST_SPACE

    def same_model(self, other: "Embedding") -> bool:
        return (self.model, self.dimensions) == (other.model, other.dimensions)

    def __str__(self) -> str:
        return f"{self.model} ({self.dimensions} dimensions)"


@dataclass(frozen=True, slots=True)
class Shelf:
    """One tenant's store with the names its memories go by. Works the same inside a transaction."""

    store: Store
    embedder: EmbeddingProvider | None
    language: str
    no_embedder: str = INSTALL_HINT
    """Why there is none."""
    _notes: Store = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # once: a store guards its contracts anew, which costs more than a read of them
        object.__setattr__(self, "_notes", self.store.namespace("memory"))

    def inside(self, transaction: Store) -> "Shelf":
        return replace(self, store=transaction)

    @property
    def text(self) -> Text:
        """Every memory as a document, ranked by BM25."""
        return self.store.text("memory", language=self.language)

    @property
    def notes(self) -> KeyValue[Any]:
        """Idempotency keys, former versions, known subjects, the embedding model."""
        return self._notes.kv

    @property
    def model(self) -> Embedding | None:
        """The model this memory was opened with."""
        return None if self.embedder is None else Embedding(self.embedder.name, self.embedder.dimensions)

    async def current(self) -> Embedding | None:
        """Which model the stored vectors come from, None before there are any."""
        return _embedding(await self.notes.get(_CURRENT))

    async def next(self) -> Embedding | None:
        """The model whose vectors are being made by `reembed`, None while nobody is."""
        return _embedding(await self.notes.get(_NEXT))

    async def announce(self, embedding: Embedding) -> None:
        """From here on every change is noted for `reembed` (see `stale`)."""
        await self.notes.put(_NEXT, asdict(embedding))

    async def switch(self, embedding: Embedding) -> None:
        """Search these vectors from now on."""
        await self.notes.put(_CURRENT, asdict(embedding))
        await self.notes.delete_many([_NEXT, *[key async for key in self.notes.scan("stale/")]])

    def space(self, embedding: Embedding) -> Vectors:
        return self.store.vectors(embedding.space, dimensions=embedding.dimensions, model=embedding.model)

    async def vectors(self) -> Vectors | None:
        """The same ids as vectors; None without an embedder, `StorageDataError` where another model made them."""
        ours, stored = self.model, await self.current()
        if ours is None:
            return None
        if stored is not None and not stored.same_model(ours):
            raise StorageDataError(
                f"the memories are embedded with {stored}, not with {ours}; open with that model or call "
                "memory.reembed()",
                field="embed",
            )
        return self.space(stored or ours)

    async def embed(self, drafts: Sequence[Draft]) -> Matrix | None:
        """One row per draft; done before a transaction begins, since it may take long."""
        if self.embedder is None or not drafts:
            return None
        texts = await all_checked(drafts, lambda draft: draft.embedded, field="turns")
        return await self.embedder.embed_batch(texts)

    async def put(self, documents: Sequence[Document], matrix: Matrix | None) -> None:
        """Store documents with their vectors; one whose vector says nothing is found by its words alone."""
        records = [] if matrix is None else vector_records(documents, matrix)
        space = await self.vectors()
        await self.text.put_many(documents)
        if space is not None and records:
            await space.put_many(records)
            if await self.current() is None and self.model is not None:
                await self.notes.put(_CURRENT, asdict(self.model))
        await self._remove_vectors({document.id for document in documents} - {record.id for record in records})
        await self._note_stale([document.id for document in documents])

    async def remove(self, ids: Sequence[str]) -> int:
        """Remove memories with their vectors and former versions; how many there were."""
        await self._remove_vectors(set(ids))
        await self.notes.delete_many([key(memory_id) for memory_id in ids for key in (history_key, _stale_key)])
        return await self.text.delete_many(ids)

    async def _remove_vectors(self, ids: set[str]) -> None:
        for embedding in (await self.current(), await self.next()) if ids else ():
            if embedding is not None:
                await self.space(embedding).delete_many(ids)

    async def _note_stale(self, ids: Sequence[str]) -> None:
        if await self.next() is not None:
            await self.notes.put_many({_stale_key(memory_id): memory_id for memory_id in ids})


def vector_records(documents: Sequence[Document], matrix: Matrix) -> list[VectorRecord]:
    """Those of the vectors that have a direction. The text goes with them, to answer while text search is down."""
    rows = zip(documents, matrix, strict=True)
    return [VectorRecord(d.id, row, {**d.payload, "text": d.fields["text"]}) for d, row in rows if np.any(row)]


def document_of(record: VectorRecord) -> Document:
    """The document that a vector was stored with."""
    payload = dict(record.payload)
    return Document(record.id, {"text": payload.pop("text", "")}, payload)


def history_key(memory_id: str) -> str:
    """Where former versions are kept: hashed, since ids may be as long as keys."""
    return f"history/{_digest(memory_id)}"


def subject_key(name: str) -> str:
    return f"subject/{_digest(name)}"


def _stale_key(memory_id: str) -> str:
    return f"stale/{_digest(memory_id)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _embedding(note: Any) -> Embedding | None:
    return None if note is None else Embedding(**note)
