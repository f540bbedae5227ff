"""Queries over key-value data: what `contracts.query` says, on every engine (QRY-1 to QRY-4)."""

import dataclasses
from typing import Any, Final

from polymem.contracts.filter import F, matches, parse, parse_order, sort_key
from polymem.contracts.kv import KeyValue
from polymem.errors import StorageDataError
from polymem.testing.clause import clause
from polymem.testing.clauses.filter import DOCUMENTS as ALL_KINDS
from polymem.testing.clauses.filter import by_operator
from polymem.testing.expect import listed, refused, same
from polymem.testing.kit import Kit

VALUES: Final[tuple[Any, ...]] = (
    None, True, False, 0, 1, 1.0, -1, 1.5, -0.0, 2**53, 2**53 + 1, float(2**53), 2**63 - 1, -(2**63), 2**63, 2**70, 10**23, 1e300,
    "", "a", "A", "ab", "1", "true", "null", "[1]", "\u00e9", "\uffff", "\U0001f600", "%", [], {}, [1], ["a"], [None], {"b": 1},
)  # fmt: skip
DOCUMENTS: Final[tuple[Any, ...]] = (
    *({"a": value, "n": number % 5, "p": {"q": number % 3}} for number, value in enumerate(VALUES)),
    {}, {"n": 1}, {"p": None}, {"a": 1, "n": None}, {"p": {"q": [1, {"r": 2}]}}, *VALUES[:8], "text", [1, 2], [[1]], {"0": 1},
)  # fmt: skip
FILTERS: Final[tuple[Any, ...]] = (
    None, {}, {"a": 1}, {"a": None}, {"a": True}, {"a": {"ge": 1}}, {"a": {"lt": "b"}}, {"a": {"ne": 1}}, {"a": {"exists": False}},
    {"a": {"in": [1, "a", None]}}, {"a": {"contains": "a"}}, {"p.q": {"between": [1, 2]}}, {"n": 1, "p.q": {"gt": 0}}, {"0": {"ge": 1}},
    {"or": [{"n": 1}, {"a": {"starts_with": "a"}}]}, {"not": {"n": {"in": [0, 1]}}}, {"a": {"regex": "^[a-z]$"}}, {"a": [1]},
)  # fmt: skip
ORDERS: Final[tuple[Any, ...]] = (
    [], [("a", "asc")], [("a", "desc")], [("n", "desc"), ("a", "asc")], [("p.q", "asc"), ("n", "desc")], [("0", "asc")],
)  # fmt: skip


async def fill(kit: Kit) -> dict[str, Any]:
    """Documents of every kind, among expired ones and those of another namespace."""
    documents = {f"k{number:02}": document for number, document in enumerate(DOCUMENTS)}
    await kit.store.kv.put_many(documents)
    await kit.store.kv.put_many({f"gone{number}": document for number, document in enumerate(DOCUMENTS)}, ttl=1)
    await kit.store.namespace("other").kv.put_many(documents)
    kit.clock.advance(1)
    return documents


def answer(documents: dict[str, Any], where: Any, order: Any) -> list[str]:
    condition, parsed = parse(where), parse_order(order)
    keys = [key for key, document in documents.items() if matches(condition, document)]
    return sorted(keys, key=lambda key: sort_key(documents[key], parsed, key))


async def pages(kv: KeyValue[Any], size: int, **options: Any) -> list[list[str]]:
    found, cursor = [], None
    while True:
        entries, cursor = await kv.find_many(**options, limit=size, cursor=cursor)
        found.append([entry.key for entry in entries])
        if cursor is None:
            return found


@clause("query")
async def filters_and_orders(kit: Kit) -> None:
    """Exactly the documents of `matches`, in the order of `sort_key`, whole or page by page; count agrees."""
    documents, kv = await fill(kit), kit.store.kv
    for where in FILTERS:
        for order in ORDERS:
            wanted = answer(documents, where, order)
            entries = [entry async for entry in kv.query(where, order_by=order)]
            assert [entry.key for entry in entries] == wanted, f"{where} by {order}"
            assert all(same(entry.value, documents[entry.key]) for entry in entries)
            by_pages = await pages(kv, 7, where=where, order_by=order)
            assert [key for page in by_pages for key in page] == wanted, f"{where} by {order} in pages"
            assert all(len(page) == 7 for page in by_pages[:-1])
        if where:
            assert await kv.count(where=where) == len(answer(documents, where, []))


