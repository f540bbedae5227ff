"""`store.storage(name, T)`: the mapping-style face of key-value records (KV-1)."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import polymem
import polymem.blocking
from polymem import F, Storage, Store
from polymem.contracts.bulk import Delete, Put
from polymem.core.clock import ManualClock
from polymem.errors import StorageConflictError, StorageDataError, StorageNotFoundError
from polymem.testing.expect import listed

pytestmark = pytest.mark.anyio


@dataclass
class User:
    name: str
    age: int = 0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory", "sqlite", "json_file"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Store]:
    urls = {"memory": "memory:", "sqlite": f"sqlite:///{tmp_path}/a.db", "json_file": f"file:{tmp_path}/a.json"}
    async with polymem.open(urls[request.param], clock=clock, sweep_every=None) as opened:
        yield opened


async def test_the_verbs_of_a_mapping(store: Store, clock: ManualClock) -> None:
    users = store.storage("users", User)
    version = await users.set("ada", User("Ada", 36), ttl=10)
    assert await users.get("ada") == User("Ada", 36)
    assert await users.get("bob") is None
    assert await users.get("bob", User("nobody")) == User("nobody")
    assert (await users.has("ada"), await users.has("bob")) == (True, False)
    assert await users.add("bob", User("Bob")) != version
    with pytest.raises(StorageConflictError):
        await users.add("bob", User("Bob II"))
    await users.update("bob", User("Bob", 7))
    with pytest.raises(StorageNotFoundError):
        await users.update("cy", User("Cy"))
    assert await users.size() == await users.size("") == 2
    assert await users.size("a") == 1
    assert await listed(users.keys()) == ["ada", "bob"]
    assert await listed(users.values()) == [User("Ada", 36), User("Bob", 7)]
    assert await listed(users.values("b")) == [User("Bob", 7)]
    assert [(entry.key, entry.value) async for entry in users.entries("a")] == [("ada", User("Ada", 36))]
    clock.advance(10)
    assert await listed(users.keys()) == ["bob"]
    assert (await users.delete("bob"), await users.delete("bob")) == (True, False)
    await users.set("cy", User("Cy"))
    assert (await users.clear(), await users.size()) == (1, 0)


async def test_it_is_the_namespace_of_its_name(store: Store) -> None:
    """KV-4: it sees no other storage, not even one inside it, and is reached by the namespace of the same name."""
    users = store.storage("users", User)
    await users.set("ada", User("Ada"))
    await users.namespace("old", "x").set("ada", User("Augusta"))
    assert await store.storage("others", User).size() == await store.kv.count() == 0
    assert await users.size() == 1
    assert await users.namespace("old").namespace("x").get("ada") == User("Augusta")
    assert await store.storage("users", User).kv.get("ada") == User("Ada")
    assert sorted([name async for name in store.namespaces()]) == [("users",), ("users", "old", "x")]


async def test_any_json_value_without_a_type(store: Store) -> None:
    anything: Storage[Any] = store.storage("anything")
    values: list[Any] = [{}, 0, "", None, [1]]
    for value in values:
        await anything.set("a", value)
        assert await anything.get("a", "absent") == value
    await store.namespace("anything").kv.put("b", 1)
    assert await anything.get("b") == 1


async def test_queries(store: Store) -> None:
    users = store.storage("users", User)
    await users.bulk_load([(f"u{age}", User(f"name {age}", age)) for age in range(10)])
    assert [e.value.age async for e in users.query(F("age") >= 7, order_by=[("age", "desc")])] == [9, 8, 7]
    assert await users.count(where=F("age") < 3) == 3
    found = await users.find_one(F("name") == "name 4")
    assert found is not None
    assert found.value == User("name 4", 4)
    page, cursor = await users.find_many(order_by=[("age", "asc")], limit=4)
    assert [entry.key for entry in page] == ["u0", "u1", "u2", "u3"]
    assert cursor is not None
    assert [row.values for row in await users.aggregate({"oldest": ("max", "age")})] == [{"oldest": 9}]


async def test_bulk(store: Store) -> None:
    users = store.storage("users", User)
    report = await users.bulk_load([("a", User("A")), ("b", User("B"))])
    assert report.loaded == 2
    result = await users.batch_write([Put("c", User("C")), Delete("a"), Delete("nobody")])
    assert [one.result for one in result.outcomes][1:] == [True, False]
    assert [(r.key, r.value) async for r in users.bulk_export()] == [("b", User("B")), ("c", User("C"))]


async def test_transactions(store: Store) -> None:
    """TXN-2: reads its own writes, savepoints, explicit ends; what is raised undoes it."""
    users = store.storage("users", User)
    await users.set("a", User("A"))
    with pytest.raises(ZeroDivisionError):
        async with users.transaction() as tx:
            await tx.set("a", User("changed"))
            assert await tx.get("a") == User("changed")
            raise ZeroDivisionError
    assert await users.get("a") == User("A")
    async with users.transaction() as tx:
        await tx.set("b", User("B"))
        with pytest.raises(ZeroDivisionError):
            async with tx.savepoint("s"):
                await tx.clear()
                raise ZeroDivisionError
        await tx.savepoint("here")
        await tx.clear()
        await tx.rollback_to("here")
        await tx.commit()
    assert await listed(users.keys()) == ["a", "b"]
    async with users.transaction() as tx:
        await tx.clear()
        await tx.rollback()
    assert await users.size() == 2


async def test_events(store: Store) -> None:
    """EVT-1, EVT-2: `watch`, `on` and `use` concern this storage and no other."""
    users, others, seen, hooked = store.storage("users", User), store.storage("others", User), [], []

    async def note(event: Any) -> None:
        seen.append(event.key)

    async def hook(call: Any) -> None:
        hooked.append(call.key)

    changes = users.watch()
    users.on("after:put", note)
    users.use(hook)
    assert users.subscribers()["after:put"] == 1
    async with changes:
        await others.set("x", User("X"))
        await users.set("ada", User("Ada"))
        assert (await anext(changes)).key == "ada"
    await store.close()
    assert (seen, hooked) == (["ada"], ["ada"])


async def test_run_in_transaction(store: Store) -> None:
    counts = store.storage("counts", int)
    await counts.set("n", 1)

    async def add(tx: Storage[int]) -> int:
        await tx.set("n", (await tx.get("n") or 0) + 1)
        return await tx.size()

    assert await counts.run_in_transaction(add, isolation="read_committed") == 1
    assert await counts.get("n") == 2
    for bad in (None, lambda _: 1):
        with pytest.raises(StorageDataError) as caught:
            await counts.run_in_transaction(bad)  # type: ignore[arg-type]
        assert caught.value.field == "work"


async def test_bad_names_and_values(store: Store) -> None:
    for name in ("", None, 1, "a" * 600, "\x00"):
        with pytest.raises(StorageDataError) as caught:
            store.storage(name, User)  # type: ignore[arg-type]
        assert caught.value.field == "namespace"
    with pytest.raises(StorageDataError):
        await store.storage("users", User).set("a", "Ada")  # type: ignore[arg-type]
    await store.storage("users").set("a", {"name": 5})
    with pytest.raises(StorageDataError):
        await store.storage("users", User).get("a")


def test_it_says_where_it_is() -> None:
    store = polymem.open("memory:")
    assert repr(store.storage("users", User)) == "<Storage of User in <Store memory namespace='users'>>"
    assert repr(store.storage("users")) == "<Storage in <Store memory namespace='users'>>"
    assert repr(store.storage("n", int | None)) == "<Storage of int | None in <Store memory namespace='n'>>"
    assert repr(F("a.b")) == "F(['a', 'b'])"


def test_without_await() -> None:
    with polymem.blocking.open("memory:") as store:
        users = store.storage("users", User)
        users.set("ada", User("Ada"))
        with users.transaction() as tx:
            tx.set("bob", User("Bob"))
        assert list(users.values()) == [User("Ada"), User("Bob")]
