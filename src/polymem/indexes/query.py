"""A text query in the terms of an index, and the words it marks in the texts found."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from polymem.contracts.text import TextQuery
from polymem.indexes.analyzer import Analyzer
from polymem.indexes.highlight import Phrase, mark
from polymem.indexes.vocabulary import Vocabulary


@dataclass(frozen=True)
class Sought:
    """A query as analysed terms."""

    analyzer: Analyzer
    words: list[str]
    phrases: list[Phrase]
    prefixes: list[list[Phrase]]
    unsearched: frozenset[str]

    def highlights(self, fields: Mapping[str, str], marks: tuple[str, str]) -> dict[str, str]:
        """The fields in which something matches, with the marks in them."""
        wanted = [(word,) for word in self.words] + self.phrases + [p for some in self.prefixes for p in some]
        searched = {name: text for name, text in fields.items() if name not in self.unsearched}
        marked = {name: mark(self.analyzer.spans(text), text, wanted, marks) for name, text in searched.items()}
        return {name: text for name, text in marked.items() if text is not None}


def analysed(language: Analyzer, query: TextQuery, vocabulary: Callable[[], Vocabulary]) -> Sought:
    """A query in the language of its collection; a phrase of which nothing is left is ignored.

    The vocabulary is asked for only when there are prefixes.
    """
    phrases = [tuple(language.terms(phrase)) for phrase in query.phrases]
    words = vocabulary() if query.prefixes else None
    return Sought(
        language,
        language.query_terms(query.words),
        [phrase for phrase in phrases if phrase],
        [words.expand(prefix) for prefix in query.prefixes] if words else [],
        frozenset(name for name, weight in query.weights if weight == 0),
    )
