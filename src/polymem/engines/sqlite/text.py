"""Texts in `pm_texts` with a token BLOB each; ranked by an index in memory made of those (see `polymem.indexes`)."""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple, TypeVar

import apsw

from polymem.contracts.filter import Filter
from polymem.contracts.text import Document, TextCollection, TextFeatures, TextHit, TextQuery
from polymem.core.codec import decode_json, encode_json
from polymem.core.page import Page
from polymem.engines.sqlite import _collections
from polymem.engines.sqlite._collections import Place
from polymem.engines.sqlite._database import Runner
from polymem.engines.sqlite._filter import condition_on
from polymem.engines.sqlite._indexes import Source, use_index
from polymem.engines.sqlite._pace import SEARCH_SLICE, Pace, paced
from polymem.indexes.analyzer import LANGUAGES, Analyzer, analyzer
from polymem.indexes.query import Sought, analysed
from polymem.indexes.ranking import allowed_best
from polymem.indexes.search_index import SearchIndex
from polymem.indexes.tokens import encode_tokens
from polymem.indexes.vocabulary import Vocabulary

Result = TypeVar("Result")
Work = Callable[[apsw.Connection, int], Result]
"""What to do with the number of a collection that is there."""


_SOURCE = Source("pm_texts", "tokens", SearchIndex, lambda index, ids, blobs: index.put_many(ids, blobs))


class SqliteText:
    """The text collections of one namespace."""

    features = TextFeatures(languages=LANGUAGES)

    def __init__(self, runner: Runner, namespace: str) -> None:
        self._runner, self._namespace = runner, namespace

    async def put_many(self, collection: TextCollection, documents: Sequence[Document], /) -> None:
        language = analyzer(collection.language)

        def put(connection: apsw.Connection) -> None:
            number = _collections.ensure(connection, self._place(collection), _options(collection))
            connection.executemany(
                "insert into pm_texts values(?, ?, ?, ?, ?) on conflict do update set fields = excluded.fields, "
                "payload = excluded.payload, tokens = excluded.tokens",
                paced((number, *_row(language, document)) for document in documents),
            )
            _collections.log_change(connection, number, [document.id for document in documents])

        await self._runner.write(put)

    async def get_many(self, collection: TextCollection, ids: Sequence[str], /) -> dict[str, Document]:
        return await self._read(collection, lambda c, number: _documents(c, number, ids), {})

    async def delete_many(self, collection: TextCollection, ids: Sequence[str], /) -> int:
        def delete(connection: apsw.Connection) -> int:
            number = _collections.find(connection, self._place(collection), _options(collection))
            return 0 if number is None else _collections.delete(connection, number, "pm_texts", ids)

        return await self._runner.write(delete)

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
        language = analyzer(collection.language)

        def search(connection: apsw.Connection, number: int) -> list[TextHit]:
            pace = Pace(SEARCH_SLICE)
            wanted = _Wanted(query, limit, offset, where)
            sought, found = self._ranked(connection, number, language, wanted, pace)
            documents = _documents(connection, number, [id for id, _ in found], pace)
            there = ((documents[id], score) for id, score in paced(found, pace) if id in documents)
            return [_hit(document, score, sought, highlight) for document, score in there]

        return await self._search(collection, search, [])

    async def rank(
        self, collection: TextCollection, query: TextQuery, /, *, limit: int, where: Filter | None
    ) -> list[tuple[str, float]]:
        language, wanted = analyzer(collection.language), _Wanted(query, limit, 0, where)
        return await self._search(
            collection, lambda c, number: self._ranked(c, number, language, wanted, Pace(SEARCH_SLICE))[1], []
        )

    async def frequencies(self, collection: TextCollection, words: Sequence[str], /) -> tuple[int, Mapping[str, int]]:
        language = analyzer(collection.language)

        def count(index: SearchIndex, _: object) -> tuple[int, dict[str, int]]:
            found = {word: [index.frequency(term) for term in language.query_terms([word])] for word in words}
            return index.rows, {word: min(counts, default=0) for word, counts in found.items()}

        def frequencies(connection: apsw.Connection, number: int) -> tuple[int, dict[str, int]]:
            return use_index(self._runner.indexes, connection, number, _SOURCE, count)

        return await self._search(collection, frequencies, (0, dict.fromkeys(words, 0)))

    async def page(
        self, collection: TextCollection, after: str | None, limit: int, /, *, where: Filter | None
    ) -> Page[Document]:
        def page(connection: apsw.Connection, number: int) -> Page[Document]:
            condition, values = condition_on(where, "payload")
            query = f"select id, fields, payload from pm_texts where collection = ? and id > ? and {condition}"
            rows = connection.execute(f"{query} order by id limit ?", (number, after or "", *values, limit))
            found = list(paced(map(_document, rows)))
            return Page(found, found[-1].id if len(found) == limit else None)

        return await self._read(collection, page, Page([], None))

    async def count(self, collection: TextCollection, /, *, where: Filter | None) -> int:
        def count(connection: apsw.Connection, number: int) -> int:
            condition, values = condition_on(where, "payload")
            query = f"select count(*) from pm_texts where collection = ? and {condition}"
            return int(connection.execute(query, (number, *values)).get)

        return await self._read(collection, count, 0)

    async def clear(self, collection: TextCollection, /) -> int:
        def clear(connection: apsw.Connection) -> int:
            number = _collections.find(connection, self._place(collection), _options(collection))
            return 0 if number is None else _collections.drop(connection, number, "pm_texts")

        return await self._runner.write(clear)

    def _ranked(
        self, connection: apsw.Connection, number: int, language: Analyzer, wanted: "_Wanted", pace: Pace
    ) -> tuple[Sought, list[tuple[str, float]]]:
        query = wanted.query

        def rank(index: SearchIndex, allowed: AbstractSet[str] | None) -> tuple[Sought, list[tuple[str, float]]]:
            sought = analysed(language, query, lambda: _vocabulary(index, connection, number, language))

            def search(limit: int, among: AbstractSet[str] | None) -> list[tuple[str, float]]:
                return index.search(
                    sought.words, sought.phrases, sought.prefixes, weights=dict(query.weights),
                    common=query.common, allowed=among, limit=limit, pause=pace.pause,
                )  # fmt: skip

            found = allowed_best(search, wanted.limit + wanted.offset, allowed, index.rows)
            return sought, found[wanted.offset :]

        return use_index(self._runner.indexes, connection, number, _SOURCE, rank, where=wanted.where)

    async def _read(self, collection: TextCollection, work: Work[Result], absent: Result) -> Result:
        return await self._runner.read(self._found(collection, work, absent))

    async def _search(self, collection: TextCollection, work: Work[Result], absent: Result) -> Result:
        return await self._runner.search(self._found(collection, work, absent))

    def _found(
        self, collection: TextCollection, work: Work[Result], absent: Result
    ) -> Callable[[apsw.Connection], Result]:
        def find(connection: apsw.Connection) -> Result:
            number = _collections.find(connection, self._place(collection), _options(collection))
            return absent if number is None else work(connection, number)

        return find

    def _place(self, collection: TextCollection) -> Place:
        return Place(self._namespace, "text", collection.name)


