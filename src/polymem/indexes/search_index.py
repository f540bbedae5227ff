"""A text index that can also complete prefixes."""

from collections.abc import Sequence

from polymem.indexes.postings import TextIndex
from polymem.indexes.vocabulary import Vocabulary


class SearchIndex(TextIndex):
    """The postings, and the words that prefixes are completed from, read when a prefix is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.words: Vocabulary | None = None
        self.unread: list[str] = []

    @property
    def nbytes(self) -> int:
        return super().nbytes + (0 if self.words is None else self.words.nbytes)

    def put_many(self, ids: Sequence[str], blobs: Sequence[bytes]) -> None:
        super().put_many(ids, blobs)
        self.unread.extend(ids)
