"""Vectors: bad input is refused by name, and nothing is written (G-2)."""

from typing import Any, Final

import numpy as np

from polymem.errors import StorageDataError
from polymem.testing.clause import clause
from polymem.testing.clauses.names import NOT_TEXT, TOO_LONG
from polymem.testing.expect import listed, refused
from polymem.testing.kit import Kit

_BAD_VECTORS: Final[tuple[Any, ...]] = (
    [], [1], [1, 2], [1, 2, 3, 4], [1, 2, float("nan")], [1, 2, float("inf")], [1, 2, -float("inf")], [0, 0, 0],
    [1e39, 0, 0], "abc", b"abc", None, 1, ["1", "2", "3"], [1, 2, None], [[1, 2, 3]], [1, [2], 3], [True, False, True],
    np.zeros((3, 1)), [1j, 2, 3], {"a": 1}, np.array([np.nan] * 3),
)  # fmt: skip


@clause("vectors")
async def bad_vectors(kit: Kit) -> None:
    """The wrong length, NaN, infinities, no direction, or no numbers at all; alone, in a batch and in a search."""
    vectors: Any = kit.store.vectors("v", dimensions=3)
    for bad in _BAD_VECTORS:
        with refused(StorageDataError, field="vector"):
            await vectors.put("a", bad)
        with refused(StorageDataError, field="vector"):
            await vectors.put_many([("a", [1, 0, 0]), ("b", bad)])
        with refused(StorageDataError, field="vector"):
            await vectors.search(bad)
    assert await vectors.count() == 0


@clause("vectors")
async def zeros_have_a_place(kit: Kit) -> None:
    """Under dot and l2 a vector of zeros is a vector."""
    for metric in ("dot", "l2"):
        vectors: Any = kit.store.vectors(f"v_{metric}", dimensions=2, metric=metric)
        await vectors.put("a", [0, 0])
        assert [hit.id for hit in await vectors.search([0, 0])] == ["a"]


@clause("vectors")
async def bad_ids(kit: Kit) -> None:
    """Ids are 1 to 512 bytes of text; several are not one string."""
    vectors: Any = kit.store.vectors("v", dimensions=3)
    for bad in (*NOT_TEXT, *TOO_LONG):
        for call in (lambda i: vectors.put(i, [1, 0, 0]), vectors.get, vectors.delete, vectors.exists):
            with refused(StorageDataError, field="id"):
                await call(bad)
        with refused(StorageDataError, field="ids"):
            await vectors.get_many([bad])
    for several in ("ab", None, 1, {"a": 1}):
        with refused(StorageDataError, field="ids"):
            await vectors.delete_many(several)
    assert await vectors.count() == 0


@clause("vectors")
async def bad_records(kit: Kit) -> None:
    """Payloads are JSON objects; members that are missing or unknown are named; one bad record stops the batch."""
    vectors: Any = kit.store.vectors("v", dimensions=3)
    for payload in ("a", [1], 1, {"a": float("nan")}, {1: 2}, {"a": "\x00"}, {"a": b""}):
        with refused(StorageDataError, field="payload"):
            await vectors.put_many([("a", [1, 0, 0]), ("b", [1, 0, 0], payload)])
    bad_records: tuple[Any, ...] = (
        "ab",
        None,
        1,
        {"id": "a"},
        ["a"],
        [1],
        [("a",)],
        [{"id": "a"}],
        [("a", [1, 0, 0], {}, 1)],
    )
    for records in bad_records:
        with refused(StorageDataError, field="records"):
            await vectors.put_many(records)
    with refused(StorageDataError, field="records.extra"):
        await vectors.put_many([{"id": "a", "vector": [1, 0, 0], "extra": 1}])
    assert await vectors.count() == 0


@clause("vectors")
async def bad_spaces(kit: Kit) -> None:
    """Name, dimensions, metric and model are checked when the handle is made (G-4)."""
    make: Any = kit.store.vectors
    for name in ("", "a b", "a;", "1a", "a'", None, 1, "x" * 64, "\u00e9"):
        with refused(StorageDataError, field="name"):
            make(name, dimensions=3)
    for dimensions in (0, -1, 1.5, "3", None, True, kit.features("vectors").max_dimensions + 1):
        with refused(StorageDataError, field="dimensions"):
            make("v", dimensions=dimensions)
    with refused(StorageDataError, field="metric"):
        make("v", dimensions=3, metric="hamming")
    for model in ("", 1, "\x00"):
        with refused(StorageDataError, field="model"):
            make("v", dimensions=3, model=model)


@clause("vectors")
async def bad_searches(kit: Kit) -> None:
    """limit, min_score and where are refused by their names, also where nothing is stored."""
    vectors: Any = kit.store.vectors("v", dimensions=3)
    for limit in (-1, 1.5, "1", None, True):
        with refused(StorageDataError, field="limit"):
            await vectors.search([1, 0, 0], limit=limit)
    bad_scores: tuple[Any, ...] = ("1", float("nan"), True, [])
    for score in bad_scores:
        with refused(StorageDataError, field="min_score"):
            await vectors.search([1, 0, 0], min_score=score)
    for where in ("a", 1, [1], {"a": {"like": "x"}}, {1: 2}):
        with refused(StorageDataError, field="where"):
            await vectors.search([1, 0, 0], where=where)
        with refused(StorageDataError, field="where"):
            await vectors.count(where=where)
        with refused(StorageDataError, field="where"):
            await listed(vectors.scan(where=where))
