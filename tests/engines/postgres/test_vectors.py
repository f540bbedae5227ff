"""Vectors on PostgreSQL: what the clauses don't see (VEC-1, PG-3)."""

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
import numpy as np
import pytest

from polymem.contracts.vectors import similarity
from polymem.engines.postgres._schema_vectors import create_vectors

pytestmark = [pytest.mark.anyio, pytest.mark.integration, pytest.mark.server("postgres")]
Open = Callable[..., Any]
INDEXES = "select count(*)::int as n from pg_indexes where indexname like 'pm_vectors_%_hnsw'"


@pytest.fixture(name="hnsw")
async def give_hnsw(opened: Open) -> Any:
    store = await opened(vector_index="hnsw")
    yield store
    await store.drop_namespace("vectors")


def rows(count: int, dimensions: int) -> list[tuple[str, Any, dict[str, int]]]:
    numbers = np.random.default_rng(3).normal(size=(count, dimensions))
    return [(f"{n:04}", numbers[n], {"n": n % 50}) for n in range(count)]


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
@pytest.mark.parametrize("dimensions", [8, 2500])
async def test_an_index_finds_what_is_nearest(hnsw: Any, metric: Any, dimensions: int) -> None:
    """Also with more dimensions than float32 can be indexed with, and with a filter that few satisfy."""
    vectors = hnsw.namespace("vectors").vectors(f"v{dimensions}", dimensions=dimensions, metric=metric)
    known = rows(200, dimensions)
    await vectors.put_many(known)
    for where, among in ((None, known), ({"n": 7}, [row for row in known if row[2]["n"] == 7])):
        sought = known[3][1] + 0.1
        truth = sorted(((similarity(sought, row[1], metric), row[0]) for row in among), reverse=True)[:4]
        found = await vectors.search(sought, limit=4, where=where)
        assert [hit.id for hit in found] == [id for _, id in truth]
        assert np.allclose([hit.score for hit in found], [score for score, _ in truth], rtol=1e-5)
    assert not vectors.features.exact


async def test_an_index_goes_with_its_collection(hnsw: Any) -> None:
    space = hnsw.namespace("vectors")
    before = await hnsw.sql.query(INDEXES)
    for name in ("a", "b"):
        await space.vectors(name, dimensions=3).put("x", [1, 0, 0])
    assert (await hnsw.sql.query(INDEXES))[0][0] == before[0][0] + 2
    await space.vectors("a", dimensions=3).clear()
    assert (await hnsw.sql.query(INDEXES))[0][0] == before[0][0] + 1
    await hnsw.drop_namespace("vectors")
    assert await hnsw.sql.query(INDEXES) == before


async def test_the_plan_uses_the_index(hnsw: Any) -> None:
    vectors = hnsw.namespace("vectors").vectors("planned", dimensions=128)
    await vectors.put_many(rows(3000, 128))
    await hnsw.sql.execute("analyze pm_vectors")
    used = "select coalesce(sum(idx_scan), 0)::int as n from pg_stat_all_indexes where indexrelname like '%_hnsw'"
    before = (await hnsw.sql.query(used))[0][0]
    for _ in range(3):
        await vectors.search(np.ones(128))
    async with asyncio.timeout(30):
        while (await hnsw.sql.query(used))[0][0] == before:  # the server adds up its statistics now and then
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("length", [1e-19, 1e18])
async def test_lengths_at_the_ends_of_float32(opened: Open, length: float) -> None:
    """The server adds squares in float32; what it finds is scored in float64."""
    store = await opened()
    vectors = store.namespace("lengths").vectors("v", dimensions=2)
    given = np.array([3 * length, 4 * length], np.float32)
    await vectors.put_many([("long", given), ("other", [1, -1])])
    assert (await vectors.get("long")).vector.tolist() == given.tolist()
    assert (await vectors.search([3, 4]))[0].score == pytest.approx(1)
    assert (await vectors.mean()).tolist() == pytest.approx([(0.6 + 0.5**0.5) / 2, (0.8 - 0.5**0.5) / 2])
    await vectors.clear()


async def test_a_collection_made_anew_elsewhere(opened: Open) -> None:
    """What another process removed and made again is found, under its new number and shape."""
    one, other = [(await opened()).namespace("anew") for _ in range(2)]
    for dimensions in (2, 3):
        vectors = other.vectors("v", dimensions=dimensions)
        await vectors.put("x", [1] * dimensions, {"d": dimensions})
        found = await one.vectors("v", dimensions=dimensions).search([1] * dimensions)
        assert [hit.payload for hit in found] == [{"d": dimensions}]
        await vectors.clear()
        assert await one.vectors("v", dimensions=dimensions).search([1] * dimensions) == []


async def test_neighbours_the_server_cannot_tell_apart(opened: Open) -> None:
    """In float32 the other one is nearer; the order is that of every other engine (float64)."""
    vectors = (await opened()).namespace("near").vectors("v", dimensions=2)
    await vectors.put_many([("a", [1, 0]), ("A", [3, 4])])
    assert [hit.id for hit in await vectors.search([2, 1])] == ["A", "a"]
    assert [hit.id for hit in await vectors.search([2, 1], limit=1)] == ["A"]
    await vectors.clear()


class Refusing:
    """A connection to a server without pgvector."""

    closed = False

    def __init__(self) -> None:
        self.ran: list[str] = []

    async def fetch(self, *_: Any) -> list[tuple[bool, bool]]:
        return [(False, False)]

    async def run(self, script: str) -> None:
        self.ran.append(script)
        if "extension" in script:
            raise asyncpg.UndefinedFileError("could not open extension control file")


async def test_without_the_extension_there_are_no_vectors() -> None:
    link: Any = Refusing()
    assert await create_vectors(link) is False
    assert link.ran[-1] == "rollback"
