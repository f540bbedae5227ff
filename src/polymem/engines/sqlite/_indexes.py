"""Search indexes in memory, derived from the rows and kept fresh by the change log (DESIGN 6b)."""

import threading
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Final, Generic, Protocol, TypeVar

import apsw

from polymem.core.codec import decode_json, encode_json
from polymem.indexes.evicting import IndexCache

MAX_BYTES: Final = 2 << 30
_CHUNK: Final = 20_000
Rows = list[tuple[str, bytes]]


class Index(Protocol):
    """What an index must offer; `rows` are (id, BLOB)."""

    @property
    def nbytes(self) -> int: ...

    def remove_many(self, ids: Sequence[str]) -> int: ...


Ix = TypeVar("Ix", bound=Index)
Result = TypeVar("Result")


class Source(Generic[Ix]):
    """Where an index comes from: an empty one, the table and column of its BLOBs, and how they go in."""

    def __init__(
        self, table: str, column: str, empty: Callable[[], Ix], put: Callable[[Ix, list[str], list[bytes]], object]
    ) -> None:
        self.empty = empty
        self._put = put
        self._all = f"select id, {column} from {table} where collection = ?"
        self._some = self._all + " and id in (select value from json_each(?))"

    def load(self, connection: apsw.Connection, collection: int) -> Ix:
        """An index of every row that this connection sees."""
        index, rows = self.empty(), connection.execute(self._all, (collection,))
        while chunk := list(islice(rows, _CHUNK)):  # all at once would take twice the memory
            self._add(index, chunk)
        return index

    def apply(self, index: Ix, connection: apsw.Connection, collection: int, ids: Sequence[str]) -> None:
        """Bring the rows `ids` up to date."""
        rows: Any = connection.execute(self._some, (collection, encode_json(list(ids)).decode())).fetchall()
        present = {row[0] for row in rows}
        index.remove_many([id for id in ids if id not in present])
        self._add(index, rows)

    def _add(self, index: Ix, rows: Any) -> None:
        if rows:
            self._put(index, [row[0] for row in rows], [row[1] for row in rows])


class Slot(Generic[Ix]):
    """One index, the place in the log up to which it is fresh, and the lock that guards both."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.index: Ix | None = None
        self.seq = 0

    @property
    def nbytes(self) -> int:
        return 0 if self.index is None else self.index.nbytes

    def refresh(self, connection: apsw.Connection, collection: int, source: Source[Ix]) -> Ix:
        newest = _newest(connection)
        if self.index is None or self._trimmed(connection, newest):
            self.index = source.load(connection, collection)
        elif self.seq < newest:
            query = "select ids from pm_changes where collection = ? and seq > ?"
            rows: Any = connection.execute(query, (collection, self.seq)).fetchall()
            changed = dict.fromkeys(id for (ids,) in rows for id in decode_json(ids))
            if changed:
                source.apply(self.index, connection, collection, list(changed))
        self.seq = max(self.seq, newest)
        return self.index

    def _trimmed(self, connection: apsw.Connection, newest: int) -> bool:
        """Whether the log no longer reaches back to where this index stands."""
        oldest = connection.execute("select min(seq) from pm_changes").get
        return self.seq < (newest + 1 if oldest is None else int(oldest)) - 1


class Indexes:
    """The indexes of one file by collection, the least recently used evicted beyond `max_bytes`."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._lock = threading.Lock()
        self._slots: IndexCache[int, Slot[Any]] = IndexCache(max_bytes)

    def use(
        self, connection: apsw.Connection, collection: int, source: Source[Ix], work: Callable[[Ix], Result]
    ) -> Result:
        """Run `work` on the fresh index; others that want the same collection wait."""
        with self._lock:
            slot: Slot[Ix] = self._slots.get(collection) or Slot()
            self._slots.put(collection, slot)
        with slot.lock:
            result = work(slot.refresh(connection, collection, source))
        return result


def use_index(
    indexes: Indexes | None,
    connection: apsw.Connection,
    collection: int,
    source: Source[Ix],
    work: Callable[[Ix], Result],
) -> Result:
    """Work on the shared index, or inside a transaction on one made from the rows it sees."""
    if indexes is None:
        return work(source.load(connection, collection))
    return indexes.use(connection, collection, source, work)


def _newest(connection: apsw.Connection) -> int:
    row = connection.execute("select seq from sqlite_sequence where name = 'pm_changes'").get
    return 0 if row is None else int(row)
