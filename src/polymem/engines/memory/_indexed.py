"""Tables with a search index derived from their rows."""

from collections.abc import Callable
from typing import Generic, Self, TypeVar

from polymem.engines._tables.state import R, Table

X = TypeVar("X")


class IndexedTable(Table[str, R], Generic[R, X]):
    """Records with a search index that is brought up to date when somebody searches."""

    def __init__(self) -> None:
        super().__init__()
        self._index: X | None = None
        self._stale: set[str] = set()
        """Ids written since the index was last brought up to date; in a fork, since the fork or earlier."""

    def put(self, key: str, record: R) -> None:
        super().put(key, record)
        self._stale.add(key)

    def pop(self, key: str) -> R | None:
        self._stale.add(key)
        return super().pop(key)

    def fork(self) -> Self:
        """The index stays with the committed table: a transaction that searches builds its own."""
        fork = super().fork()
        fork._index = None  # noqa: SLF001 - another table of this class
        fork._stale = set(self._stale)  # noqa: SLF001 - another table of this class
        return fork

    def settle(self) -> None:
        if self._index is None and self.origin is not None:
            self._index = self.origin._index  # noqa: SLF001 - another table of this class
        super().settle()

    def fresh(self, build: Callable[[], X], change: Callable[[X, list[str], list[str]], None]) -> X:
        """The index as of now: `change(index, put ids, removed ids)` applies what was written since."""
        if self._index is None:
            self._index, ids = build(), list(self.rows)
        else:
            ids = sorted(self._stale)
        change(self._index, [i for i in ids if i in self.rows], [i for i in ids if i not in self.rows])
        if self.origin is None:
            self._stale.clear()
        return self._index
