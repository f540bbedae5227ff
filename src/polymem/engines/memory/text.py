"""Ranked text: documents, and a BM25 index derived from them (TXT-1)."""

from collections.abc import Iterator, Mapping, Sequence

from polymem.contracts.filter import Filter, matches
from polymem.contracts.text import Document, TextCollection, TextFeatures, TextHit, TextQuery
from polymem.core.page import Page
from polymem.engines._tables.state import detached, page_of
from polymem.engines._tables.views import View
from polymem.engines.memory._documents import DocumentTable
from polymem.errors import StorageDataError
from polymem.indexes.analyzer import LANGUAGES, analyzer
from polymem.indexes.query import Sought, analysed


class MemoryText:
    """The text collections of one namespace."""

    __slots__ = ("_namespace", "_view")

    def __init__(self, view: View, namespace: str) -> None:
        self._view = view
        self._namespace = namespace

    @property
    def features(self) -> TextFeatures:
        return TextFeatures(languages=LANGUAGES, durable=False)

    async def put_many(self, collection: TextCollection, documents: Sequence[Document], /) -> None:
        await self._view.writable()
        self._find(collection)
        stored = [_copy(document) for document in documents]
        if stored:
            table = self._view.table(DocumentTable, self._namespace, collection.name)
            table.collection = collection
            for document in stored:
                table.put(document.id, document)

    async def get_many(self, collection: TextCollection, ids: Sequence[str], /) -> dict[str, Document]:
        rows = self._rows(collection)
        return {id_: _copy(rows[id_]) for id_ in ids if id_ in rows}

    async def delete_many(self, collection: TextCollection, ids: Sequence[str], /) -> int:
        await self._view.writable()
        if self._find(collection) is None:
            return 0
        table = self._view.table(DocumentTable, self._namespace, collection.name)
        return sum(table.pop(id_) is not None for id_ in ids)

    async def search(
        self,
        collection: TextCollection,
        query: TextQuery,
        /,
        *,
        limit: int,
        offset: int,
        where: Filter | None,
        highlight: tuple[str, str] | None,
    ) -> list[TextHit]:
        table = self._find(collection)
        if table is None:
            return []
        sought, found = _ranked(table, query, where, limit, offset)
        hits = [_hit(table.rows[id_], score) for id_, score in found]
        if not highlight:
            return hits
        return [hit._replace(highlights=sought.highlights(hit.fields, highlight)) for hit in hits]

    async def rank(
        self, collection: TextCollection, query: TextQuery, /, *, limit: int, where: Filter | None
    ) -> list[tuple[str, float]]:
        table = self._find(collection)
        return [] if table is None else _ranked(table, query, where, limit, 0)[1]

    async def frequencies(self, collection: TextCollection, words: Sequence[str], /) -> tuple[int, Mapping[str, int]]:
        table, language = self._find(collection), analyzer(collection.language)
        if table is None:
            return 0, dict.fromkeys(words, 0)
        postings = table.postings()
        counts = {word: [postings.frequency(term) for term in language.query_terms([word])] for word in words}
        return len(table.rows), {word: min(found, default=0) for word, found in counts.items()}

    async def page(
        self, collection: TextCollection, after: str | None, limit: int, /, *, where: Filter | None
    ) -> Page[Document]:
        return page_of(self._documents(collection, after, where), limit, lambda document: document.id)

    async def count(self, collection: TextCollection, /, *, where: Filter | None) -> int:
        rows = self._rows(collection)
        return len(rows) if where is None else sum(matches(where, document.payload) for document in rows.values())

    async def clear(self, collection: TextCollection, /) -> int:
        await self._view.writable()
        count = len(self._rows(collection))
        self._view.drop(DocumentTable, self._namespace, collection.name)
        return count

    def _find(self, collection: TextCollection) -> DocumentTable | None:
        """The table of a collection; every call checks the language, known or not."""
        analyzer(collection.language)
        table = self._view.find(DocumentTable, self._namespace, collection.name)
        if table is not None and table.collection != collection:
            known = table.collection.language
            raise StorageDataError(
                f"the collection was written in {known!r}, not {collection.language!r}", field="language"
            )
        return table

    def _rows(self, collection: TextCollection) -> dict[str, Document]:
        table = self._find(collection)
        return {} if table is None else table.rows

    def _documents(self, collection: TextCollection, after: str | None, where: Filter | None) -> Iterator[Document]:
        table = self._find(collection)
        if table is not None:
            documents = (table.rows[id_] for id_ in table.keys_after(after))
            yield from (_copy(document) for document in documents if matches(where, document.payload))


def _ranked(
    table: DocumentTable, query: TextQuery, where: Filter | None, limit: int, offset: int
) -> tuple[Sought, list[tuple[str, float]]]:
    sought = analysed(analyzer(table.collection.language), query, table.vocabulary)
    allowed = None if where is None else {id_ for id_, d in table.rows.items() if matches(where, d.payload)}
    return sought, table.postings().search(
        sought.words, sought.phrases, sought.prefixes, weights=dict(query.weights), common=query.common,
        allowed=allowed, limit=limit, offset=offset,
    )  # fmt: skip


def _hit(document: Document, score: float) -> TextHit:
    return TextHit(document.id, score, dict(document.fields), detached(document.payload))


def _copy(document: Document) -> Document:
    return Document(document.id, dict(document.fields), detached(document.payload))
