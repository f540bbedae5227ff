"""The words of a collection, to expand prefixes."""

from bisect import bisect_left
from collections.abc import Iterable

from polymem.indexes.analyzer import Analyzer


class Vocabulary:
    """Every folded word ever added: indexes hold hashes of stems, which no prefix can be read from.

    Words whose documents are gone may stay: they then match nothing. Built when a prefix is first asked for.
    Not thread-safe: the owner locks.
    """

    def __init__(self, analyzer: Analyzer) -> None:
        self._analyzer = analyzer
        self._known: set[str] = set()
        self._sorted: list[str] = []
        self._new: list[str] = []

    @property
    def nbytes(self) -> int:
        """Memory held, by estimate."""
        return 150 * len(self._known)

    def add(self, texts: Iterable[str]) -> None:
        """The words of some texts."""
        for text in texts:
            fresh = set(self._analyzer.words(text)) - self._known
            self._known |= fresh
            self._new += fresh

    def expand(self, prefix: str) -> list[tuple[str, ...]]:
        """The phrases to look for: the words before the last as they are, the last completed in every way.

        A completion counts by its stem, so "runn" also finds "runs". Nothing to look for gives [].
        """
        words = self._analyzer.words(prefix)
        exact = self._analyzer.terms(prefix)
        if not words or self._analyzer.terms(words[-1]) != exact[-len(self._analyzer.terms(words[-1])) :]:
            return [tuple(exact)] if exact else []
        head = exact[: -len(self._analyzer.terms(words[-1]))]
        completed = ((*head, *self._analyzer.terms(word)) for word in self._starting(words[-1]))
        return list(dict.fromkeys(completed))

    def _starting(self, prefix: str) -> list[str]:
        if self._new:
            self._sorted += self._new
            self._sorted.sort()
            self._new = []
        first = bisect_left(self._sorted, prefix)
        return self._sorted[first : bisect_left(self._sorted, prefix + "\U0010ffff", first)]
