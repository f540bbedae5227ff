"""Texts in `pm_texts` with their tokens; ranked by an index in memory made of those (see `polymem.indexes`).

Why not tsvector: its ranking knows no statistics of a collection (no BM25), it keeps 256 places of a word and 16,383 in
all, and its words are those of the server's dictionaries, so that the same texts would rank otherwise than elsewhere.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from polymem.contracts.filter import Filter
from polymem.contracts.text import Document, TextCollection, TextFeatures, TextHit, TextQuery
from polymem.core.codec import decode_json, encode_json
from polymem.core.page import Page
from polymem.engines.postgres import _collections, _full_text
from polymem.engines.postgres._collections import Numbers, Place
from polymem.engines.postgres._runner import Runner
from polymem.engines.postgres._text_index import Indexes, Slot, in_thread
from polymem.engines.postgres.filter_sql import Values
from polymem.indexes.analyzer import LANGUAGES, Analyzer, analyzer
from polymem.indexes.query import Sought, analysed
from polymem.indexes.ranking import allowed_best
from polymem.indexes.search_index import SearchIndex
from polymem.indexes.tokens import encode_tokens
from polymem.indexes.vocabulary import Vocabulary

Result = TypeVar("Result")
_DOCUMENT: Final = "id, fields, payload"
_PUT: Final = _collections.put_statement(
    "insert into pm_texts(collection, id, fields, payload, tokens, words) select place.collection, r.*, "
    "case when place.full_text is not null then to_tsvector(place.full_text::regconfig, pm_words(r.fields)) end "
    "from place, unnest($5::text[], $6::text[], $7::text[], $8::bytea[]) as r(id, fields, payload, tokens) "
    "on conflict (collection, id) do update set fields = excluded.fields, payload = excluded.payload, "
    "tokens = excluded.tokens, words = excluded.words"
)


class PostgresText:
    """The text collections of one namespace. Within a transaction each search makes an index of what it sees."""

    features = TextFeatures(languages=LANGUAGES)

    def __init__(self, runner: Runner, namespace: str, numbers: Numbers | None, indexes: Indexes | None) -> None:
        self._runner, self._namespace, self._indexes = runner, namespace, indexes
        self._numbers = numbers or Numbers()

    async def put_many(self, collection: TextCollection, documents: Sequence[Document], /) -> None:
        ordered = sorted(documents, key=lambda document: document.id)
        language = analyzer(collection.language)
        rows = await in_thread(lambda: [_row(language, document) for document in ordered])
        await _collections.put(self._runner, self._place(collection), _PUT, *map(list, zip(*rows, strict=True)))

    async def get_many(self, collection: TextCollection, ids: Sequence[str], /) -> dict[str, Document]:
        rows = await _collections.get(self._runner, self._numbers, self._place(collection), _DOCUMENT, ids)
        return {row[0]: _document(row) for row in rows}

    async def delete_many(self, collection: TextCollection, ids: Sequence[str], /) -> int:
        return await _collections.delete(self._runner, self._place(collection), ids)

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
        sought, found = await self._ranked(collection, _Wanted(query, limit, offset, where))
        documents = await self.get_many(collection, [id for id, _ in found]) if found else {}
        hits = [(documents[id], score) for id, score in found if id in documents]
        return await in_thread(lambda: [_hit(document, score, sought, highlight) for document, score in hits])

    async def rank(
        self, collection: TextCollection, query: TextQuery, /, *, limit: int, where: Filter | None
    ) -> list[tuple[str, float]]:
        return (await self._ranked(collection, _Wanted(query, limit, 0, where)))[1]

    async def frequencies(self, collection: TextCollection, words: Sequence[str], /) -> tuple[int, Mapping[str, int]]:
        language = analyzer(collection.language)

        def count(index: SearchIndex) -> tuple[int, dict[str, int]]:
            found = {word: [index.frequency(term) for term in language.query_terms([word])] for word in words}
            return index.rows, {word: min(counts, default=0) for word, counts in found.items()}

        nothing = 0, dict.fromkeys(words, 0)
        return await self._use(collection, lambda found: in_thread(lambda: count(found.postings)), nothing)

    async def enable_full_text(self, collection: TextCollection, configuration: str | None, /) -> None:
        """See `polymem.engines.postgres.search`."""
        await _full_text.enable(self._runner, self._place(collection), configuration)

    async def full_text(
        self, collection: TextCollection, query: TextQuery, /, *, limit: int, where: Filter | None
    ) -> list[TextHit]:
        """See `polymem.engines.postgres.search`."""
        found = await _full_text.searched(self._runner.fetch, self._namespace, collection.name)
        if found is None:
            return []
        statement, values = _full_text.full_text_statement(found, _full_text.Wanted(query, limit, where))
        rows = await self._runner.fetch(statement, *values)
        return [TextHit(id, score, decode_json(fields), decode_json(payload)) for id, score, fields, payload in rows]

    async def page(
        self, collection: TextCollection, after: str | None, limit: int, /, *, where: Filter | None
    ) -> Page[Document]:
        place = self._place(collection)
        found = await _collections.page(self._runner, place, _DOCUMENT, after=after, limit=limit, where=where)
        return Page([_document(row) for row in found.items], found.after)

    async def count(self, collection: TextCollection, /, *, where: Filter | None) -> int:
        return await _collections.count(self._runner, self._place(collection), where)

    async def clear(self, collection: TextCollection, /) -> int:
        return await _collections.clear(self._runner, self._place(collection))

    async def _ranked(self, collection: TextCollection, wanted: "_Wanted") -> "_Ranked":
        language = analyzer(collection.language)
        nothing = _Ranked(analysed(language, TextQuery(), lambda: Vocabulary(language)), [])

        async def rank(found: _Found) -> _Ranked:
            words = Vocabulary(language)
            if wanted.query.prefixes:
                words = await found.slot.vocabulary(self._runner.fetch, found.number, language)
            allowed = None if wanted.where is None else await self._satisfying(found.number, wanted.where)
            return await in_thread(lambda: _rank(found.postings, language, words, wanted, allowed))

        return await self._use(collection, rank, nothing)

    async def _satisfying(self, number: int, where: Filter) -> set[str]:
        values = Values([number])
        condition = _collections.satisfying(where, values)
        rows = await self._runner.fetch(f"select id from pm_texts where collection = $1 and {condition}", *values)
        return {id for (id,) in rows}

    async def _use(
        self, collection: TextCollection, work: Callable[["_Found"], Awaitable[Result]], nothing: Result
    ) -> Result:
        """Work on the fresh index; others that want the same collection wait."""

        async def use(number: int) -> list[Result]:
            slot = Slot() if self._indexes is None else self._indexes.slot(number)
            async with slot.lock:
                index = await slot.refresh(self._runner.fetch, number)
                results = [] if index is None else [await work(_Found(number, slot, index))]
            if self._indexes is not None:
                self._indexes.measure(number, slot)
            return results

        results = await self._numbers.rows(self._runner.fetch, self._place(collection), use)
        return results[0] if results else nothing

    def _place(self, collection: TextCollection) -> Place:
        return Place(self._namespace, "text", collection.name, {"language": collection.language})


class _Wanted(NamedTuple):
    """What a search looks for."""

    query: TextQuery
    limit: int
    offset: int
    where: Filter | None


class _Found(NamedTuple):
    """A collection with its index."""

    number: int
    slot: Slot
    postings: SearchIndex


class _Ranked(NamedTuple):
    """What it came to: the query as terms, and ids with scores."""

    sought: Sought
    found: list[tuple[str, float]]


def _rank(
    index: SearchIndex, language: Analyzer, words: Vocabulary, wanted: _Wanted, allowed: set[str] | None
) -> _Ranked:
    query = wanted.query
    sought = analysed(language, query, lambda: words)
    found = allowed_best(
        lambda limit, among: index.search(
            sought.words, sought.phrases, sought.prefixes, weights=dict(query.weights), common=query.common,
            allowed=among, limit=limit,
        ),
        wanted.limit + wanted.offset, allowed, index.rows,
    )  # fmt: skip
    return _Ranked(sought, found[wanted.offset :])


def _row(language: Analyzer, document: Document) -> tuple[str, str, str, bytes]:
    fields, payload = encode_json(document.fields).decode(), encode_json(document.payload).decode()
    return document.id, fields, payload, encode_tokens(language, document.fields)


def _document(row: Any) -> Document:
    return Document(row[0], decode_json(row[1]), decode_json(row[2]))


def _hit(document: Document, score: float, sought: Sought, highlight: tuple[str, str] | None) -> TextHit:
    hit = TextHit(document.id, score, document.fields, document.payload)
    return hit._replace(highlights=sought.highlights(document.fields, highlight)) if highlight else hit
