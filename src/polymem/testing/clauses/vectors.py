"""Vectors: what each operation does (VEC-1)."""

import asyncio
import math
from copy import deepcopy
from typing import Any, Final, get_args

import numpy as np

from polymem.contracts.vectors import Metric, VectorHit, Vectors, similarity
from polymem.errors import StorageDataError
from polymem.testing.clause import clause
from polymem.testing.clauses.names import VALUES
from polymem.testing.expect import listed, refused, same
from polymem.testing.kit import Kit

_METRICS: Final[tuple[Metric, ...]] = get_args(Metric)


def _space(kit: Kit, metric: Metric = "cosine", dimensions: int = 3) -> Vectors:
    return kit.store.vectors(f"v_{metric}", dimensions=dimensions, metric=metric)


def _random(seed: int, count: int, dimensions: int = 3) -> dict[str, np.ndarray[Any, Any]]:
    numbers = np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float32)
    return {f"{number:04}": numbers[number] for number in range(count)}


def _ids(hits: list[VectorHit]) -> list[str]:
    return [hit.id for hit in hits]


@clause("vectors")
async def put_and_get(kit: Kit) -> None:
    """A vector comes back as float32 with its payload, whichever form it was given in."""
    vectors = _space(kit)
    await vectors.put("a", [1, 2, 3], {"n": [None]})
    await vectors.put_many([("b", (0.1, 0, 0)), {"id": "c", "vector": np.array([1, 0, 0], dtype=np.float64)}])
    found = await vectors.get_many(["a", "b", "c", "d"])
    assert set(found) == {"a", "b", "c"}
    assert found["a"].payload == {"n": [None]}
    assert found["b"].payload == {}
    assert found["a"].vector.dtype == np.float32
    assert found["a"].vector.tolist() == [1, 2, 3]
    assert found["b"].vector[0] == np.float32(0.1)
    record = await vectors.get("a")
    assert record is not None
    assert record.id == "a"
    assert await vectors.exists("a")
    assert await vectors.count() == 3


@clause("vectors")
async def absent(kit: Kit) -> None:
    """An unknown space reads as empty, an unknown id as None."""
    vectors = _space(kit)
    assert await vectors.get("a") is None
    assert not await vectors.exists("a")
    assert not await vectors.delete("a")
    assert await vectors.get_many(["a"]) == {}
    assert await vectors.search([1, 0, 0]) == []
    assert await vectors.count() == await vectors.clear() == await vectors.delete_many(["a"]) == 0
    assert await vectors.mean() is None
    assert await listed(vectors.scan()) == []
    await vectors.put_many([])
    assert await vectors.count() == 0


@clause("vectors")
async def put_replaces(kit: Kit) -> None:
    """A put over an id leaves nothing of the old vector and payload; in a batch the last of an id counts."""
    vectors = _space(kit)
    await vectors.put("a", [1, 0, 0], {"old": 1})
    await vectors.put("a", [0, 1, 0], {"new": 1})
    assert [(hit.id, hit.payload) for hit in await vectors.search([0, 1, 0])] == [("a", {"new": 1})]
    assert (await vectors.search([0, 1, 0]))[0].score > 0.999
    await vectors.put_many([("b", [1, 0, 0], {"n": 1}), ("b", [0, 0, 1], {"n": 2})])
    record = await vectors.get("b")
    assert record is not None
    assert record.payload == {"n": 2}
    assert await vectors.count() == 2


@clause("vectors")
async def scores_by_metric(kit: Kit) -> None:
    """A hit's score is `similarity` of the two vectors, higher for nearer, under each metric."""
    for metric in _METRICS:
        vectors, known = _space(kit, metric), _random(1, 40)
        await vectors.put_many(list(known.items()))
        sought = [0.3, -1, 0.5]
        hits = await vectors.search(sought, limit=100)
        assert len(hits) == 40
        for hit in hits:
            assert math.isclose(hit.score, similarity(sought, known[hit.id], metric), rel_tol=1e-4, abs_tol=1e-5)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


