"""Vectors in `pm_vectors` (pgvector), compared one by one by the server."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from polymem.contracts.filter import Filter
from polymem.contracts.vectors import Vector, VectorFeatures, VectorHit, VectorRecord, VectorSpace, centred_cosines
from polymem.core.codec import decode_json, encode_json
from polymem.core.page import Page
from polymem.engines.postgres import _collections
from polymem.engines.postgres._collections import Numbers, Place
from polymem.engines.postgres._filter import Values, compile_filter
from polymem.engines.postgres._runner import Runner
from polymem.engines.postgres._vector_index import Approximate, index_scan, indexed_type
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
        if self._approximate is not None:
            await self._approximate.index(self._runner, number, space)

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
        kind = None if self._approximate is None else indexed_type(space)

        async def search(number: int) -> list[Any]:
            statement, values = _nearest_statement(number, space, wanted, payload, kind)
            return await self._runner.fetch(statement, *values)

        rows = await self._numbers.rows(self._runner.fetch, self._place(space), search)
        index = VectorIndex(space.dimensions, space.metric)
        if rows:
            index.put_many([row[0] for row in rows], [_array(row[1]) for row in rows])
        return index.search(wanted.vector, wanted.limit, None, wanted.min_score), rows

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
    number: int, space: VectorSpace, wanted: _Wanted, payload: str, indexed: str | None
) -> tuple[str, Values]:
    """The nearest with a few to spare; the rows are read by id, since sorting would copy the vectors of all."""
    sought = _unit(wanted.vector) if space.metric == "cosine" else wanted.vector
    values = Values([number])
    given, operator = values.add(sought.tolist(), "float4[]"), _DISTANCES[space.metric]
    condition = compile_filter(wanted.where, "payload::json", values)
    few = wanted.limit + _SPARE
    if indexed is None:
        nearest = (
            f"select id from pm_vectors where collection = $1 and {condition} "
            f"order by embedding {operator} {given}::vector, id limit {values.add(few, 'bigint')}"
        )
    else:
        distance = f"embedding::{indexed} {operator} {given}::{indexed}"
        nearest = index_scan(number, condition, distance, few)
    return (
        f"with nearest as materialized ({nearest}) select v.id, vector_send(v.embedding), {payload} "
        "from nearest n join pm_vectors v on v.collection = $1 and v.id = n.id"
    ), values


def _unit(vector: Vector) -> Vector:
    wide = vector.astype(np.float64)
    return np.asarray(wide / np.linalg.norm(wide), np.float32)


def _array(sent: bytes) -> Vector:
    """What pgvector sends: four bytes about the length, then big-endian numbers."""
    return np.frombuffer(sent, ">f4", offset=4).astype(np.float32)


def _record(row: Any) -> VectorRecord:
    return VectorRecord(row[0], _array(row[1]), decode_json(row[2]))