class _Wanted(NamedTuple):
    """What a search looks for."""

    query: TextQuery
    limit: int
    offset: int
    where: Filter | None


def _options(collection: TextCollection) -> dict[str, Any]:
    return {"language": collection.language}


def _row(language: Analyzer, document: Document) -> tuple[str, str, str, bytes]:
    fields, payload = encode_json(document.fields).decode(), encode_json(document.payload).decode()
    return document.id, fields, payload, encode_tokens(language, document.fields)


def _documents(
    connection: apsw.Connection, number: int, ids: Sequence[str], pace: Pace | None = None
) -> dict[str, Document]:
    query = "select id, fields, payload from pm_texts where collection = ? and id in (select value from json_each(?))"
    rows = connection.execute(query, (number, encode_json(list(ids)).decode()))
    pace = pace or Pace()
    pace.pause()  # before the first row, for which SQLite sorts the ids
    return {document.id: document for document in paced(map(_document, rows), pace)}


def _document(row: tuple[Any, ...]) -> Document:
    return Document(row[0], decode_json(row[1]), decode_json(row[2]))


def _vocabulary(index: SearchIndex, connection: apsw.Connection, number: int, language: Analyzer) -> Vocabulary:
    if index.words is None:
        index.words = Vocabulary(language)
    unread, index.unread = index.unread, []
    for document in paced(_documents(connection, number, unread).values()):
        index.words.add(document.fields.values())
    return index.words


def _hit(document: Document, score: float, sought: Sought, highlight: tuple[str, str] | None) -> TextHit:
    hit = TextHit(document.id, score, document.fields, document.payload)
    return hit._replace(highlights=sought.highlights(document.fields, highlight)) if highlight else hit