@clause("vectors", needs=lambda f: f.exact)
async def search_is_exact(kit: Kit) -> None:
    """The first hits are the true nearest, in any number of dimensions and after changes."""
    for dimensions in (1, 2, 17, 384):
        vectors = kit.store.vectors(f"d{dimensions}", dimensions=dimensions, metric="l2")
        known = _random(dimensions, 150, dimensions)
        await vectors.put_many(list(known.items()))
        await vectors.delete_many(sorted(known)[::3])
        moved = _random(dimensions + 1, 60, dimensions)
        await vectors.put_many(list(moved.items()))
        known = {id: v for id, v in known.items() if id not in sorted(known)[::3]} | moved
        sought = np.linspace(-1, 1, dimensions)
        distances = {id: float(np.linalg.norm(v.astype(np.float64) - sought)) for id, v in known.items()}
        hits = await vectors.search(sought, limit=10)
        for hit, distance in zip(hits, sorted(distances.values())[:10], strict=True):
            assert math.isclose(distances[hit.id], distance, rel_tol=1e-4, abs_tol=1e-5)


@clause("vectors")
async def ties_by_id(kit: Kit) -> None:
    """Equal vectors come in order of id, also where the limit cuts through them."""
    vectors = _space(kit)
    names = ["b", "a", "C", "\u00e9", "10", "9", "\U0001f600", "\uffff"]
    await vectors.put_many([(name, [1, 2, 3]) for name in names])
    await vectors.put("far", [-1, -2, -3])
    for limit in range(1, 10):
        assert _ids(await vectors.search([1, 2, 3], limit=limit)) == [*sorted(names), "far"][:limit]


@clause("vectors")
async def limits_and_thresholds(kit: Kit) -> None:
    """Limit 0 finds nothing, a large one everything; min_score includes its own value."""
    vectors = _space(kit, "dot")
    await vectors.put_many([(f"{n}", [n, 0, 0]) for n in range(5)])
    assert await vectors.search([1, 0, 0], limit=0) == []
    assert _ids(await vectors.search([1, 0, 0], limit=1)) == ["4"]
    assert len(await vectors.search([1, 0, 0], limit=10**6)) == 5
    assert _ids(await vectors.search([1, 0, 0], min_score=3)) == ["4", "3"]
    assert await vectors.search([1, 0, 0], min_score=4.5) == []
    assert len(await vectors.search([1, 0, 0], min_score=-math.inf)) == 5


@clause("vectors")
async def filters_come_first(kit: Kit) -> None:
    """The limit counts what satisfies `where`, however far away it is."""
    vectors = _space(kit)
    await vectors.put_many([(f"{n:03}", [1, n / 1000, 0], {"n": n, "even": n % 2 == 0}) for n in range(200)])
    assert _ids(await vectors.search([1, 0, 0], limit=2, where={"n": {"ge": 190}})) == ["190", "191"]
    assert _ids(await vectors.search([1, 0, 0], limit=3, where={"even": False})) == ["001", "003", "005"]
    assert await vectors.search([1, 0, 0], where={"n": -1}) == []
    assert await vectors.count(where={"even": True}) == 100
    assert [record.id async for record in vectors.scan(where={"n": {"lt": 3}})] == ["000", "001", "002"]


@clause("vectors")
async def mean_of_all(kit: Kit) -> None:
    """The mean of the vectors; for cosine each counts with length 1."""
    await _space(kit, "dot").put_many([("a", [1, 0, 0]), ("b", [0, 3, 0])])
    await _space(kit).put_many([("a", [1, 0, 0]), ("b", [0, 3, 0])])
    for metric, expected in (("dot", [0.5, 1.5, 0]), ("cosine", [0.5, 0.5, 0])):
        mean = await _space(kit, metric).mean()  # type: ignore[arg-type]
        assert mean is not None
        assert np.allclose(mean, expected, atol=1e-6)
    await _space(kit).delete_many(["a", "b"])
    assert await _space(kit).mean() is None


