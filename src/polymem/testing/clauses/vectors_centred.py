"""Vectors compared after what all of a space share is taken away, and ranked without being read (VEC-1)."""

from typing import Any, Final

import numpy as np

from polymem.contracts.filter import F
from polymem.contracts.vectors import Vectors
from polymem.errors import StorageDataError
from polymem.testing.clause import clause
from polymem.testing.expect import refused
from polymem.testing.kit import Kit

_DIMENSIONS: Final = 4
_TOLERANCE: Final = 1e-5
_COUNT: Final = 20
Rows = np.ndarray[Any, np.dtype[np.float64]]


def _space(kit: Kit) -> Vectors:
    return kit.store.vectors("v", dimensions=_DIMENSIONS)


async def _filled(kit: Kit) -> tuple[Vectors, Rows]:
    """Vectors of many lengths that all lean one way, and the same of length 1."""
    rows = np.random.default_rng(1).normal(size=(_COUNT, _DIMENSIONS)) + 3
    rows *= np.linspace(0.1, 9, _COUNT)[:, None]
    vectors = _space(kit)
    await vectors.put_many((f"{n:02}", row, {"n": n}) for n, row in enumerate(rows))
    return vectors, rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _expected(unit: Rows, query: Rows, row: int) -> float:
    """By the book: the cosine of the angle between both, seen from the mean."""
    mean = unit.mean(axis=0)
    a, b = unit[row] - mean, query / np.linalg.norm(query) - mean
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@clause("vectors")
async def centred_cosines_by_the_book(kit: Kit) -> None:
    """The mean of the vectors at length 1 is taken from both sides; length does not matter."""
    vectors, unit = await _filled(kit)
    query = np.array([1.0, 2.0, -3.0, 4.0])
    found = await vectors.centred_cosines(query, [f"{n:02}" for n in range(_COUNT)])
    assert list(found) == [f"{n:02}" for n in range(_COUNT)]
    for n in range(_COUNT):
        assert abs(found[f"{n:02}"] - _expected(unit, query, n)) < _TOLERANCE
    longer = await vectors.centred_cosines(100 * query, ["03"])
    assert abs(longer["03"] - found["03"]) < _TOLERANCE
    itself = await vectors.centred_cosines(unit[3], ["03"])
    assert abs(itself["03"] - 1) < _TOLERANCE


@clause("vectors")
async def centred_cosines_of_what_is_there(kit: Kit) -> None:
    """Unknown ids are left out, repeated ones are given once; without any the answer is empty."""
    vectors, _ = await _filled(kit)
    assert set(await vectors.centred_cosines([1, 0, 0, 0], ["01", "unknown", "02", "01"])) == {"01", "02"}
    assert await vectors.centred_cosines([1, 0, 0, 0], ["unknown"]) == {}
    assert await vectors.centred_cosines([1, 0, 0, 0], []) == {}
    unused = kit.store.vectors("unused", dimensions=_DIMENSIONS)
    assert await unused.centred_cosines([1, 0, 0, 0], ["01"]) == {}


@clause("vectors")
async def one_that_is_the_mean_has_cosine_zero(kit: Kit) -> None:
    """It has no direction left."""
    vectors = _space(kit)
    await vectors.put("a", [1, 0, 0, 0])
    assert await vectors.centred_cosines([0, 1, 0, 0], ["a"]) == {"a": 0}


@clause("vectors")
async def the_mean_follows_every_change(kit: Kit) -> None:
    """Vectors that came, were replaced or deleted count in the mean at once."""
    vectors, unit = await _filled(kit)
    query = np.array([1.0, -1.0, 0.5, 0.0])
    await vectors.delete_many([f"{n:02}" for n in range(10, _COUNT)])
    await vectors.put("00", [0, 0, 0, 5])
    unit = np.vstack([[0, 0, 0, 1], unit[1:10]])
    found = await vectors.centred_cosines(query, ["00", "05", "15"])
    assert found.keys() == {"00", "05"}
    for n in (0, 5):
        assert abs(found[f"{n:02}"] - _expected(unit, query, n)) < _TOLERANCE


@clause("vectors")
async def centred_cosines_need_the_metric_cosine(kit: Kit) -> None:
    """Another metric, a vector that cannot be compared and ids that are none are refused by their names."""
    for metric in ("dot", "l2"):
        with refused(StorageDataError, field="metric"):
            await kit.store.vectors(metric, dimensions=_DIMENSIONS, metric=metric).centred_cosines([1, 0, 0, 0], ["a"])
    vectors: Any = _space(kit)
    for vector in ([1, 0, 0], [0, 0, 0, 0], [1, 0, 0, float("nan")], "abcd", None):
        with refused(StorageDataError, field="vector"):
            await vectors.centred_cosines(vector, ["a"])
    for ids in ("ab", None, 1):
        with refused(StorageDataError, field="ids"):
            await vectors.centred_cosines([1, 0, 0, 0], ids)


@clause("vectors")
async def rank_is_search_without_payloads(kit: Kit) -> None:
    """The same ids with the same scores in the same order, under every limit and filter."""
    vectors, _ = await _filled(kit)
    for query in ([1, 0, 0, 0], [-1, 2, 0.5, 3]):
        for limit in (0, 1, 5, 99):
            for where in (None, F("n") > 3, {"n": 7}):
                found = await vectors.search(query, limit=limit, where=where)
                assert await vectors.rank(query, limit=limit, where=where) == [(hit.id, hit.score) for hit in found]
    assert await kit.store.vectors("unused", dimensions=_DIMENSIONS).rank([1, 0, 0, 0]) == []
