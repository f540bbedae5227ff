"""Search indexes in memory, derived from the rows and kept fresh by the change log."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Any, Final, Generic, Protocol, TypeVar

import apsw

from polymem.contracts.filter import Filter
from polymem.core.codec import decode_json, encode_json
from polymem.engines.sqlite._filter import condition_on
from polymem.indexes.evicting import IndexCache

MAX_BYTES: Final = 2 << 30
_CHUNK: Final = 20_000
_KEPT_FILTERS: Final = 8
_BYTES_PER_ID: Final = 100
Rows = list[tuple[str, bytes]]


class Index(Protocol):
    """What an index must offer; `rows` are (id, BLOB)."""

    @property
    def nbytes(self) -> int: ...

    def remove_many(self, ids: Sequence[str]) -> int: ...


Ix = TypeVar("Ix", bound=Index)
Result = TypeVar("Result")


Work = Callable[[Ix, AbstractSet[str] | None], Result]


class Source(Generic[Ix]):
    """Where an index comes from: an empty one, the table and column of its BLOBs, and how they go in."""

    def __init__(
        self, table: str, column: str, empty: Callable[[], Ix], put: Callable[[Ix, list[str], list[bytes]], object]
    ) -> None:
        self.empty = empty
        self._put = put
        self._ids = f"select id from {table} where collection = ?"
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

    def satisfying(
        self, connection: apsw.Connection, collection: int, where: Filter, ids: Sequence[str] | None = None
    ) -> set[str]:
        """The ids (of all, or of `ids`) whose payload satisfies a filter."""
        condition, values = condition_on(where, "payload")
        among = "" if ids is None else "id in (select value from json_each(?)) and "
        given = () if ids is None else (encode_json(list(ids)).decode(),)
        rows: Any = connection.execute(f"{self._ids} and {among}{condition}", (collection, *given, *values)).fetchall()
        return {row[0] for row in rows}

    def _add(self, index: Ix, rows: Any) -> None:
        if rows:
            self._put(index, [row[0] for row in rows], [row[1] for row in rows])


class Slot(Generic[Ix]):
    """One index, which ids satisfy the filters last used, the place in the log up to which both are fresh, and the
    lock that guards them.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.index: Ix | None = None
        self.seq = 0
        self.allowed: OrderedDict[str, tuple[Filter, set[str]]] = OrderedDict()

    @property
    def nbytes(self) -> int:
        held = 0 if self.index is None else self.index.nbytes
        return held + _BYTES_PER_ID * sum(len(ids) for _, ids in self.allowed.values())

    def refresh(self, connection: apsw.Connection, collection: int, source: Source[Ix]) -> Ix:
        newest = _newest(connection)
        if self.index is None or self._trimmed(connection, newest):
            self.index = source.load(connection, collection)
            self.allowed.clear()
        elif self.seq < newest:
            query = "select ids from pm_changes where collection = ? and seq > ?"
            rows: Any = connection.execute(query, (collection, self.seq)).fetchall()
            changed = dict.fromkeys(id for (ids,) in rows for id in decode_json(ids))
            if changed:
                source.apply(self.index, connection, collection, list(changed))
                for where, ids in self.allowed.values():
                    ids.difference_update(changed)
                    ids.update(source.satisfying(connection, collection, where, list(changed)))
        self.seq = max(self.seq, newest)
        return self.index

    def chosen(self, connection: apsw.Connection, collection: int, source: Source[Ix], where: Filter) -> set[str]:
        """The ids that satisfy a filter; looking at every row takes long, so those of a few filters are kept."""
        key = repr(condition_on(where, "payload"))  # not the filter itself: to Python 1 and True are equal
        _, ids = self.allowed.pop(key, (where, None))
        if ids is None:
            ids = source.satisfying(connection, collection, where)
            if _newest(connection) != self.seq:  # this reader sees an older state than the index is of
                return ids
        self.allowed[key] = where, ids
        while len(self.allowed) > _KEPT_FILTERS:
            self.allowed.popitem(last=False)
        return ids

    def _trimmed(self, connection: apsw.Connection, newest: int) -> bool:
        """Whether the log no longer reaches back to where this index stands."""
        oldest = connection.execute("select min(seq) from pm_changes").get
        return self.seq < (newest + 1 if oldest is None else int(oldest)) - 1


class Indexes:
    """The indexes of one file by collection, the least recently used evicted beyond `max_bytes`."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._lock = threading.Lock()
        self._slots: IndexCache[int, Slot[Any]] = IndexCache(max_bytes)

    @property
    def nbytes(self) -> int:
        """The memory held by all of them, as after the last use of each."""
        return self._slots.nbytes

    def use(
        self,
        connection: apsw.Connection,
        collection: int,
        source: Source[Ix],
        where: Filter | None,
        work: Work[Ix, Result],
    ) -> Result:
        """Run `work` on the fresh index; others that want the same collection wait."""
        with self._lock:
            slot: Slot[Ix] | None = self._slots.get(collection)
            if slot is None:
                slot = Slot()
                self._slots.put(collection, slot)
        with slot.lock:
            index = slot.refresh(connection, collection, source)
            result = work(index, None if where is None else slot.chosen(connection, collection, source, where))
            with self._lock:
                self._slots.put(collection, slot)  # with the size it has now
        return result


def use_index(
    indexes: Indexes | None,
    connection: apsw.Connection,
    collection: int,
    source: Source[Ix],
    work: Work[Ix, Result],
    *,
    where: Filter | None = None,
) -> Result:
    """Work on the shared index, or inside a transaction on one made from the rows it sees.

    `work` is also given the ids that satisfy `where`, None without one.
    """
    if indexes is not None:
        return indexes.use(connection, collection, source, where, work)
    allowed = None if where is None else source.satisfying(connection, collection, where)
    return work(source.load(connection, collection), allowed)


def _newest(connection: apsw.Connection) -> int:
    row = connection.execute("select seq from sqlite_sequence where name = 'pm_changes'").get
    return 0 if row is None else int(row)