@clause("vectors")
async def deleting(kit: Kit) -> None:
    """What is deleted is found nowhere; the counts say what was there."""
    vectors = _space(kit)
    await vectors.put_many([(name, [1, 0, 0]) for name in "abcd"])
    assert await vectors.delete("a")
    assert not await vectors.delete("a")
    assert await vectors.delete_many(["a", "b", "b", "c"]) == 2
    assert _ids(await vectors.search([1, 0, 0])) == ["d"]
    assert await vectors.count() == 1
    assert await vectors.clear() == 1
    assert await vectors.search([1, 0, 0]) == []


@clause("vectors")
async def a_space_keeps_its_shape(kit: Kit) -> None:
    """Other dimensions, metric or model than the first write's are refused by name, by every operation."""
    made = kit.store.vectors("v", dimensions=3, model="m1")
    await made.put("a", [1, 0, 0])
    for field, other in (
        ("dimensions", kit.store.vectors("v", dimensions=2, model="m1")),
        ("metric", kit.store.vectors("v", dimensions=3, metric="dot", model="m1")),
        ("model", kit.store.vectors("v", dimensions=3, model="m2")),
        ("model", kit.store.vectors("v", dimensions=3)),
    ):
        vector = [1.0] * other.space.dimensions
        for call in (
            other.put("b", vector), other.search(vector), other.get("a"), other.delete("a"), other.count(),
            other.mean(), listed(other.scan()),
        ):  # fmt: skip
            with refused(StorageDataError, field=field):
                await call
    assert await made.count() == 1
    await made.clear()
    await kit.store.vectors("v", dimensions=2).put("a", [1, 0])
    assert await kit.store.vectors("v", dimensions=2).count() == 1


@clause("vectors")
async def spaces_are_apart(kit: Kit) -> None:
    """Spaces of other names, and of the same name in other namespaces, hold nothing in common, shape included."""
    await kit.store.vectors("v", dimensions=3).put("a", [1, 0, 0])
    await kit.store.vectors("V", dimensions=2).put("a", [1, 0])
    await kit.store.namespace("n").vectors("v", dimensions=4, metric="dot").put("a", [1, 0, 0, 0])
    assert await kit.store.vectors("v", dimensions=3).count() == 1
    assert await kit.store.vectors("V", dimensions=2).clear() == 1
    assert await kit.store.namespace("n").vectors("v", dimensions=4, metric="dot").count() == 1
    assert _ids(await kit.store.vectors("v", dimensions=3).search([1, 0, 0])) == ["a"]


@clause("vectors")
async def scores_ignore_other_namespaces(kit: Kit) -> None:
    """Data of other namespaces changes neither hits nor scores, not in the last digit (G-10)."""
    vectors = _space(kit)
    await vectors.put_many(list(_random(5, 50).items()))
    before = await vectors.search([1, 2, 3], limit=50)
    mean = await vectors.mean()
    for segment in ("a", "b"):
        other = kit.store.namespace(segment).vectors("v_cosine", dimensions=3)
        await other.put_many([(id, vector * 7) for id, vector in _random(6, 200).items()])
    assert await vectors.search([1, 2, 3], limit=50) == before
    again = await vectors.mean()
    assert mean is not None
    assert again is not None
    assert mean.tolist() == again.tolist()


@clause("vectors")
async def payloads_are_lossless(kit: Kit) -> None:
    """Any JSON in a payload comes back as it is, from get, scan and search."""
    vectors = _space(kit)
    payload = {f"{number}": value for number, value in enumerate(VALUES)}
    await vectors.put("a", [1, 0, 0], payload)
    found = [await vectors.get("a"), *await listed(vectors.scan()), *await vectors.search([1, 0, 0])]
    assert len(found) == 3
    assert all(item is not None and same(item.payload, payload) for item in found)


