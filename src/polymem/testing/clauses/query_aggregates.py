"""Aggregates: what each figure means, on every engine (QRY-4)."""

from typing import Any

from polymem.contracts._filter_match import find, matches
from polymem.contracts.filter import F, parse
from polymem.testing.clause import clause
from polymem.testing.clauses.query import FILTERS, fill
from polymem.testing.expect import same
from polymem.testing.kit import Kit


async def _figures(kit: Kit, values: list[Any], *ops: str) -> list[Any]:
    """The results of each operation on documents that hold these values."""
    await kit.store.kv.clear()
    await kit.store.kv.put_many({f"k{number:02}": {"v": value} for number, value in enumerate(values)})
    wanted: Any = {op: (op, "v") for op in ops}
    (row,) = await kit.store.kv.aggregate(wanted)
    assert row.group == {}
    return [row.values[op] for op in ops]


@clause("query")
async def what_figures_mean(kit: Kit) -> None:
    """Null and missing are ignored, bools are no numbers, integers are exact at any size, floats rounded once."""
    ops = ("count", "sum", "avg", "min", "max", "distinct")
    cases: tuple[tuple[list[Any], list[Any]], ...] = (
        ([], [0, 0, None, None, None, 0]),
        ([None, None], [0, 0, None, None, None, 0]),
        ([True, False, "1"], [3, 0, None, "1", True, 3]),
        ([1, 2, 4], [3, 7, 7 / 3, 1, 4, 3]),
        ([1, 1.0, True], [3, 2.0, 1.0, 1, True, 2]),
        ([2**63 - 1] * 3, [3, 3 * (2**63 - 1), float(2**63), 2**63 - 1, 2**63 - 1, 1]),
        ([-(2**63)] * 3, [3, -3 * 2**63, -float(2**63), -(2**63), -(2**63), 1]),
        ([2**70, 1], [2, 2**70 + 1, float(2**69), 1, float(2**70), 2]),
        ([0.1] * 3, [3, 0.30000000000000004, 0.1, 0.1, 0.1, 1]),
        ([1e308, 1e308, -1e308], [3, 1e308, 1e308 / 3, -1e308, 1e308, 2]),
        ([1e16, 1, -1e16], [3, 1.0, 1 / 3, -(10**16), 10**16, 3]),
        ([0.0, -0.0], [2, 0.0, 0.0, 0, 0, 1]),
        (["b", "A", "\u00e9"], [3, 0, None, "A", "\u00e9", 3]),
        ([[2], [1], [1.0], {"a": 1}], [4, 0, None, [1], {"a": 1}, 3]),
        ([5, "a", False, [1]], [4, 5, 5.0, 5, [1], 4]),
    )
    for values, wanted in cases:
        found = await _figures(kit, values, *ops)
        assert same(found, wanted), f"{values}: {found}"


@clause("query")
async def groups(kit: Kit) -> None:
    """One row per value as `eq` tells them apart, in their order; null is a group, missing another."""
    kv = kit.store.kv
    values = [1, 1.0, True, "a", "a", None, [1], [1.0], {"b": 1}, "A", 2**70, -1, False]
    await kv.put_many({f"k{number:02}": {"g": value, "n": number} for number, value in enumerate(values)})
    await kv.put_many({"x": {"n": 100}, "y": 5})
    rows = await kv.aggregate({"n": "count", "s": ("sum", "n")}, group_by=["g"])
    assert same([row.group for row in rows], [
        {"g": -1}, {"g": 1}, {"g": float(2**70)}, {"g": "A"}, {"g": "a"}, {"g": False}, {"g": True}, {"g": [1]}, {"g": {"b": 1}},
        {"g": None}, {},
    ]), rows  # fmt: skip
    assert [row.values["n"] for row in rows] == [1, 2, 1, 1, 2, 1, 1, 2, 1, 1, 2]
    assert rows[1].values["s"] == 1
    assert rows[-1].values["s"] == 100
    assert await kv.aggregate({"n": "count"}, group_by=["g"], where={"g": "absent"}) == []
    assert (await kv.aggregate({"n": "count"}, where={"g": "absent"}))[0].values == {"n": 0}
    distinct = await kv.aggregate({}, group_by=["g"], where={"g": {"exists": True}}, limit=2)
    assert [tuple(row) for row in distinct] == [({"g": -1}, {}), ({"g": 1}, {})]


@clause("query")
async def several_groups_and_having(kit: Kit) -> None:
    """Groups of several paths, named as they are written; having sees the results by name."""
    kv = kit.store.kv
    await kv.put_many({f"k{n:02}": {"a": {"b": n % 2}, "c.d": n % 3, "n": n} for n in range(12)})
    by: list[Any] = ["a.b", ["c.d"]]
    rows = await kv.aggregate({"n": "count", "top": ("max", "n")}, group_by=by)
    assert [row.group for row in rows] == [{"a.b": one, "c\\.d": two} for one in (0, 1) for two in (0, 1, 2)]
    kept = await kv.aggregate({"n": "count", "top": ("max", "n")}, group_by=by, having=(F("top") >= 10) & (F("n") == 2))
    assert [row.values["top"] for row in kept] == [10, 11]
    assert await kv.aggregate({"n": "count"}, having={"n": {"gt": 12}}) == []
    assert await kv.aggregate({"m": ("avg", "x")}, having={"m": None}) != []


@clause("query")
async def figures_of_filters(kit: Kit) -> None:
    """An aggregate looks at what its filter matches, and at no expired or foreign document."""
    documents, kv = await fill(kit), kit.store.kv
    for where in FILTERS:
        fitting = [document for document in documents.values() if matches(parse(where), document)]
        (row,) = await kv.aggregate({"n": "count", "v": ("count", "p.q"), "s": ("sum", "n")}, where=where)
        numbers = [value for value in (find(document, ("n",)) for document in fitting) if isinstance(value, int)]
        present = [
            value
            for value in (find(document, ("p", "q")) for document in fitting)
            if value is None or isinstance(value, int | list)
        ]
        assert row.values == {"n": len(fitting), "v": len(present), "s": sum(numbers)}, where
