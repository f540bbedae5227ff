"""The documents of a text collection with their index, and a query in the terms of that index."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from polymem.contracts.text import Document, TextCollection, TextQuery
from polymem.engines.memory._highlight import Phrase, mark
from polymem.engines.memory._indexed import IndexedTable
from polymem.indexes.analyzer import Analyzer, analyzer
from polymem.indexes.postings import TextIndex
from polymem.indexes.tokens import encode_tokens
from polymem.indexes.vocabulary import Vocabulary


@dataclass
class _Index:
    """The postings, and the words that prefixes are completed from once somebody asked for one."""

    postings: TextIndex = field(default_factory=TextIndex)
    words: Vocabulary | None = None


class DocumentTable(IndexedTable[Document, _Index]):
    """The documents of one collection; one that runs empty keeps its language, a cleared one is forgotten."""

    collection: TextCollection = TextCollection("")

    def postings(self) -> TextIndex:
        return self.fresh(_Index, self._change).postings

    def expand(self, prefix: str) -> list[Phrase]:
        index = self.fresh(_Index, self._change)
        if index.words is None:
            index.words = Vocabulary(analyzer(self.collection.language))
            index.words.add(_texts(self.rows.values()))
        return index.words.expand(prefix)

    def _change(self, index: _Index, put: list[str], removed: list[str]) -> None:
        language = analyzer(self.collection.language)
        index.postings.remove_many(removed)
        if put:
            index.postings.put_many(put, [encode_tokens(language, self.rows[id_].fields) for id_ in put])
        if index.words is not None:
            index.words.add(_texts(self.rows[id_] for id_ in put))


@dataclass(frozen=True)
class Sought:
    """A query as analysed terms."""

    analyzer: Analyzer
    words: list[str]
    phrases: list[Phrase]
    prefixes: list[list[Phrase]]
    unsearched: frozenset[str]

    def highlights(self, fields: Mapping[str, str], marks: tuple[str, str]) -> dict[str, str]:
        wanted = [(word,) for word in self.words] + self.phrases + [p for some in self.prefixes for p in some]
        searched = {name: text for name, text in fields.items() if name not in self.unsearched}
        marked = {
            name: mark(self.analyzer.spans(text), text, wanted, marks) for name, text in searched.items()
        }
        return {name: text for name, text in marked.items() if text is not None}


def analysed(table: DocumentTable, query: TextQuery) -> Sought:
    """A query in the language of the collection; a phrase of which nothing is left is ignored."""
    language = analyzer(table.collection.language)
    phrases = [tuple(language.terms(phrase)) for phrase in query.phrases]
    return Sought(
        language,
        language.query_terms(query.words),
        [phrase for phrase in phrases if phrase],
        [table.expand(prefix) for prefix in query.prefixes],
        frozenset(name for name, weight in query.weights if weight == 0),
    )


def _texts(documents: Iterable[Document]) -> Iterator[str]:
    return (text for document in documents for text in document.fields.values())