@clause("vectors")
async def a_written_vector_is_found_at_once(kit: Kit) -> None:
    """Search sees every acknowledged write, whichever task made it."""
    vectors = _space(kit)

    async def work(number: int) -> None:
        await vectors.put(f"{number:02}", [1, number, 0])
        assert f"{number:02}" in _ids(await vectors.search([1, number, 0], limit=100))
        if number % 2:
            await vectors.delete(f"{number:02}")
            assert f"{number:02}" not in _ids(await vectors.search([1, number, 0], limit=100))

    await kit.together(work)
    assert sorted(_ids(await vectors.search([1, 0, 0], limit=100))) == [f"{n:02}" for n in range(0, 16, 2)]


@clause("vectors", uses=["shared"])
async def the_other_instance_searches_it(kit: Kit) -> None:
    """So does search through another instance, after puts, replacements, deletes and clear."""
    vectors, other = _space(kit), (await kit.second()).vectors("v_cosine", dimensions=3)
    await vectors.put("a", [1, 0, 0])
    assert _ids(await other.search([1, 0, 0])) == ["a"]
    await other.put_many([("a", [0, 1, 0]), ("b", [1, 0, 0])])
    assert _ids(await vectors.search([1, 0, 0])) == ["b", "a"]
    await vectors.delete("b")
    assert _ids(await other.search([1, 0, 0])) == ["a"]
    await other.clear()
    assert await vectors.search([1, 0, 0]) == []


@clause("vectors")
async def batches_are_whole(kit: Kit) -> None:
    """Of concurrent put_many calls over the same ids one is left, never a mixture; a cancelled one is all or nothing."""
    vectors = _space(kit)
    await kit.together(lambda n: vectors.put_many([(f"{(i + n) % 20}", [1, n, 0], {"n": n}) for i in range(20)]), 8)
    assert len({record.payload["n"] async for record in vectors.scan()}) == 1
    for pauses in range(4):
        await vectors.clear()
        task = asyncio.create_task(vectors.put_many([(f"{i}", [1, 0, 0]) for i in range(50)]))
        for _ in range(pauses):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await vectors.put("x", [1, 0, 0])
        assert await vectors.count() in (1, 51)
        assert len(await vectors.search([1, 0, 0], limit=99)) in (1, 51)


@clause("vectors")
async def input_is_not_mutated(kit: Kit) -> None:
    """Arrays and payloads come back untouched; later changes to them, or to what was read, change nothing (G-3)."""
    vectors, array, payload = _space(kit), np.array([3, 4, 0], dtype=np.float32), {"a": [1]}
    before = deepcopy(payload)
    await vectors.put("a", array, payload)
    assert array.tolist() == [3, 4, 0]
    assert payload == before
    array[:] = 0
    payload["a"].append(2)
    record = await vectors.get("a")
    assert record is not None
    assert record.vector.tolist() == [3, 4, 0]
    assert record.payload == before
    record.payload["a"].append(3)
    if record.vector.flags.writeable:
        record.vector[:] = 9
    again = await vectors.get("a")
    assert again is not None
    assert again.vector.tolist() == [3, 4, 0]
    assert again.payload == before


@clause("vectors", needs=lambda f: f.durable)
async def survives_reopening(kit: Kit) -> None:
    """Vectors, payloads, shape and scores are the same after closing and opening."""
    await _space(kit).put_many([(id, vector, {"id": id}) for id, vector in _random(9, 30).items()])
    await _space(kit).delete_many(["0003", "0007"])
    before = await _space(kit).search([1, 1, 1], limit=30)
    await kit.reopen()
    after = await _space(kit).search([1, 1, 1], limit=30)
    assert _ids(after) == _ids(before)
    assert [hit.payload for hit in after] == [hit.payload for hit in before]
    assert np.allclose([hit.score for hit in after], [hit.score for hit in before], atol=1e-6)
    with refused(StorageDataError, field="dimensions"):
        await kit.store.vectors("v_cosine", dimensions=4).count()
