"""Vectors as float32 BLOBs in `pm_vectors`; search is exact, over one matrix in memory."""

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple, TypeVar

import apsw
import numpy as np

from polymem.contracts.filter import Filter
from polymem.contracts.vectors import Vector, VectorFeatures, VectorHit, VectorRecord, VectorSpace
from polymem.core.codec import decode_json, encode_json
from polymem.core.page import Page
from polymem.engines.sqlite import _collections
from polymem.engines.sqlite._collections import Place
from polymem.engines.sqlite._database import Runner
from polymem.engines.sqlite._filter import condition_on
from polymem.engines.sqlite._indexes import Source, use_index
from polymem.engines.sqlite._pace import paced
from polymem.indexes.matrix import VectorIndex
from polymem.indexes.ranking import allowed_best

Result = TypeVar("Result")


class SqliteVectors:
    """The vector spaces of one namespace."""

    features = VectorFeatures()

    def __init__(self, runner: Runner, namespace: str) -> None:
        self._runner, self._namespace = runner, namespace

    async def put_many(self, space: VectorSpace, records: Sequence[VectorRecord], /) -> None:
        def put(connection: apsw.Connection) -> None:
            number = _collections.ensure(connection, self._place(space), _options(space))
            connection.executemany(
                "insert into pm_vectors values(?, ?, ?, ?) on conflict do update set vector = excluded.vector, "
                "payload = excluded.payload",
                paced((number, *_row(record)) for record in records),
            )
            _collections.log_change(connection, number, [record.id for record in records])

        await self._runner.write(put)

    async def get_many(self, space: VectorSpace, ids: Sequence[str], /) -> dict[str, VectorRecord]:
        def get(connection: apsw.Connection, number: int) -> dict[str, VectorRecord]:
            query = (
                "select id, vector, payload from pm_vectors where collection = ? and id in "
                "(select value from json_each(?))"
            )
            rows = connection.execute(query, (number, encode_json(list(ids)).decode())).fetchall()
            return {record.id: record for record in paced(map(_record, rows))}

        return await self._read(space, get, {})

    async def delete_many(self, space: VectorSpace, ids: Sequence[str], /) -> int:
        def delete(connection: apsw.Connection) -> int:
            number = _collections.find(connection, self._place(space), _options(space))
            return 0 if number is None else _collections.delete(connection, number, "pm_vectors", ids)

        return await self._runner.write(delete)

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
        def search(connection: apsw.Connection, number: int) -> list[VectorHit]:
            found = self._nearest(connection, number, space, _Wanted(vector, limit, where, min_score))
            payloads = _payloads(connection, number, [id for id, _ in found])
            return [VectorHit(id, score, decode_json(payloads[id])) for id, score in found if id in payloads]

        return await self._read(space, search, [])

    async def rank(
        self, space: VectorSpace, vector: Vector, /, *, limit: int, where: Filter | None
    ) -> list[tuple[str, float]]:
        wanted = _Wanted(vector, limit, where, None)
        return await self._read(space, lambda c, number: self._nearest(c, number, space, wanted), [])

    async def centred_cosines(self, space: VectorSpace, vector: Vector, ids: Sequence[str], /) -> dict[str, float]:
        def compare(connection: apsw.Connection, number: int) -> dict[str, float]:
            return use_index(
                self._runner.indexes, connection, number, _source(space),
                lambda index, _: index.centred_cosines(vector, ids),
            )  # fmt: skip

        return await self._read(space, compare, {})

    async def mean(self, space: VectorSpace, /) -> Vector | None:
        def mean(connection: apsw.Connection, number: int) -> Vector | None:
            return use_index(self._runner.indexes, connection, number, _source(space), lambda index, _: index.mean())

        return await self._read(space, mean, None)

    async def page(
        self, space: VectorSpace, after: str | None, limit: int, /, *, where: Filter | None
    ) -> Page[VectorRecord]:
        def page(connection: apsw.Connection, number: int) -> Page[VectorRecord]:
            condition, values = condition_on(where, "payload")
            query = f"select id, vector, payload from pm_vectors where collection = ? and id > ? and {condition}"
            parameters = (number, after or "", *values, limit)
            rows = connection.execute(f"{query} order by id limit ?", parameters).fetchall()
            return Page(list(paced(map(_record, rows))), str(rows[-1][0]) if len(rows) == limit else None)

        return await self._read(space, page, Page([], None))

    async def count(self, space: VectorSpace, /, *, where: Filter | None) -> int:
        def count(connection: apsw.Connection, number: int) -> int:
            condition, values = condition_on(where, "payload")
            query = f"select count(*) from pm_vectors where collection = ? and {condition}"
            return int(connection.execute(query, (number, *values)).get)

        return await self._read(space, count, 0)

    async def clear(self, space: VectorSpace, /) -> int:
        def clear(connection: apsw.Connection) -> int:
            number = _collections.find(connection, self._place(space), _options(space))
            return 0 if number is None else _collections.drop(connection, number, "pm_vectors")

        return await self._runner.write(clear)

    def _nearest(
        self, connection: apsw.Connection, number: int, space: VectorSpace, wanted: "_Wanted"
    ) -> list[tuple[str, float]]:
        def search(index: VectorIndex, allowed: AbstractSet[str] | None) -> list[tuple[str, float]]:
            return allowed_best(
                lambda limit, among: index.search(wanted.vector, limit, among, wanted.min_score),
                wanted.limit, allowed, index.rows,
            )  # fmt: skip

        return use_index(self._runner.indexes, connection, number, _source(space), search, where=wanted.where)

    async def _read(self, space: VectorSpace, work: Callable[[apsw.Connection, int], Result], absent: Result) -> Result:
        def read(connection: apsw.Connection) -> Result:
            number = _collections.find(connection, self._place(space), _options(space))
            return absent if number is None else work(connection, number)

        return await self._runner.read(read)

    def _place(self, space: VectorSpace) -> Place:
        return Place(self._namespace, "vectors", space.name)


class _Wanted(NamedTuple):
    """What a search looks for."""

    vector: Vector
    limit: int
    where: Filter | None
    min_score: float | None


def _options(space: VectorSpace) -> dict[str, Any]:
    return {"dimensions": space.dimensions, "metric": space.metric, "model": space.model}


def _source(space: VectorSpace) -> Source[VectorIndex]:
    def put(index: VectorIndex, ids: list[str], blobs: list[bytes]) -> None:
        index.put_many(ids, np.frombuffer(b"".join(blobs), "<f4").reshape(len(ids), space.dimensions))

    return Source("pm_vectors", "vector", lambda: VectorIndex(space.dimensions, space.metric), put)


def _payloads(connection: apsw.Connection, number: int, ids: list[str]) -> dict[str, str]:
    query = "select id, payload from pm_vectors where collection = ? and id in (select value from json_each(?))"
    rows: Any = connection.execute(query, (number, encode_json(ids).decode())).fetchall()
    return dict(rows)


def _row(record: VectorRecord) -> tuple[str, bytes, str]:
    return record.id, record.vector.astype("<f4").tobytes(), encode_json(record.payload).decode()


def _record(row: tuple[Any, ...]) -> VectorRecord:
    return VectorRecord(row[0], np.frombuffer(row[1], "<f4").astype(np.float32), decode_json(row[2]))
