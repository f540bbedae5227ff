"""Indexes kept while there is room."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar


class Measured(Protocol):
    """Something that knows its size."""

    @property
    def nbytes(self) -> int: ...


Key = TypeVar("Key", bound=Hashable)
Index = TypeVar("Index", bound=Measured)


class IndexCache(Generic[Key, Index]):
    """Least recently used indexes go when all together exceed `max_bytes`; the one just used always stays.

    Indexes grow: whoever has used one puts it again, which measures it anew. Not thread-safe: the owner locks.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._entries: OrderedDict[Key, tuple[Index, int]] = OrderedDict()
        self._nbytes = 0

    @property
    def nbytes(self) -> int:
        """The size of everything held, as last measured."""
        return self._nbytes

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Index | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: Key, index: Index) -> None:
        self.discard(key)
        size = index.nbytes
        self._entries[key] = (index, size)
        self._nbytes += size
        while self._nbytes > self.max_bytes and len(self._entries) > 1:
            self.discard(next(iter(self._entries)))

    def discard(self, key: Key) -> None:
        """Forget an index, if it is there."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._nbytes -= entry[1]