@clause("query")
async def limits_and_offsets(kit: Kit) -> None:
    """Limits and offsets cut the list; past its end there is nothing."""
    documents, kv = await fill(kit), kit.store.kv
    where = {"n": {"exists": True}}
    for order in ORDERS[:3]:
        wanted = answer(documents, where, order)
        for limit, offset in ((0, 0), (1, 0), (3, 2), (100, 30), (5, 1000), (len(wanted), 0)):
            found = [entry.key async for entry in kv.query(where, order_by=order, limit=limit, offset=offset)]
            assert found == wanted[offset : offset + limit], (order, limit, offset)
            if limit:
                entries, cursor = await kv.find_many(where, order_by=order, limit=limit, offset=offset)
                assert [entry.key for entry in entries] == found
                assert (cursor is None) == (offset + limit >= len(wanted))
        first = await kv.find_one(where, order_by=order)
        assert first is not None
        assert first.key == wanted[0]
    assert await kv.find_one({"a": "absent"}) is None
    assert await kv.find_many({"a": "absent"}) == ([], None)


@clause("query")
async def entries_are_whole(kit: Kit) -> None:
    """What a query gives is what `entry` gives, of typed values too."""
    kv = kit.store.kv
    await kv.put("a", {"n": 1}, ttl=10)
    found = await kv.find_one(F("n") == 1)
    assert found == await kv.entry("a")
    typed = kv.typed(_Order)
    await typed.put("t", _Order("x", 7))
    assert [entry.value async for entry in typed.query(F("amount") > 5)] == [_Order("x", 7)]
    assert [entry.value async for entry in kv.query(F("amount") == 7, select=["amount"])] == [{"amount": 7}]
    assert await kv.count(where=F("n").exists() | F("amount").exists()) == 2


@dataclasses.dataclass
class _Order:
    name: str
    amount: int


@clause("query")
async def prefixes(kit: Kit) -> None:
    """A prefix restricts every query by keys, taken as they are."""
    kv = kit.store.kv
    await kv.put_many({key: {"n": 1} for key in ("a", "a%", "ab", "a_", "A", "b", "\u00e9")})
    for prefix in ("", "a", "a%", "a_", "b", "z", "\u00e9"):
        wanted = sorted(await listed(kv.scan(prefix)))
        assert [entry.key async for entry in kv.query(F("n") == 1, prefix=prefix)] == wanted
        assert await kv.count(prefix, where=F("n") == 1) == len(wanted)
        assert (await kv.aggregate({"n": "count"}, prefix=prefix))[0].values == {"n": len(wanted)}


@clause("query")
async def partial_documents(kit: Kit) -> None:
    """Select keeps what lies at the paths, exactly; missing paths are absent."""
    kv = kit.store.kv
    await kv.put_many({
        "a": {"x": {"y": [10, {"z": 2**70}], "w": 1.0}, "n": None, "d.e": True}, "b": {"x": 5, "n": "\u00e9"}, "c": 7, "d": {},
    })  # fmt: skip
    cases: tuple[tuple[list[Any], list[Any]], ...] = (
        ([], [{}, {}, {}, {}]),
        (["n"], [{"n": None}, {"n": "\u00e9"}, {}, {}]),
        (["x.w", "x.v"], [{"x": {"w": 1.0}}, {}, {}, {}]),
        (["x.y.1.z", "x.w"], [{"x": {"y": {"1": {"z": 2**70}}, "w": 1.0}}, {}, {}, {}]),
        (["x.y", "x"], [{"x": {"y": [10, {"z": 2**70}], "w": 1.0}}, {"x": 5}, {}, {}]),
        ([["d.e"]], [{"d.e": True}, {}, {}, {}]),
    )
    for select, wanted in cases:
        assert same([entry.value async for entry in kv.query(select=select)], wanted), select
    found, _ = await kv.find_many({"x": 5}, select=["x"])
    assert [entry.value for entry in found] == [{"x": 5}]


