"""VEC-1 on the driver: the index always follows the records."""

import numpy as np
import pytest

from polymem.contracts.filter import F
from polymem.contracts.vectors import VectorDriver, VectorRecord, VectorSpace
from polymem.engines.memory.engine import MemoryEngine
from polymem.errors import StorageDataError

pytestmark = pytest.mark.anyio
SPACE = VectorSpace("s", 2, "cosine", "m")


@pytest.fixture
def vectors(engine: MemoryEngine) -> VectorDriver:
    driver = engine.drivers("").vectors
    assert driver is not None
    return driver


def record(id_: str, x: float, y: float, **payload: object) -> VectorRecord:
    return VectorRecord(id_, np.array([x, y], np.float32), payload)


async def nearest(vectors: VectorDriver, x: float, y: float, **options: object) -> list[str]:
    chosen = {"limit": 9, "where": None, "min_score": None, **options}
    return [hit.id for hit in await vectors.search(SPACE, np.array([x, y], np.float32), **chosen)]  # type: ignore[arg-type]


async def test_search_follows_every_write(vectors: VectorDriver) -> None:
    assert await nearest(vectors, 1, 0) == []
    await vectors.put_many(SPACE, [record("b", 1, 0, n=1), record("a", 2, 0, n=2), record("c", 0, 1, n=3)])
    assert await nearest(vectors, 1, 0) == ["a", "b", "c"]
    assert await nearest(vectors, 1, 0, limit=1) == ["a"]
    assert await nearest(vectors, 1, 0, where=F("n") >= 2) == ["a", "c"]
    assert await nearest(vectors, 1, 0, min_score=0.5) == ["a", "b"]
    await vectors.put_many(SPACE, [record("a", 0, 1)])
    assert await nearest(vectors, 1, 0) == ["b", "a", "c"]
    assert await vectors.delete_many(SPACE, ["b", "b", "none"]) == 1
    assert await nearest(vectors, 1, 0) == ["a", "c"]
    assert await vectors.count(SPACE, where=None) == 2
    assert await vectors.count(SPACE, where=F("n") == 3) == 1
    mean = await vectors.mean(SPACE)
    assert mean is not None
    assert mean.tolist() == [0, 1]
    assert await vectors.clear(SPACE) == 2
    assert await vectors.mean(SPACE) is None


@pytest.mark.parametrize(
    ("other", "field"),
    [
        (VectorSpace("s", 3, "cosine", "m"), "dimensions"),
        (VectorSpace("s", 2, "dot", "m"), "metric"),
        (VectorSpace("s", 2, "cosine", None), "model"),
    ],
)
async def test_the_first_write_fixes_the_space(vectors: VectorDriver, other: VectorSpace, field: str) -> None:
    await vectors.put_many(other, [])
    assert await vectors.get_many(other, ["a"]) == {}, "an unknown space reads as empty"
    await vectors.put_many(SPACE, [record("a", 1, 0)])
    await vectors.delete_many(SPACE, ["a"])
    for call in (
        vectors.count(other, where=None),
        vectors.put_many(other, []),
        vectors.clear(other),
        vectors.mean(other),
    ):
        with pytest.raises(StorageDataError) as caught:
            await call
        assert caught.value.field == field
        assert repr(getattr(SPACE, field)) in str(caught.value)
        assert repr(getattr(other, field)) in str(caught.value)
    await vectors.clear(SPACE)
    assert await vectors.count(other, where=None) == 0


async def test_a_wrong_length_writes_nothing(vectors: VectorDriver) -> None:
    wrong = VectorRecord("b", np.zeros(3, np.float32), {})
    with pytest.raises(StorageDataError):
        await vectors.put_many(SPACE, [record("a", 1, 0), wrong])
    assert await vectors.count(SPACE, where=None) == 0


async def test_records_are_detached(vectors: VectorDriver) -> None:
    given = record("a", 1, 0, tags=["x"])
    await vectors.put_many(SPACE, [given])
    given.vector[0] = 9
    given.payload["tags"].append("y")
    read = (await vectors.get_many(SPACE, ["a", "none"]))["a"]
    assert (read.vector.tolist(), read.payload) == ([1, 0], {"tags": ["x"]})
    read.vector[0] = 9
    read.payload["tags"].append("z")
    page = await vectors.page(SPACE, None, 9, where=None)
    assert (page.items[0].vector.tolist(), page.items[0].payload) == ([1, 0], {"tags": ["x"]})


async def test_pages(vectors: VectorDriver) -> None:
    await vectors.put_many(SPACE, [record(id_, 1, 0, odd=number % 2) for number, id_ in enumerate("dacb")])
    page = await vectors.page(SPACE, None, 3, where=None)
    assert ([r.id for r in page.items], page.after) == (["a", "b", "c"], "c")
    page = await vectors.page(SPACE, "a", 3, where=F("odd") == 1)
    assert ([r.id for r in page.items], page.after) == (["b"], None)
