"""Vectors in `pm_vectors` (pgvector), compared by the server: one by one, or by an index where a collection is large."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from polymem.contracts.filter import Filter
from polymem.contracts.text import TextQuery
from polymem.contracts.vectors import Vector, VectorFeatures, VectorHit, VectorRecord, VectorSpace, centred_cosines
from polymem.core.codec import decode_json, encode_json
from polymem.core.page import Page
from polymem.engines.postgres import _collections, _full_text
from polymem.engines.postgres._collections import Numbers, Place
from polymem.engines.postgres._runner import PoolRunner, Runner
from polymem.engines.postgres._vector_building import Approximate
from polymem.engines.postgres._vector_index import VectorIndexInfo, index_scan, indexed_type
from polymem.engines.postgres.filter_sql import Values
from polymem.errors import StorageUnsupportedError
from polymem.indexes.matrix import VectorIndex

_DISTANCES: Final = {"cosine": "<=>", "dot": "<#>", "l2": "<->"}
"""pgvector's operators; `<#>` is the negative dot product."""
_MEANS: Final = {"cosine": "avg(l2_normalize(embedding))", "dot": "avg(embedding)", "l2": "avg(embedding)"}
_SPARE: Final = 16
"""How many more are asked for, since the server's float32 may put neighbours in the wrong order."""
_RECORD: Final = "id, vector_send(embedding), payload"
_PUT: Final = _collections.put_statement(
    "insert into pm_vectors(collection, id, embedding, payload) "
    "select place.collection, r.id, ($6::float4[])[(r.n - 1) * $7::int + 1 : r.n * $7::int]::vector, r.payload "
    "from place, unnest($5::text[], $8::text[]) with ordinality as r(id, payload, n) "
    "on conflict (collection, id) do update set embedding = excluded.embedding, payload = excluded.payload"
)


class PostgresVectors:
    """The vector spaces of one namespace."""

    def __init__(
        self, runner: Runner, namespace: str, numbers: Numbers | None, approximate: Approximate | None
    ) -> None:
        self._runner, self._namespace, self._approximate = runner, namespace, approximate
        self._numbers = numbers or Numbers()
        self.features = VectorFeatures(exact=approximate is None, max_dimensions=16_000)

    async def put_many(self, space: VectorSpace, records: Sequence[VectorRecord], /) -> None:
        ordered = sorted(records, key=lambda record: record.id)
        payloads = [encode_json(record.payload).decode() for record in ordered]
        number = await _collections.put(
            self._runner, self._place(space), _PUT, [record.id for record in ordered],
            np.concatenate([record.vector for record in ordered]).tolist(), space.dimensions, payloads,
        )  # fmt: skip
        if self._approximate is not None and isinstance(self._runner, PoolRunner):
            self._approximate.wrote(self._runner, number, space, len(records))

    async def get_many(self, space: VectorSpace, ids: Sequence[str], /) -> dict[str, VectorRecord]:
        rows = await _collections.get(self._runner, self._numbers, self._place(space), _RECORD, ids)
        return {row[0]: _record(row) for row in rows}

    async def delete_many(self, space: VectorSpace, ids: Sequence[str], /) -> int:
        return await _collections.delete(self._runner, self._place(space), ids)

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
        wanted = _Wanted(vector, limit, where, min_score)
        found, rows = await self._nearest(space, wanted, "v.payload")
        payloads = {row[0]: row[2] for row in rows}
        return [VectorHit(id, score, decode_json(payloads[id])) for id, score in found]

    async def rank(
        self, space: VectorSpace, vector: Vector, /, *, limit: int, where: Filter | None
    ) -> list[tuple[str, float]]:
        return (await self._nearest(space, _Wanted(vector, limit, where, None), "null"))[0]

    async def make_index(self, space: VectorSpace, /) -> None:
        """See `polymem.engines.postgres.search`."""
        if self._approximate is None or not isinstance(self._runner, PoolRunner):
            raise StorageUnsupportedError("indexes are made outside of transactions, where vector_index is not exact")
        number = await _collections.find(self._runner.fetch, self._place(space))
        if number is not None:
            await self._approximate.make(self._runner, number, space)

    async def hybrid(
        self, space: VectorSpace, vector: Vector, text: str, query: TextQuery, /, *,
        limit: int, where: Filter | None, text_weight: float,
    ) -> list[tuple[Any, ...]]:  # fmt: skip
        """See `polymem.engines.postgres.search`."""
        fetch = self._runner.fetch
        number = await _collections.find(fetch, self._place(space)) or 0
        found = await _full_text.searched(fetch, self._namespace, text)
        values = Values([number])
        near = _Wanted(vector, max(limit, _full_text.DEPTH), where, None)
        nearest = _with_distance(space, *_nearest_ids(number, space, near, await self._indexed(number), values))
        wanted = _full_text.Wanted(query, limit, where)
        statement = _full_text.hybrid_statement(nearest, found, wanted, text_weight, values)
        return [tuple(row) for row in await fetch(statement, *values)]

    async def centred_cosines(self, space: VectorSpace, vector: Vector, ids: Sequence[str], /) -> dict[str, float]:
        rows = await _collections.get(
            self._runner, self._numbers, self._place(space), "id, vector_send(embedding)", ids
        )
        known = {id: _array(sent) for id, sent in rows}
        found = [id for id in ids if id in known]
        if not found:
            return {}
        cosines = centred_cosines(vector, np.stack([known[id] for id in found]), await self.mean(space))
        return dict(zip(found, cosines.tolist(), strict=True))

    async def mean(self, space: VectorSpace, /) -> Vector | None:
        number = await _collections.find(self._runner.fetch, self._place(space))
        if number is None:
            return None
        query = f"select vector_send({_MEANS[space.metric]}) from pm_vectors where collection = $1"
        sent = (await self._runner.fetch(query, number))[0][0]
        return None if sent is None else _array(sent)

    async def page(
        self, space: VectorSpace, after: str | None, limit: int, /, *, where: Filter | None
    ) -> Page[VectorRecord]:
        place = self._place(space)
        found = await _collections.page(self._runner, place, _RECORD, after=after, limit=limit, where=where)
        return Page([_record(row) for row in found.items], found.after)

    async def count(self, space: VectorSpace, /, *, where: Filter | None) -> int:
        return await _collections.count(self._runner, self._place(space), where)

    async def clear(self, space: VectorSpace, /) -> int:
        return await _collections.clear(self._runner, self._place(space))

    async def _nearest(
        self, space: VectorSpace, wanted: "_Wanted", payload: str
    ) -> tuple[list[tuple[str, float]], list[Any]]:
        """Ids with scores, and the rows they are from: the server finds, and what it found is scored in float64 as by
        the other engines.
        """

        async def search(number: int) -> list[Any]:
            statement, values = _nearest_statement(number, space, wanted, payload, await self._indexed(number))
            return await self._runner.fetch(statement, *values)

        rows = await self._numbers.rows(self._runner.fetch, self._place(space), search)
        index = VectorIndex(space.dimensions, space.metric)
        if rows:
            index.put_many([row[0] for row in rows], [_array(row[1]) for row in rows])
        return index.search(wanted.vector, wanted.limit, None, wanted.min_score), rows

    async def _indexed(self, number: int) -> Sequence[VectorIndexInfo]:
        return () if self._approximate is None else await self._approximate.indexes(self._runner.fetch, number)

    def _place(self, space: VectorSpace) -> Place:
        options = {"dimensions": space.dimensions, "metric": space.metric, "model": space.model}
        return Place(self._namespace, "vectors", space.name, options)


