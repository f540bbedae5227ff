"""Indexes: they change no answer, follow every write, and belong to their namespace (QRY-6)."""

from contextlib import suppress
from typing import Any

from polymem.contracts.filter import F, Filter
from polymem.contracts.kv import KeyValue
from polymem.testing.clause import clause
from polymem.testing.clauses.query import FILTERS, ORDERS, answer, fill, pages
from polymem.testing.clauses.query_input import hidden_values
from polymem.testing.clauses.transactions_all import Undo
from polymem.testing.kit import Kit


@clause("query", needs=lambda f: f.indexes)
async def indexes_change_no_answer(kit: Kit) -> None:
    """With an index every query answers as without it, explain names it, and it is the namespace's own (QRY-6)."""
    documents, kv = await fill(kit), kit.store.kv
    assert await kv.list_indexes() == []
    name, both = await kv.create_index("a"), await kv.create_index("n", "p.q")
    assert await kv.create_index("a") == name
    assert {index.name: index.paths for index in await kv.list_indexes()} == {
        name: (("a",),),
        both: (("n",), ("p", "q")),
    }
    assert (await kv.explain(F("a") == 1)).indexes == (name,)
    assert (await kv.explain((F("n") == 1) & (F("p.q") == 2))).indexes == (both,)
    for where in FILTERS:
        for order in ORDERS:
            found = await pages(kv, 5, where=where, order_by=order)
            assert [key for page in found for key in page] == answer(documents, where, order), f"{where} by {order}"
    await kv.put("k00", {"a": "new"})
    assert [entry.key async for entry in kv.query(F("a") == "new")] == ["k00"]
    assert await kit.store.namespace("other").kv.list_indexes() == []
    assert not await kit.store.namespace("other").kv.drop_index(name)
    assert await kv.drop_index(name)
    assert not await kv.drop_index(name)
    assert [index.name for index in await kv.list_indexes()] == [both]


@clause("query", needs=lambda f: f.indexes, uses=("shared",))
async def indexes_stay(kit: Kit) -> None:
    """An index survives reopening."""
    name = await kit.store.kv.create_index("a.b")
    assert [index.name for index in await (await kit.reopen()).kv.list_indexes()] == [name]


async def _keys(kv: KeyValue[Any], where: Filter) -> list[str]:
    found = [entry.key async for entry in kv.query(where, order_by=[("a", "asc")])]
    assert await kv.count(where=where) == len(found)
    return found


@clause("query", needs=lambda f: f.indexes)
async def indexes_follow_every_write(kit: Kit) -> None:
    """A document made before the index, overwritten, touched, counted up or removed is found as it is now."""
    kv, hidden = kit.store.kv, hidden_values(kit.store.kv, kit.clock)
    await kv.put("before", {"a": 1})
    await kv.create_index("a")
    await kv.put("k", {"a": 1})
    assert await _keys(kv, F("a") == 1) == ["before", "k"]
    await hidden.put_many({"k": b"{", "h": b"\xff"})  # no documents
    assert await _keys(kv, F("a") == 1) == ["before"]
    await kv.update("before", {"a": 2})
    await kv.put("k", {"a": 1})
    assert await _keys(kv, F("a").exists()) == ["k", "before"]
    await kv.put("before", 1)
    assert await kv.increment("before") == 2
    assert await _keys(kv, F("a").exists(False)) == ["before"]
    assert await kv.delete("k")
    assert await _keys(kv, F("a").exists()) == []
    await kv.put_many({"k": {"a": 1}, "l": {"a": []}})
    await kv.clear()
    assert await _keys(kv, F("a").exists()) == []


@clause("query", needs=lambda f: f.indexes)
async def indexes_know_what_expired(kit: Kit) -> None:
    """By its own ttl or a touch, and again after the sweeper was there."""
    kv = kit.store.kv
    await kv.create_index("a")
    await kv.put_many({"stays": {"a": 1}, "touched": {"a": 1}})
    await kv.put("short", {"a": 1}, ttl=5)
    await kv.touch("touched", ttl=1)
    kit.clock.advance(1)
    assert await _keys(kv, F("a") == 1) == ["short", "stays"]
    kit.clock.advance(4)
    assert await _keys(kv, F("a") == 1) == ["stays"]
    await kit.root.delete_expired()
    assert await _keys(kv, F("a") == 1) == ["stays"]


@clause("query", needs=lambda f: f.indexes)
async def indexes_belong_to_their_namespace(kit: Kit) -> None:
    """Dropping an index, or a namespace with its own, touches no other's: below it, or of a name that is alike."""
    spaces = [kit.store.namespace(*names) for names in (("a",), ("a", "b"), ("a%", "a0"))]
    a, below, alike = (space.kv for space in spaces)
    names = [await kv.create_index("x.y") for kv in (a, below, alike)]
    assert await a.create_index(["x", "y"]) == names[0]
    assert await kit.store.kv.list_indexes() == []
    assert not await kit.store.kv.drop_index(names[0])
    assert await a.drop_index(names[0])
    assert await a.list_indexes() == []
    assert len(await below.list_indexes()) == 1
    await a.put("k", {"x": {"y": 1}})
    await kit.store.drop_namespace("a")
    assert await below.list_indexes() == []
    assert [index.name for index in await alike.list_indexes()] == [names[2]]
    await kit.store.drop_namespace("a%")
    assert await alike.list_indexes() == []


@clause("query", needs=lambda f: f.indexes, uses=("transactions",))
async def indexes_in_transactions(kit: Kit) -> None:
    """Made in a transaction, an index serves it, and goes when it is rolled back."""
    with suppress(Undo):
        async with kit.store.transaction() as tx:
            await tx.kv.put("k", {"a": 1})
            name = await tx.kv.create_index("a")
            assert [index.name for index in await tx.kv.list_indexes()] == [name]
            assert await tx.kv.count(where=F("a") == 1) == 1
            raise Undo
    assert await kit.store.kv.list_indexes() == []
    assert await kit.store.kv.count(where=F("a") == 1) == 0
