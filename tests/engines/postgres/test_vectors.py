"""Vectors on PostgreSQL: what the clauses don't see (VEC-1, PG-3)."""

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
import numpy as np
import pytest

from polymem.contracts.vectors import similarity
from polymem.engines.postgres import _vector_building, _vector_index
from polymem.engines.postgres._schema_vectors import create_vectors
from polymem.engines.postgres.search import index_vectors
from polymem.errors import StorageAuthError, StorageUnsupportedError

pytestmark = [pytest.mark.anyio, pytest.mark.integration, pytest.mark.server("postgres")]
Open = Callable[..., Any]
INDEXES = "select indexname from pg_indexes where indexname ~ '^pm_vectors_[0-9]+_' order by 1"
INVALID = "select count(*)::int from pg_index where not indisvalid"


@pytest.fixture(name="indexed", params=["hnsw", "ivfflat"])
async def give_indexed(opened: Open, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A store that makes an index of its kind for each collection of 100 vectors."""
    monkeypatch.setattr(_vector_building, "LEAST", 100)
    store = await opened(vector_index=request.param)
    yield store
    await store.drop_namespace("vectors")
    await store.delete_expired()


async def refused() -> Any:
    raise asyncpg.InsufficientPrivilegeError("must be owner of table pm_vectors")


async def names(store: Any) -> list[str]:
    """The indexes there are when nothing is being made."""
    await store.engine._approximate.settle()
    return [name for (name,) in await store.sql.query(INDEXES)]


def rows(count: int, dimensions: int) -> list[tuple[str, Any, dict[str, int]]]:
    numbers = np.random.default_rng(3).normal(size=(count, dimensions))
    return [(f"{n:04}", numbers[n], {"n": n % 50}) for n in range(count)]


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
@pytest.mark.parametrize("dimensions", [8, 2500])
async def test_an_index_finds_what_is_nearest(indexed: Any, metric: Any, dimensions: int) -> None:
    """Also with more dimensions than float32 can be indexed with, and with a filter that few satisfy."""
    vectors = indexed.namespace("vectors").vectors(f"v{dimensions}", dimensions=dimensions, metric=metric)
    known = rows(200, dimensions)
    await vectors.put_many(known)
    assert len(await names(indexed)) == 1
    for where, among in ((None, known), ({"n": 7}, [row for row in known if row[2]["n"] == 7])):
        sought = known[3][1] + 0.1
        truth = sorted(((similarity(sought, row[1], metric), row[0]) for row in among), reverse=True)[:4]
        found = await vectors.search(sought, limit=4, where=where)
        assert [hit.id for hit in found] == [id for _, id in truth]
        assert np.allclose([hit.score for hit in found], [score for score, _ in truth], rtol=1e-5)
    assert not vectors.features.exact


async def test_small_collections_have_no_index(indexed: Any) -> None:
    vectors = indexed.namespace("vectors").vectors("small", dimensions=8)
    await vectors.put_many(rows(99, 8))
    assert await names(indexed) == []
    await vectors.put("one more", [1.0] * 8)
    assert len(await names(indexed)) == 1


async def test_an_index_goes_with_its_collection(indexed: Any) -> None:
    """The sweeper drops it, with nobody waiting for that."""
    space = indexed.namespace("vectors")
    for name in ("a", "b", "c"):
        await space.vectors(name, dimensions=3).put_many(rows(100, 3))
    assert len(await names(indexed)) == 3
    await space.vectors("a", dimensions=3).clear()
    await indexed.delete_expired()
    assert len(await names(indexed)) == 2
    await indexed.drop_namespace("vectors")
    await indexed.delete_expired()
    assert await names(indexed) == []


async def test_the_plan_uses_the_index(indexed: Any) -> None:
    vectors = indexed.namespace("vectors").vectors("planned", dimensions=128)
    await vectors.put_many(rows(3000, 128))
    await indexed.sql.execute("analyze pm_vectors")
    (name,) = await names(indexed)
    used = f"select idx_scan from pg_stat_all_indexes where indexrelname = '{name}'"
    before = (await indexed.sql.query(used))[0][0]
    for _ in range(3):
        await vectors.search(np.ones(128))
    async with asyncio.timeout(30):
        while (await indexed.sql.query(used))[0][0] == before:  # the server adds up its statistics now and then
            await asyncio.sleep(0.1)


async def test_the_lists_of_ivfflat_grow_with_their_collection(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """One list for 1,000 rows, anew when there are twice as many (PG-3)."""
    monkeypatch.setattr(_vector_building, "LEAST", 100)
    store = await opened(vector_index="ivfflat")
    vectors = store.namespace("vectors").vectors("growing", dimensions=2)
    lists = []
    for count in (100, 1900, 3900, 8100):
        await vectors.put_many(rows(count, 2))
        lists.append([name.rpartition("_")[2] for name in await names(store)])
    assert lists == [["1"], ["1"], ["3"], ["8"]]
    assert [_vector_index.lists_for(rows) for rows in (10, 1_000_000, 4_000_000)] == [1, 1000, 2000]
    await store.drop_namespace("vectors")
    await store.delete_expired()


async def test_what_a_failed_attempt_left_is_made_anew(indexed: Any) -> None:
    vectors = indexed.namespace("vectors").vectors("failed", dimensions=2)
    await vectors.put_many(rows(200, 2))
    (name,) = await names(indexed)
    await indexed.sql.execute("update pg_index set indisvalid = false where indexrelid = $1::text::regclass", [name])
    indexed.engine._approximate._known.clear()
    assert len(await vectors.search([1, 0])) == 10
    await vectors.put_many(rows(200, 2))
    assert await names(indexed) == [name]
    assert await indexed.sql.query(INVALID) == [(0,)]


async def test_closing_gives_up_what_is_being_made(opened: Open, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index waits for transactions that are open; closing does not (G-8)."""
    monkeypatch.setattr(_vector_building, "LEAST", 100)
    store, other = await opened(), await asyncpg.connect(url)
    vectors = store.namespace("vectors").vectors("given_up", dimensions=2)
    transaction = other.transaction(isolation="repeatable_read")
    await transaction.start()
    await other.execute("insert into pm_vectors values (0, '', '[1]', '{}')")
    await vectors.put_many(rows(200, 2))
    await store.close()
    await transaction.rollback()
    await other.close()
    again = await opened()
    await again.namespace("vectors").vectors("given_up", dimensions=2).put("one more", [1, 2])
    assert len(await names(again)) == 1
    assert await again.sql.query(INVALID) == [(0,)]
    await again.drop_namespace("vectors")
    await again.delete_expired()


async def test_a_role_that_may_not_make_an_index(opened: Open, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its writes succeed, and searching goes on without one."""
    monkeypatch.setattr(_vector_building, "LEAST", 100)
    store = await opened()

    store.engine._approximate._connect = refused
    vectors = store.namespace("vectors").vectors("refused", dimensions=2)
    await vectors.put_many(rows(200, 2))
    assert await names(store) == []
    assert len(await vectors.search([1, 0])) == 10
    await store.drop_namespace("vectors")


async def test_an_index_is_made_at_once_when_asked_for(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here errors are told."""
    exact = (await opened(vector_index="exact")).namespace("vectors").vectors("asked", dimensions=2)
    await exact.put_many(rows(200, 2))
    with pytest.raises(StorageUnsupportedError):
        await index_vectors(exact)
    store = await opened()
    vectors = store.namespace("vectors").vectors("asked", dimensions=2)
    await index_vectors(vectors)
    assert await names(store) == []
    monkeypatch.setattr(_vector_building, "LEAST", 100)
    connect = store.engine._approximate._connect
    store.engine._approximate._connect = refused
    with pytest.raises(StorageAuthError):
        await index_vectors(vectors)
    store.engine._approximate._connect = connect
    await index_vectors(vectors)
    assert len(await names(store)) == 1
    async with store.namespace("vectors").transaction() as tx:
        with pytest.raises(StorageUnsupportedError):
            await index_vectors(tx.vectors("asked", dimensions=2))
    await store.drop_namespace("vectors")
    await store.delete_expired()


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
