"""VEC-1, G-2, G-3: what `Vectors` checks and passes on, and the two helpers."""

import asyncio
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from polymem.contracts.filter import F
from polymem.contracts.vectors import (
    Metric,
    VectorFeatures,
    VectorHit,
    VectorRecord,
    Vectors,
    VectorSpace,
    normalize,
    similarity,
)
from polymem.core.page import Page
from polymem.errors import StorageDataError

SPACE = VectorSpace("episodes", 3)


@pytest.fixture
def driver(recorder: Any) -> Any:
    return recorder(VectorFeatures(max_dimensions=8), get_many={}, delete_many=1, count=4, clear=4, search=[])


@pytest.fixture
def vectors(driver: Any) -> Vectors:
    return Vectors(driver, SPACE)


def stored(driver: Any) -> list[VectorRecord]:
    return [record for name, args, _ in driver.calls if name == "put_many" for record in args[1]]


@pytest.mark.parametrize(
    "vector", [[1, 2, 3], (1.0, 2.0, 3.0), np.array([1, 2, 3]), np.array([1, 2, 3], dtype=np.float32)]
)
def test_put_keeps_an_own_float32_copy(vectors: Vectors, driver: Any, vector: Any) -> None:
    payload = {"tags": ["a"], "n": None}
    asyncio.run(vectors.put("a/1 🎉", vector, payload))
    [record] = stored(driver)
    assert record.id == "a/1 🎉"
    assert record.vector.dtype == np.float32
    assert record.vector.tolist() == [1, 2, 3]
    assert not np.shares_memory(record.vector, np.asarray(vector))
    payload["tags"].append("b")  # type: ignore[union-attr]
    assert record.payload == {"tags": ["a"], "n": None}
    assert list(vector) == [1, 2, 3]


def test_put_many_takes_every_form_and_the_last_of_an_id_counts(vectors: Vectors, driver: Any) -> None:
    records: list[Any] = [
        VectorRecord("r", np.ones(3, np.float32), {"k": 1}),
        ("t", [1, 1, 1]),
        ("u", [1, 1, 1], None),
        {"id": "m", "vector": [1, 1, 1], "payload": {"k": 2}},
        ("t", [2, 2, 2], {"k": 3}),
    ]
    asyncio.run(vectors.put_many(iter(records)))
    assert [(r.id, r.vector[0], r.payload) for r in stored(driver)] == [
        ("r", 1, {"k": 1}), ("t", 2, {"k": 3}), ("u", 1, {}), ("m", 1, {"k": 2}),
    ]  # fmt: skip
    assert driver.calls[0][1][0] == SPACE


BAD_VECTORS: list[Any] = [
    [1.0, math.nan, 1.0], [1.0, math.inf, 1.0], [0, 0, 0], [1e-30, 0, 0], [1e39, 0, 0], [1e20, 0, 0], [1, 2],
    [1, 2, 3, 4], [], [[1, 2, 3]], [[1], [2, 3]], "123", b"123", None, 1, ["1", "2", "3"], [True, False],
    [True, False, True], [1, 2, None], [1j, 2, 3], {"a": 1}, [2**70, 1, 1],
]  # fmt: skip


@pytest.mark.parametrize("vector", BAD_VECTORS)
def test_bad_vector_names_the_id_and_writes_nothing(vectors: Vectors, driver: Any, vector: Any) -> None:
    for call in (vectors.put("the-id", vector), vectors.put_many([("fine", [1, 2, 3]), ("the-id", vector)])):
        with pytest.raises(StorageDataError, match="the-id") as refused:
            asyncio.run(call)
        assert refused.value.field == "vector"
    with pytest.raises(StorageDataError):
        asyncio.run(vectors.search(vector))
    assert driver.calls == []


@pytest.mark.parametrize("metric", ["dot", "l2"])
def test_zero_vector_is_fine_where_direction_does_not_matter(driver: Any, metric: Metric) -> None:
    asyncio.run(Vectors(driver, VectorSpace("v", 2, metric)).put("z", [0, 0]))
    assert stored(driver)[0].vector.tolist() == [0, 0]


BAD: list[tuple[str, Callable[[Vectors], Any]]] = [
    ("id", lambda v: v.put("", [1, 2, 3])),
    ("id", lambda v: v.put(7, [1, 2, 3])),  # type: ignore[arg-type]
    ("payload", lambda v: v.put("a", [1, 2, 3], [1])),  # type: ignore[arg-type]
    ("payload.x.y", lambda v: v.put("a", [1, 2, 3], {"x": {"y": math.nan}})),
    ("payload", lambda v: v.put("a", [1, 2, 3], {1: 2})),  # type: ignore[dict-item]
    ("records", lambda v: v.put_many("a")),  # type: ignore[arg-type]
    ("records", lambda v: v.put_many({"id": "a", "vector": [1, 2, 3]})),  # type: ignore[dict-item]
    ("records", lambda v: v.put_many([("a", [1, 2, 3], {}, 4)])),  # type: ignore[list-item]
    ("records.vector", lambda v: v.put_many([("a",)])),  # type: ignore[list-item]
    ("records.vec", lambda v: v.put_many([{"id": "a", "vec": [1, 2, 3]}])),
    ("id", lambda v: v.get("a\0")),
    ("ids", lambda v: v.get_many("abc")),
    ("ids", lambda v: v.delete_many(["a", ""])),
    ("limit", lambda v: v.search([1, 2, 3], limit=-1)),
    ("limit", lambda v: v.search([1, 2, 3], limit=True)),
    ("min_score", lambda v: v.search([1, 2, 3], min_score=math.nan)),
    ("min_score", lambda v: v.search([1, 2, 3], min_score="1")),  # type: ignore[arg-type]
    ("where", lambda v: v.search([1, 2, 3], where=3)),  # type: ignore[arg-type]
    ("where", lambda v: v.count(where=[])),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("field", "call"), BAD)
