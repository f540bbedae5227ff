"""Operations on vectors: no two of these point the same way, so that rounding cannot reorder hits."""

from typing import Any

from hypothesis import strategies as st

from polymem.contracts.vectors import Vectors
from polymem.store import Store
from polymem.testing.models.model import NAMES, PAYLOAD, WHERE, Memo, Model

ID, METRIC = st.sampled_from(NAMES), st.sampled_from(["cosine", "l2"])
VECTOR = st.sampled_from([(1, 0), (0, 1), (-1, 0), (3, 4), (1, 1), (0, -2), (5, -1), (0.25, 1)])
IDS = st.lists(ID, max_size=4)


def _space(store: Store, metric: Any) -> Vectors:
    return store.vectors(f"v_{metric}", dimensions=2, metric=metric)


async def _put(store: Store, _: Memo, metric: str, records: list[Any]) -> None:
    await _space(store, metric).put_many(records)


async def _get(store: Store, _: Memo, metric: str, ids: list[str]) -> Any:
    found = await _space(store, metric).get_many(ids)
    return {id: (record.vector.tolist(), record.payload) for id, record in found.items()}


async def _delete(store: Store, _: Memo, metric: str, ids: list[str]) -> int:
    return await _space(store, metric).delete_many(ids)


async def _search(store: Store, _: Memo, metric: str, vector: Any, limit: int, where: Any, score: float | None) -> Any:  # noqa: PLR0917 - drawn arguments
    hits = await _space(store, metric).search(vector, limit=limit, where=where, min_score=score)
    return [(hit.id, hit.score, hit.payload) for hit in hits]


async def _count(store: Store, _: Memo, metric: str, where: Any) -> int:
    return await _space(store, metric).count(where=where)


async def _mean(store: Store, _: Memo, metric: str) -> Any:
    mean = await _space(store, metric).mean()
    return None if mean is None else mean.tolist()


async def _clear(store: Store, _: Memo, metric: str) -> int:
    return await _space(store, metric).clear()


async def _reshape(store: Store, _: Memo, metric: str, dimensions: int) -> None:
    await store.vectors(f"v_{metric}", dimensions=dimensions).put("x", [1.0] * dimensions)


async def _state(store: Store) -> Any:
    spaces = [_space(store, metric) for metric in ("cosine", "l2")]
    found = [[(r.id, r.vector.tolist(), r.payload) async for r in space.scan()] for space in spaces]
    near = [await space.search((2, 1), limit=2, where=where) for space in spaces for where in (None, {"n": 1})]
    return found, near


VECTORS = Model(
    "vectors",
    {
        "put": (_put, (METRIC, st.lists(st.tuples(ID, VECTOR, PAYLOAD), max_size=6))),
        "get": (_get, (METRIC, IDS)),
        "delete": (_delete, (METRIC, IDS)),
        "search": (
            _search,
            (METRIC, VECTOR, st.sampled_from([0, 1, 2, 3, 9]), WHERE, st.sampled_from([None, None, 0.1, -3])),
        ),
        "count": (_count, (METRIC, WHERE)),
        "mean": (_mean, (METRIC,)),
        "clear": (_clear, (METRIC,)),
        "reshape": (_reshape, (st.just("dot"), st.integers(1, 3))),
    },
    ("put", "search"),
    _state,
)
