"""The documents of a text collection with their index."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from polymem.contracts.text import Document, TextCollection
from polymem.engines.memory._indexed import IndexedTable
from polymem.indexes.analyzer import analyzer
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

    def vocabulary(self) -> Vocabulary:
        index = self.fresh(_Index, self._change)
        if index.words is None:
            index.words = Vocabulary(analyzer(self.collection.language))
            index.words.add(_texts(self.rows.values()))
        return index.words

    def _change(self, index: _Index, put: list[str], removed: list[str]) -> None:
        language = analyzer(self.collection.language)
        index.postings.remove_many(removed)
        if put:
            index.postings.put_many(put, [encode_tokens(language, self.rows[id_].fields) for id_ in put])
        if index.words is not None:
            index.words.add(_texts(self.rows[id_] for id_ in put))


def _texts(documents: Iterable[Document]) -> Iterator[str]:
    return (text for document in documents for text in document.fields.values())
