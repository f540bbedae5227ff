"""Paths through keys that hold whatever a query language might take for syntax (G-4, QRY-2)."""

from typing import Any, Final

from polymem.contracts._filter_match import MISSING, find
from polymem.contracts.filter import F, matches, parse, parse_order, sort_key
from polymem.contracts.kv import KeyValue
from polymem.testing.clause import clause
from polymem.testing.expect import same
from polymem.testing.kit import Kit

HOSTILE: Final = (
    "a.b", 'q"', "'", "''", "\\", '\\"', "[0]", "$", "$.a", "#", "[#-1]", "*", "", " ", "\u00e9", "\U0001f600", "\n", "\x01",
    "0", "-1", "00", "{v}", "{column}", "?", "?1", ":x", "%s", "--", ";", "*/", "x" * 400,
)  # fmt: skip


@clause("query")
async def hostile_paths(kit: Kit) -> None:
    """A key is taken as it is everywhere a path stands: filter, order, select, aggregate, index."""
    for key in HOSTILE:
        kv, indexed = kit.store.kv, kit.features("query").indexes
        await kv.clear()
        documents = _documents(key)
        await kv.put_many(documents)
        await _compare(kv, key, documents)
        if indexed:
            name = await kv.create_index([key])
            assert {index.name: index.paths for index in await kv.list_indexes()} == {name: ((key,),)}, ascii(key)
            await _compare(kv, key, documents)
            assert await kv.drop_index(name)


def _documents(key: str) -> dict[str, Any]:
    values: tuple[Any, ...] = (
        {key: 1, "a": 0},
        {key: 1.0},
        {"a": {key: "x"}},
        {key: None},
        {key: [key]},
        {key: key},
        {},
        [1],
        {key: True},
    )
    return {f"k{number}": value for number, value in enumerate(values)}


async def _compare(kv: KeyValue[Any], key: str, documents: dict[str, Any]) -> None:
    for where, order in (
        (F([key]) == 1, []), (F("a", key) == "x", [([key], "desc")]), (None, [([key], "asc")]), (F([key]) == key, []),
    ):  # fmt: skip
        found = [entry.key async for entry in kv.query(where, order_by=order)]
        kept = [name for name, document in documents.items() if matches(parse(where), document)]
        parsed = parse_order(order)
        assert found == sorted(kept, key=lambda name: sort_key(documents[name], parsed, name)), ascii(key)
    there = [value for document in documents.values() if (value := find(document, (key,))) is not MISSING]
    selected = [entry.value[key] async for entry in kv.query(select=[[key]]) if key in entry.value]
    assert same(selected, there), ascii(key)
    (row,) = await kv.aggregate({"n": ("count", [key]), "top": ("max", [key])})
    assert row.values["n"] == sum(value is not None for value in there), ascii(key)
    groups = await kv.aggregate({"n": "count"}, group_by=[[key]], having=F("n") >= 1)
    assert sum(row.values["n"] for row in groups) == len(documents), ascii(key)
