"""What recall asks of the text and vector cells of every engine (TXT-1, VEC-1)."""

import numpy as np
import pytest

from polymem import F
from polymem.contracts.vectors import centred_cosines
from polymem.errors import StorageDataError
from polymem.store import Store

pytestmark = pytest.mark.anyio


@pytest.fixture
async def filled(store: Store) -> Store:
    space = store.vectors("v", dimensions=3)
    for number in range(60):
        payload = {"n": number % 7}
        await store.text("t").put(str(number), "pear " * (number % 5 + 1) + "fig", payload)
        await space.put(str(number), [number % 9, 1 + number % 4, number], payload)
    return store


@pytest.mark.parametrize("where", [None, F("n") == 3, F("n") >= 1, F("n") == 99], ids=str)
@pytest.mark.parametrize("limit", [0, 1, 7, 20, 100])
async def test_ranking_is_search_without_the_records(filled: Store, where: object, limit: int) -> None:
    text, space = filled.text("t"), filled.vectors("v", dimensions=3)
    found = await text.search("pear", limit=limit, where=where)  # type: ignore[arg-type]
    assert await text.rank("pear", limit=limit, where=where) == [(h.id, h.score) for h in found]  # type: ignore[arg-type]
    everything = [
        hit for hit in await text.search("pear", limit=100) if where is None or hit.payload["n"] in _chosen(where)
    ]
    assert [hit.id for hit in found] == [hit.id for hit in everything][:limit]
    assert await text.search("pear", limit=5, offset=3, where=where) == everything[3:8]  # type: ignore[arg-type]
    near = await space.search([1, 2, 3], limit=limit, where=where)  # type: ignore[arg-type]
    assert await space.rank([1, 2, 3], limit=limit, where=where) == [(h.id, h.score) for h in near]  # type: ignore[arg-type]
    all_near = [
        hit for hit in await space.search([1, 2, 3], limit=100) if where is None or hit.payload["n"] in _chosen(where)
    ]
    assert [hit.id for hit in near] == [hit.id for hit in all_near][:limit]


def _chosen(where: object) -> set[int]:
    from polymem.contracts.filter import matches

    return {n for n in range(7) if matches(where, {"n": n})}  # type: ignore[arg-type]


async def test_centred_cosines(filled: Store) -> None:
    space, ids = filled.vectors("v", dimensions=3), ["5", "50", "nobody", "5"]
    found = await space.centred_cosines([1, 2, 3], ids)
    assert list(found) == ["5", "50"]
    rows = np.stack([(await space.get_many([id]))[id].vector for id in found])
    wanted = centred_cosines(np.array([1, 2, 3], np.float32), rows, await space.mean())
    assert list(found.values()) == pytest.approx(wanted.tolist(), abs=1e-5)
    assert await space.centred_cosines([1, 2, 3], []) == {}
    assert await filled.vectors("none", dimensions=3).centred_cosines([1, 2, 3], ["5"]) == {}


async def test_bad_input_of_both(filled: Store) -> None:
    space = filled.vectors("v", dimensions=3)
    for call, field in (
        (space.centred_cosines([1, 2], ["5"]), "vector"), (space.centred_cosines([1, 2, 3], [""]), "ids"),
        (space.rank([0, 0, 0]), "vector"), (space.rank([1, 2, 3], limit=-1), "limit"),
        (filled.vectors("d", dimensions=3, metric="dot").centred_cosines([1, 2, 3], ["5"]), "metric"),
        (filled.text("t").rank("pear", limit=-1), "limit"), (filled.text("t").rank(5), "query"),  # type: ignore[arg-type]
    ):  # fmt: skip
        with pytest.raises(StorageDataError) as caught:
            await call
        assert caught.value.field == field