class _Wanted(NamedTuple):
    """What a search looks for."""

    vector: Vector
    limit: int
    where: Filter | None
    min_score: float | None


def _nearest_statement(
    number: int, space: VectorSpace, wanted: _Wanted, payload: str, indexes: Sequence[VectorIndexInfo]
) -> tuple[str, Values]:
    """The nearest with a few to spare; the rows are read by id, since sorting would copy the vectors of all."""
    values = Values([number])
    nearest, _ = _nearest_ids(number, space, wanted, indexes, values)
    return (
        f"with nearest as materialized ({nearest}) select v.id, vector_send(v.embedding), {payload} "
        "from nearest n join pm_vectors v on v.collection = $1 and v.id = n.id"
    ), values


def _nearest_ids(
    number: int, space: VectorSpace, wanted: _Wanted, indexes: Sequence[VectorIndexInfo], values: Values
) -> tuple[str, str]:
    """The ids of the nearest, and the parameter that they are near to. The number of the collection is $1.

    It is made a vector in a query of its own, which is asked once and not for each row.
    """
    sought = _unit(wanted.vector) if space.metric == "cosine" else wanted.vector
    given, operator = values.add(sought.tolist(), "float4[]"), _DISTANCES[space.metric]
    condition, few = _collections.satisfying(wanted.where, values), wanted.limit + _SPARE
    if indexes:
        indexed = indexed_type(space)
        return index_scan(
            number, condition, f"embedding::{indexed} {operator} (select {given}::{indexed})", few, indexes
        ), given
    return (
        f"select id from pm_vectors where collection = $1 and {condition} "
        f"order by embedding {operator} (select {given}::vector), id limit {values.add(few, 'bigint')}"
    ), given


def _with_distance(space: VectorSpace, nearest: str, given: str) -> str:
    return (
        f"select v.id, v.embedding {_DISTANCES[space.metric]} (select {given}::vector) as distance from ({nearest}) n "
        "join pm_vectors v on v.collection = $1 and v.id = n.id"
    )


def _unit(vector: Vector) -> Vector:
    wide = vector.astype(np.float64)
    return np.asarray(wide / np.linalg.norm(wide), np.float32)


def _array(sent: bytes) -> Vector:
    """What pgvector sends: four bytes about the length, then big-endian numbers."""
    return np.frombuffer(sent, ">f4", offset=4).astype(np.float32)


def _record(row: Any) -> VectorRecord:
    return VectorRecord(row[0], _array(row[1]), decode_json(row[2]))
