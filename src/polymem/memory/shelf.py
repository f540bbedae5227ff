"""Where a tenant's memories are kept: the collections every part of `Memory` works on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polymem.contracts.kv import KeyValue
from polymem.contracts.text import Document, Text
from polymem.contracts.vectors import VectorRecord, Vectors
from polymem.errors import StorageDataError
from polymem.memory.records import Draft
from polymem.providers.embedding import EmbeddingProvider, Matrix
from polymem.store import Store


@dataclass(frozen=True, slots=True)
class Shelf:
    """One tenant's store with the names its memories go by. Works the same inside a transaction."""

    store: Store
    embedder: EmbeddingProvider | None
    language: str

    def inside(self, transaction: Store) -> "Shelf":
        return Shelf(transaction, self.embedder, self.language)

    @property
    def text(self) -> Text:
        """Every memory as a document, ranked by BM25."""
        return self.store.text("memory", language=self.language)

    @property
    def vectors(self) -> Vectors | None:
        """The same ids as vectors; None without an embedder."""
        if self.embedder is None:
            return None
        return self.store.vectors("memory", dimensions=self.embedder.dimensions, model=self.embedder.name)

    @property
    def notes(self) -> KeyValue[Any]:
        """Idempotency keys, former versions, known subjects."""
        return self.store.namespace("memory").kv

    async def embed(self, drafts: Sequence[Draft]) -> Matrix | None:
        """One row per draft; done before a transaction begins, since it may take long."""
        if self.embedder is None or not drafts:
            return None
        return await self.embedder.embed_batch([draft.embedded for draft in drafts])

    async def put(self, documents: Sequence[Document], matrix: Matrix | None) -> None:
        """Store documents with their vectors; one whose vector says nothing is found by its words alone."""
        await self.text.put_many(documents)
        await self.put_vectors(documents, matrix)

    async def put_vectors(self, documents: Sequence[Document], matrix: Matrix | None) -> None:
        if self.vectors is None or matrix is None:
            return
        rows = zip(documents, matrix, strict=True)
        telling = [VectorRecord(d.id, vector, d.payload) for d, vector in rows if np.any(vector)]
        mute = {d.id for d in documents} - {record.id for record in telling}
        await self.vectors.put_many(telling)
        if mute:
            await self.vectors.delete_many(mute)

    async def remove(self, ids: Sequence[str]) -> int:
        """Remove memories with their vectors and former versions; how many there were."""
        stored = await self.stored_model()
        if stored is not None:
            space = self.store.vectors("memory", dimensions=stored["dimensions"], model=stored["model"])
            await space.delete_many(ids)
        await self.notes.delete_many([f"history/{memory_id}" for memory_id in ids])
        return await self.text.delete_many(ids)

    async def stored_model(self) -> dict[str, Any] | None:
        """Which model the stored vectors come from, None where there are none."""
        found: dict[str, Any] | None = await self.notes.get("embedding")
        return found

    async def claim_model(self) -> None:
        """Note which model the vectors come from; `StorageDataError` where it is another one than before."""
        if self.embedder is None:
            return
        ours = {"model": self.embedder.name, "dimensions": self.embedder.dimensions}
        stored = await self.stored_model()
        if stored is None:
            await self.notes.put("embedding", ours)
        elif stored != ours:
            raise StorageDataError(
                f"the memories are embedded with {stored['model']} ({stored['dimensions']} dimensions), not with "
                f"{ours['model']} ({ours['dimensions']}); open with that model or call memory.reembed()",
                field="embed",
            )
