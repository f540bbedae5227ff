"""Vectors with payloads, compared one by one (VEC-1)."""

from collections.abc import Iterator, Sequence

import numpy as np

from polymem.contracts.filter import Filter, matches
from polymem.contracts.vectors import Vector, VectorFeatures, VectorHit, VectorRecord, VectorSpace
from polymem.core.page import Page
from polymem.engines._tables.state import detached, page_of
from polymem.engines._tables.views import View
from polymem.engines.memory._indexed import IndexedTable
from polymem.errors import StorageDataError
from polymem.indexes.matrix import VectorIndex


class VectorTable(IndexedTable[VectorRecord, VectorIndex]):
    """The vectors of one space; one that runs empty keeps its dimensions, a cleared one is forgotten."""

    space: VectorSpace = VectorSpace("", 0)

    def index(self) -> VectorIndex:
        return self.fresh(lambda: VectorIndex(self.space.dimensions, self.space.metric), self._change)

    def _change(self, index: VectorIndex, put: list[str], removed: list[str]) -> None:
        index.remove_many(removed)
        if put:
            index.put_many(put, [self.rows[id_].vector for id_ in put])


class MemoryVectors:
    """The vector spaces of one namespace."""

    __slots__ = ("_namespace", "_view")

    def __init__(self, view: View, namespace: str) -> None:
        self._view = view
        self._namespace = namespace

    @property
    def features(self) -> VectorFeatures:
        return VectorFeatures(durable=False)

    async def put_many(self, space: VectorSpace, records: Sequence[VectorRecord], /) -> None:
        await self._view.writable()
        self._find(space)
        stored = [_frozen(record, space) for record in records]
        if stored:
            table = self._view.table(VectorTable, self._namespace, space.name)
            table.space = space
            for record in stored:
                table.put(record.id, record)

    async def get_many(self, space: VectorSpace, ids: Sequence[str], /) -> dict[str, VectorRecord]:
        rows = self._rows(space)
        return {id_: _copy(rows[id_]) for id_ in ids if id_ in rows}

    async def delete_many(self, space: VectorSpace, ids: Sequence[str], /) -> int:
        await self._view.writable()
        if self._find(space) is None:
            return 0
        table = self._view.table(VectorTable, self._namespace, space.name)
        return sum(table.pop(id_) is not None for id_ in ids)

    async def search(
        self,
        space: VectorSpace,
        vector: Vector,
        /,
        *,
        limit: int,
        where: Filter | None,
        min_score: float | None,
    ) -> list[VectorHit]:
        nearest, rows = self._nearest(space, vector, limit, where, min_score), self._rows(space)
        return [VectorHit(id_, score, detached(rows[id_].payload)) for id_, score in nearest]

    async def rank(
        self, space: VectorSpace, vector: Vector, /, *, limit: int, where: Filter | None
    ) -> list[tuple[str, float]]:
        return self._nearest(space, vector, limit, where, None)

    async def centred_cosines(self, space: VectorSpace, vector: Vector, ids: Sequence[str], /) -> dict[str, float]:
        _check_length(vector, space)
        table = self._find(space)
        return {} if table is None else table.index().centred_cosines(vector, ids)

    async def mean(self, space: VectorSpace, /) -> Vector | None:
        table = self._find(space)
        return None if table is None else table.index().mean()

    async def page(
        self, space: VectorSpace, after: str | None, limit: int, /, *, where: Filter | None
    ) -> Page[VectorRecord]:
        return page_of(self._records(space, after, where), limit, lambda record: record.id)

    async def count(self, space: VectorSpace, /, *, where: Filter | None) -> int:
        rows = self._rows(space)
        return len(rows) if where is None else sum(matches(where, record.payload) for record in rows.values())

    async def clear(self, space: VectorSpace, /) -> int:
        await self._view.writable()
        count = len(self._rows(space))
        self._view.drop(VectorTable, self._namespace, space.name)
        return count

    def _find(self, space: VectorSpace) -> VectorTable | None:
        """The table of a space; every call checks that it means the space that was written."""
        table = self._view.find(VectorTable, self._namespace, space.name)
        if table is not None and table.space != space:
            _refuse(table.space, space)
        return table

    def _nearest(
        self, space: VectorSpace, vector: Vector, limit: int, where: Filter | None, min_score: float | None
    ) -> list[tuple[str, float]]:
        _check_length(vector, space)
        table = self._find(space)
        if table is None:
            return []
        allowed = None if where is None else {id_ for id_, r in table.rows.items() if matches(where, r.payload)}
        return table.index().search(vector, limit, allowed, min_score)

    def _rows(self, space: VectorSpace) -> dict[str, VectorRecord]:
        table = self._find(space)
        return {} if table is None else table.rows

    def _records(self, space: VectorSpace, after: str | None, where: Filter | None) -> Iterator[VectorRecord]:
        table = self._find(space)
        if table is not None:
            records = (table.rows[id_] for id_ in table.keys_after(after))
            yield from (_copy(record) for record in records if matches(where, record.payload))


def _refuse(stored: VectorSpace, asked: VectorSpace) -> None:
    for field in ("dimensions", "metric", "model"):
        known, given = getattr(stored, field), getattr(asked, field)
        if known != given:
            raise StorageDataError(f"the space was written with {field} {known!r}, not {given!r}", field=field)


def _check_length(vector: Vector, space: VectorSpace) -> None:
    if vector.shape != (space.dimensions,):
        expected = f"expected {space.dimensions} dimensions, got {vector.size}"
        raise StorageDataError(expected, field="vector")


def _frozen(record: VectorRecord, space: VectorSpace) -> VectorRecord:
    """A copy that nobody can change."""
    _check_length(record.vector, space)
    vector = np.array(record.vector, dtype=np.float32)
    vector.setflags(write=False)
    return VectorRecord(record.id, vector, detached(record.payload))


def _copy(record: VectorRecord) -> VectorRecord:
    return record._replace(vector=record.vector.copy(), payload=detached(record.payload))