def test_bad_input_names_the_field_and_writes_nothing(
    vectors: Vectors, driver: Any, field: str, call: Callable[[Vectors], Any]
) -> None:
    with pytest.raises(StorageDataError) as refused:
        asyncio.run(call(vectors))
    assert refused.value.field == field
    assert driver.calls == []


@pytest.mark.parametrize(
    ("field", "space"),
    [
        ("name", VectorSpace("a b", 3)),
        ("dimensions", VectorSpace("v", 0)),
        ("dimensions", VectorSpace("v", 9)),
        ("dimensions", VectorSpace("v", 3.0)),  # type: ignore[arg-type]
        ("metric", VectorSpace("v", 3, "cosinus")),  # type: ignore[arg-type]
        ("model", VectorSpace("v", 3, "dot", "")),
    ],
)
def test_bad_space_is_refused_when_the_handle_is_made(driver: Any, field: str, space: VectorSpace) -> None:
    with pytest.raises(StorageDataError) as refused:
        Vectors(driver, space)
    assert refused.value.field == field


def test_nothing_to_put_calls_nothing(vectors: Vectors, driver: Any) -> None:
    asyncio.run(vectors.put_many([]))
    assert driver.calls == []


def test_search_passes_on_checked_arguments(driver: Any, vectors: Vectors) -> None:
    driver.answers["search"] = [VectorHit("a", 0.5, {})]
    found = asyncio.run(vectors.search([1, 2, 3], limit=4, where={"s": 1}, min_score=0.25))
    assert found == [VectorHit("a", 0.5, {})]
    _, args, options = driver.calls[0]
    assert args[1].tolist() == [1, 2, 3]
    assert options == {"limit": 4, "where": F("s") == 1, "min_score": 0.25}
    assert asyncio.run(vectors.search([1, 2, 3], limit=0)) == []
    assert len(driver.calls) == 1


def test_scan_reads_page_after_page(driver: Any, vectors: Vectors) -> None:
    one, two = (VectorRecord(name, np.ones(3, np.float32), {}) for name in "ab")
    driver.answers["page"] = lambda space, after, limit, where: Page([two], None) if after else Page([one], "a")

    async def ids() -> list[str]:
        return [record.id async for record in vectors.scan(where=F("x") > 1)]

    assert asyncio.run(ids()) == ["a", "b"]
    assert [options for _, _, options in driver.calls] == [{"where": F("x") > 1}] * 2
    with pytest.raises(StorageDataError):
        vectors.scan(where=3)  # type: ignore[arg-type]


def test_reads_and_removals_pass_through(driver: Any, vectors: Vectors) -> None:
    async def all_of_them() -> list[Any]:
        return [
            await vectors.get("a"),
            await vectors.exists("a"),
            await vectors.get_many(["a", "b", "a"]),
            await vectors.delete("a"),
            await vectors.delete_many(["a", "b", "a"]),
            await vectors.mean(),
            await vectors.count(),
            await vectors.clear(),
        ]

    assert asyncio.run(all_of_them()) == [None, False, {}, True, 1, None, 4, 4]
    assert ("delete_many", (SPACE, ["a", "b"]), {}) in driver.calls
    assert (vectors.features.max_dimensions, vectors.space) == (8, SPACE)


numbers = arrays(np.float64, 5, elements=st.floats(-1e6, 1e6).filter(lambda x: x == 0 or abs(x) > 1e-6))


@given(numbers.filter(lambda v: bool(v.any())))
def test_normalize_gives_length_one_and_keeps_direction(vector: Any) -> None:
    unit = normalize(vector)
    assert unit.dtype == np.float32
    assert np.linalg.norm(unit) == pytest.approx(1, abs=1e-6)
    assert similarity(unit, vector) == pytest.approx(1, abs=1e-6)


def test_similarity_is_higher_for_nearer() -> None:
    assert similarity([1, 0], [0, 2]) == pytest.approx(0)
    assert similarity([1, 0], [-3, 0]) == pytest.approx(-1)
    assert similarity([1, 2], [3, 4], "dot") == 11
    assert similarity([0, 0], [3, 4], "l2") == pytest.approx(1 / 6)
    assert similarity([1, 1], [1, 1], metric="l2") == 1


@pytest.mark.parametrize(
    ("field", "call"),
    [
        ("vector", lambda: normalize([0, 0])),
        ("vector", lambda: normalize([math.nan])),
        ("vector", lambda: similarity([0, 0], [1, 1])),
        ("b", lambda: similarity([1], [1, 1])),
        ("metric", lambda: similarity([1], [1], "euclid")),  # type: ignore[arg-type]
    ],
)
def test_helpers_refuse_what_has_no_answer(field: str, call: Callable[[], Any]) -> None:
    with pytest.raises(StorageDataError) as refused:
        call()
    assert refused.value.field == field