@clause("query")
async def pages_under_mutation(kit: Kit) -> None:
    """A document present throughout, whose order value stays, comes exactly once (KV-4)."""
    kv = kit.store.kv
    for order in ([], [("n", "desc")]):
        await kv.clear()
        await kv.put_many({f"k{number:02}": {"n": number % 4, "keep": number % 3 == 0} for number in range(60)})
        seen, cursor, step = [], None, 0
        while True:
            entries, cursor = await kv.find_many({"n": {"ge": 0}}, order_by=order, limit=7, cursor=cursor)
            seen += [entry.key for entry in entries]
            if cursor is None:
                break
            step += 1
            await kv.delete_many([f"k{number:02}" for number in range(step, 60, 6) if number % 3])
            await kv.put_many({f"j{step:02}{number}": {"n": number} for number in range(4)})
        kept = [key for key in seen if key.startswith("k") and int(key[1:]) % 3 == 0]
        assert sorted(kept) == [f"k{number:02}" for number in range(0, 60, 3)], order
        assert len(seen) == len(set(seen))


@clause("query")
async def cursors_belong_to_their_query(kit: Kit) -> None:
    """With another filter, order, prefix or namespace a cursor is refused; what is selected may change."""
    kv = kit.store.kv
    documents = {f"k{number}": {"n": number, "m": 1} for number in range(9)}
    await kv.put_many(documents)
    await kit.store.namespace("x").kv.put_many(documents)
    where, order = F("m") == 1, [("n", "desc")]
    _, cursor = await kv.find_many(where, order_by=order, limit=4)
    others: tuple[dict[str, Any], ...] = (
        {"where": F("m") == 2, "order_by": order}, {"where": where}, {"where": where, "order_by": [("n", "asc")]},
        {"where": where, "order_by": order, "prefix": "k"},
    )  # fmt: skip
    for other in others:
        with refused(StorageDataError, field="cursor"):
            await kv.find_many(**other, cursor=cursor)
    with refused(StorageDataError, field="cursor"):
        await kit.store.namespace("x").kv.find_many(where, order_by=order, cursor=cursor)
    with refused(StorageDataError, field="offset"):
        await kv.find_many(where, order_by=order, cursor=cursor, offset=1)
    same_query: dict[str, Any] = {"where": {"m": {"eq": 1}}, "order_by": order}
    rest, _ = await kv.find_many(**same_query, cursor=cursor, select=["n"])
    assert [entry.value["n"] for entry in rest] == [4, 3, 2, 1, 0]
    assert [entry.key async for entry in kv.query(**same_query, cursor=cursor, limit=2)] == ["k4", "k3"]


@clause("query")
async def long_streams(kit: Kit) -> None:
    """A stream of many pages gives each document once, in order."""
    kv = kit.store.kv
    await kv.put_many({f"k{number:05}": {"n": number % 7} for number in range(2600)})
    keys = [entry.key async for entry in kv.query({"n": {"ge": 1}})]
    assert keys == [f"k{number:05}" for number in range(2600) if number % 7]
    values = [entry.value["n"] async for entry in kv.query(order_by=[("n", "desc")], limit=2500)]
    assert values == sorted((number % 7 for number in range(2600)), reverse=True)[:2500]


@clause("query", uses=("transactions",))
async def inside_a_transaction(kit: Kit) -> None:
    """A transaction's queries see its own writes, nobody else's do until it commits."""
    async with kit.store.transaction() as tx:
        await tx.kv.put_many({"a": {"n": 1}, "b": {"n": 2}})
        assert [entry.key async for entry in tx.kv.query({"n": {"ge": 2}})] == ["b"]
        assert await tx.kv.count(where={"n": 1}) == 1
        assert (await tx.kv.aggregate({"s": ("sum", "n")}))[0].values == {"s": 3}
        assert await kit.store.kv.count(where={"n": 1}) == 0
    assert await kit.store.kv.count(where={"n": 1}) == 1


@clause("query")
async def every_operator(kit: Kit) -> None:
    """Exactly the documents of `matches`, without an index, with one, and read off one with something else."""
    documents, kv = {f"{n:03}": {"k": 1, **document} for n, document in enumerate(ALL_KINDS)}, kit.store.kv
    await kv.put_many(documents)
    for paths in ((), ("a",), ("k", "a")) if kit.features("query").indexes else ((),):
        if paths:
            await kv.create_index(*paths)
        for where in by_operator():
            condition = where & (F("k") == 1) if "k" in paths else where
            wanted = answer(documents, condition, [])
            found, _ = await kv.find_many(condition, limit=len(documents))
            assert [entry.key for entry in found] == wanted, f"{condition}, index on {paths}"
            assert await kv.count(where=condition) == len(wanted), f"count of {condition}, index on {paths}"
