"""Ranked full-text search (TXT-1)."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, final

from polymem.contracts._input import (
    PAGE,
    Where,
    all_checked,
    json_object,
    members,
    several,
    stream,
    unique_ids,
)
from polymem.contracts._text_query import TextQuery, check_highlight, check_query, check_weights, parse_query
from polymem.contracts.filter import Filter, parse
from polymem.core.page import Page
from polymem.core.text import check_key, check_limit, check_name, check_text
from polymem.errors import StorageDataError, StorageUnsupportedError

__all__ = [
    "Document",
    "Text",
    "TextCollection",
    "TextDriver",
    "TextFeatures",
    "TextHit",
    "TextQuery",
    "parse_query",
]

Content = str | Mapping[str, str]
"""A text, kept as the field "text", or several named fields."""
Entry = tuple[str, Content] | tuple[str, Content, Mapping[str, Any] | None] | Mapping[str, Any]
"""(id, text), (id, text, payload), a `Document`, or a mapping with the members id, text, payload."""


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """What a text cell can do."""

    languages: tuple[str, ...] = ()
    phrases: bool = True
    prefixes: bool = True
    durable: bool = True


@dataclass(frozen=True, slots=True)
class TextCollection:
    """A named collection of documents analysed in one language ("trigram": by character trigrams)."""

    name: str
    language: str = "english"


class Document(NamedTuple):
    """Named text fields under an id, with any JSON object beside them."""

    id: str
    fields: dict[str, str]
    payload: dict[str, Any]


class TextHit(NamedTuple):
    """A search result: the BM25 `score` (higher is better) and the document.

    `highlights` holds the fields with a match, marked up, where the search asked for it.
    """

    id: str
    score: float
    fields: dict[str, str]
    payload: dict[str, Any]
    highlights: Mapping[str, str] = MappingProxyType({})


class TextDriver(Protocol):
    """The text collections of one namespace; BM25 statistics are those of the one collection.

    The first write fixes a collection's language; another one later is a `StorageDataError` (field
    `language`).
    """

    @property
    def features(self) -> TextFeatures: ...

    async def put_many(self, collection: TextCollection, documents: Sequence[Document], /) -> None:
        """Insert or replace, all or nothing."""
        ...

    async def get_many(self, collection: TextCollection, ids: Sequence[str], /) -> dict[str, Document]: ...

    async def delete_many(self, collection: TextCollection, ids: Sequence[str], /) -> int: ...

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
        """Matching documents that satisfy `where`, best first, ties by id.

        `highlight` is put before and after every matching word in `TextHit.highlights`. A word, prefix or
        phrase of which the analysis leaves nothing is ignored; a query of which nothing is left finds
        nothing.
        """
        ...

    async def rank(
        self, collection: TextCollection, query: TextQuery, /, *, limit: int, where: Filter | None
    ) -> list[tuple[str, float]]:
        """What `search` finds, ids and scores alone."""
        ...

    async def frequencies(self, collection: TextCollection, words: Sequence[str], /) -> tuple[int, Mapping[str, int]]:
        """The number of documents, and for each word as given the number of documents that hold its stem."""
        ...

    async def page(
        self, collection: TextCollection, after: str | None, limit: int, /, *, where: Filter | None
    ) -> Page[Document]:
        """Documents in id order."""
        ...

    async def count(self, collection: TextCollection, /, *, where: Filter | None) -> int: ...

    async def clear(self, collection: TextCollection, /) -> int: ...


@final
class Text:
    """What users hold: `store.text(name, language=...)`, one collection of documents.

    Bad input is a `StorageDataError` that names the field, and nothing is written; a query typed by a user is
    never bad input. `where` filters on the payload (contracts/filter.py).
    """

    def __init__(self, driver: TextDriver, collection: TextCollection) -> None:
        _check_collection(collection, driver.features)
        self._driver, self._collection = driver, collection

    @property
    def features(self) -> TextFeatures:
        return self._driver.features

    @property
    def collection(self) -> TextCollection:
        return self._collection

    @property
    def driver(self) -> TextDriver:
        """The engine's own side, for what only it can do."""
        return self._driver

    async def put(self, id: str, text: Content, payload: Mapping[str, Any] | None = None) -> None:
        """Insert or replace a document: a text, or a mapping of field names to texts, and any JSON object."""
        await self.put_many([(id, text, payload)])

    async def put_many(self, documents: Iterable[Entry]) -> None:
        """Insert or replace, all or nothing; of several documents with one id the last counts."""
        checked = {found.id: found for found in await all_checked(documents, _document, field="documents")}
        if checked:
            await self._driver.put_many(self._collection, list(checked.values()))

    async def get(self, id: str) -> Document | None:
        """The document, None where there is none."""
        return (await self._driver.get_many(self._collection, [check_key(id, field="id")])).get(id)

    async def get_many(self, ids: Iterable[str]) -> dict[str, Document]:
        """The documents that exist, by id."""
        return await self._driver.get_many(self._collection, unique_ids(ids))

    async def exists(self, id: str) -> bool:
        return await self.get(id) is not None

    async def delete(self, id: str) -> bool:
        """Remove; whether it was there."""
        return await self.delete_many([check_key(id, field="id")]) > 0

    async def delete_many(self, ids: Iterable[str]) -> int:
        """Remove; how many were there."""
        return await self._driver.delete_many(self._collection, unique_ids(ids))

    async def search(
        self,
        query: str | TextQuery,
        *,
        limit: int = 10,
        offset: int = 0,
        where: Where | None = None,
        weights: Mapping[str, float] | None = None,
        highlight: tuple[str, str] | None = None,
    ) -> list[TextHit]:
        """The documents that match and satisfy `where`, best first by BM25, ties by id.

        A string is read by `parse_query`. `weights` make a field count more or less (1 where not named).
        `highlight` is put before and after each matching word in `TextHit.highlights`; the text around it is
        not escaped. `offset` costs as much as reading what it skips. Nothing to look for finds nothing.
        """
        wanted, condition = self._query(query, weights), parse(where)
        check_highlight(highlight)
        check_limit(offset, field="offset")
        if not check_limit(limit) or not (wanted.words or wanted.prefixes or wanted.phrases):
            return []
        return await self._driver.search(
            self._collection, wanted, limit=limit, offset=offset, where=condition, highlight=highlight
        )

    async def rank(
        self, query: str | TextQuery, *, limit: int = 10, where: Where | None = None
    ) -> list[tuple[str, float]]:
        """The ids and scores of what `search` finds: cheaper, since no document is read."""
        wanted, condition = self._query(query, None), parse(where)
        if not check_limit(limit) or not (wanted.words or wanted.prefixes or wanted.phrases):
            return []
        return await self._driver.rank(self._collection, wanted, limit=limit, where=condition)

    async def frequencies(self, words: Iterable[str]) -> tuple[int, Mapping[str, int]]:
        """How many documents there are, and for each word how many of them hold a word of its stem."""
        checked = [check_text(word, field="words") for word in several(words, field="words")]
        return await self._driver.frequencies(self._collection, list(dict.fromkeys(checked)))

    def scan(self, *, where: Where | None = None) -> AsyncIterator[Document]:
        """The documents that satisfy `where` in order of id; no snapshot."""
        condition = parse(where)
        return stream(lambda after: self._driver.page(self._collection, after, PAGE, where=condition))

    async def count(self, *, where: Where | None = None) -> int:
        """How many documents satisfy `where`."""
        return await self._driver.count(self._collection, where=parse(where))

    async def clear(self) -> int:
        """Remove every document and what fixed the language; how many there were."""
        return await self._driver.clear(self._collection)

    def _query(self, query: str | TextQuery, weights: Mapping[str, float] | None) -> TextQuery:
        wanted = check_query(query) if isinstance(query, TextQuery) else parse_query(query)
        if weights is not None:
            wanted = replace(wanted, weights=check_weights(weights))
        features = self._driver.features
        for kind, possible in (("phrases", features.phrases), ("prefixes", features.prefixes)):
            if getattr(wanted, kind) and not possible:
                raise StorageUnsupportedError(f"this engine cannot search for {kind}", field="query")
        return wanted


def _check_collection(collection: TextCollection, features: TextFeatures) -> None:
    check_name(collection.name, field="name")
    check_name(collection.language, field="language")
    if features.languages and collection.language not in features.languages:
        offered = ", ".join(features.languages)
        raise StorageUnsupportedError(f"no such language here; there are {offered}", field="language")


def _document(document: object) -> Document:
    if isinstance(document, Document):
        document = tuple(document)
    given = members(document, required=("id", "text"), optional=("payload",), field="documents")
    id = check_key(given["id"], field="id")
    return Document(id, _fields(given["text"]), json_object(given.get("payload"), field="payload"))


def _fields(text: object) -> dict[str, str]:
    fields = {"text": text} if isinstance(text, str) else text
    if not isinstance(fields, Mapping) or not fields:
        raise StorageDataError("expected a string or a mapping of field names to strings", field="text")
    return {check_name(name, field="text"): check_text(value, field=f"text.{name}") for name, value in fields.items()}
