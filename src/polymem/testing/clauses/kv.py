"""Key-value storage: what each operation does (KV-1 to KV-3, G-3, G-7)."""

from copy import deepcopy
from typing import Any

from polymem.core.clock import to_datetime
from polymem.errors import StorageConflictError, StorageDataError, StorageNotFoundError
from polymem.testing.clause import clause
from polymem.testing.clauses.names import VALUES
from polymem.testing.expect import listed, refused, same
from polymem.testing.kit import Kit


@clause("kv")
async def put_then_get(kit: Kit) -> None:
    """What was put is got, by its key only."""
    await kit.store.kv.put("a", {"n": 1})
    assert await kit.store.kv.get("a") == {"n": 1}
    assert await kit.store.kv.get("b") is None


@clause("kv")
async def every_json_value(kit: Kit) -> None:
    """Any JSON value comes back equal and of its own type: big integers, unicode and empty ones included (KV-3)."""
    for number, value in enumerate(VALUES):
        await kit.store.kv.put(f"{number}", value)
    for number, value in enumerate(VALUES):
        assert same(await kit.store.kv.get(f"{number}", "absent"), value), repr(value)[:80]


@clause("kv")
async def a_megabyte(kit: Kit) -> None:
    """A value of a megabyte comes back whole."""
    value = {"text": "\u00e9\U0001f600x\n" * 130_000}
    await kit.store.kv.put("big", value)
    assert await kit.store.kv.get("big") == value


@clause("kv")
async def absent(kit: Kit) -> None:
    """What is absent is None, the default, False or 0, never an error."""
    kv = kit.store.kv
    assert await kv.get("a") is None
    assert await kv.get("a", "default") == "default"
    assert await kv.entry("a") is None
    assert not await kv.exists("a")
    assert not await kv.delete("a")
    assert not await kv.touch("a", ttl=1)
    assert await kv.get_many(["a", "b"]) == {}
    assert await kv.delete_many(["a", "b"]) == await kv.count() == await kv.clear() == 0
    assert await listed(kv.scan()) == []


@clause("kv")
async def null_is_not_absence(kit: Kit) -> None:
    """A stored null is there: entry, exists, count and get with a default tell."""
    kv = kit.store.kv
    await kv.put("a", None)
    entry = await kv.entry("a")
    assert entry is not None
    assert entry.value is None
    assert await kv.get("a", "default") is None
    assert await kv.exists("a")
    assert await kv.count() == 1
    assert await kv.get_many(["a"]) == {"a": None}
    with refused(StorageConflictError):
        await kv.create("a", 1)


@clause("kv")
async def put_replaces(kit: Kit) -> None:
    """A put over a value leaves nothing of it but the instant it was created."""
    kv = kit.store.kv
    await kv.put("a", {"x": 1, "y": 2}, ttl=10)
    first = await kv.entry("a")
    kit.clock.advance(1)
    version = await kv.put("a", {"x": 3})
    second = await kv.entry("a")
    assert first is not None
    assert second is not None
    assert second.value == {"x": 3}
    assert second.version == version != first.version
    assert second.created_at == first.created_at < second.updated_at == to_datetime(kit.clock.now())
    assert second.expires_at is None
    assert await kv.count() == 1


@clause("kv")
async def create_once(kit: Kit) -> None:
    """Create writes only where the key is absent."""
    kv = kit.store.kv
    version = await kv.create("a", 1)
    with refused(StorageConflictError, field="key"):
        await kv.create("a", 2)
    entry = await kv.entry("a")
    assert entry is not None
    assert (entry.value, entry.version) == (1, version)
    await kv.delete("a")
    await kv.create("a", 3)
    assert await kv.get("a") == 3


@clause("kv")
async def update_only_what_is_there(kit: Kit) -> None:
    """Update of an absent key is an error and writes nothing; otherwise it keeps created_at and gives a version."""
    kv = kit.store.kv
    with refused(StorageNotFoundError, field="key"):
        await kv.update("a", 1)
    assert not await kv.exists("a")
    old = await kv.put("a", 1)
    kit.clock.advance(1)
    new = await kv.update("a", 2)
    entry = await kv.entry("a")
    assert entry is not None
    assert (entry.value, entry.version) == (2, new)
    assert new != old
    assert entry.created_at < entry.updated_at


@clause("kv")
async def delete_is_truthful(kit: Kit) -> None:
    """Delete says whether something was there, delete_many and clear how many were (G-7)."""
    kv = kit.store.kv
    await kv.put_many(dict.fromkeys("abcde", 0))
    assert await kv.delete("a")
    assert not await kv.delete("a")
    assert await kv.delete_many(["a", "b", "b", "c"]) == 2
    assert await kv.delete_many([]) == 0
    assert await kv.clear() == 2
    assert await kv.clear() == 0
    assert await kv.count() == 0


@clause("kv")
async def deleting_by_prefix(kit: Kit) -> None:
    """delete_prefix removes just what starts with the prefix, whatever characters that has, and counts it (G-7)."""
    kv = kit.store.kv
    await kv.put_many({f"page/{number}": number for number in range(1100)})
    others = dict.fromkeys(["page", "pagex", "Page/1", "a/page/1", "%", "_", "p%ge/1", "*"], 0)
    await kv.put_many(others)
    await kit.store.namespace("page").kv.put("page/1", 1)
    assert await kv.delete_prefix("page/") == 1100
    assert await kv.delete_prefix("page/") == await kv.delete_prefix("\U0001f600") == 0
    assert await kv.get_many([*others]) == others
    assert await kv.delete_prefix("p%") == await kv.delete_prefix("*") == 1
    assert await kv.delete_prefix("") == len(others) - 2
    assert await kit.store.namespace("page").kv.count() == 1
    for bad in (None, 1, b"a", "\x00"):
        with refused(StorageDataError, field="prefix"):
            await kv.delete_prefix(bad)  # type: ignore[arg-type]


@clause("kv")
async def many_at_once(kit: Kit) -> None:
    """put_many gives a version for each key, get_many just the keys found, in any number."""
    kv = kit.store.kv
    items = {f"k{number}": number for number in range(1200)}
    versions = await kv.put_many(items)
    assert versions.keys() == items.keys()
    assert len(set(versions.values())) == len(items)
    assert await kv.get_many([*items, "absent"]) == items
    entry = await kv.entry("k7")
    assert entry is not None
    assert entry.version == versions["k7"]
    assert await kv.get_many([]) == await kv.put_many({}) == {}
    assert await kv.delete_many(items) == len(items)


@clause("kv")
async def count_and_scan_by_prefix(kit: Kit) -> None:
    """A prefix selects exactly the keys that start with it."""
    kv = kit.store.kv
    keys = ["", "a", "a%", "a_", "a/", "a/b", "aa", "ab", "b", "A"][1:]
    await kv.put_many(dict.fromkeys(keys, 0))
    for prefix in ("", "a", "a%", "a_", "a/", "b", "c", "A", "aaa"):
        wanted = {key for key in keys if key.startswith(prefix)}
        assert set(await listed(kv.scan(prefix))) == wanted, prefix
        assert await kv.count(prefix) == len(wanted), prefix


@clause("kv", needs=lambda f: f.ordered)
async def scan_in_order(kit: Kit) -> None:
    """Scan lists keys by code point, each once, over any number of pages."""
    kv = kit.store.kv
    keys = [f"{number:x}" for number in range(1203)] + ["Z", "a", "\u00e9", "\uffff", "\U0001f600"]
    await kv.put_many(dict.fromkeys(keys, 0))
    assert await listed(kv.scan()) == sorted(set(keys))


@clause("kv")
async def entries_are_complete(kit: Kit) -> None:
    """Entries gives what entry gives of each key."""
    kv = kit.store.kv
    await kv.put_many({"a": 1, "b": [2], "c": None}, ttl=5)
    assert {e.key: e async for e in kv.entries()} == {k: await kv.entry(k) for k in "abc"}


@clause("kv")
async def pages_end_exactly(kit: Kit) -> None:
    """A listing of exactly one page, one less and one more misses nothing and repeats nothing."""
    kv = kit.store.kv
    await kv.put_many({f"{number:04}": number for number in range(499)})
    for size in (499, 500, 501):
        assert sorted(await listed(kv.scan())) == [f"{number:04}" for number in range(size)]
        await kv.put(f"{size:04}", size)


@clause("kv")
async def pages_under_mutation(kit: Kit) -> None:
    """A key present throughout a scan appears, once where the engine is ordered, whatever is written meanwhile."""
    kv = kit.store.kv
    stay = [f"{number:05}" for number in range(0, 2400, 2)]
    await kv.put_many(dict.fromkeys(stay, 0))
    seen: list[str] = []
    async for key in kv.scan():
        if len(seen) % 50 == 0:
            odd = int(key) | 1
            await kv.delete_many([f"{odd + step:05}" for step in (-2, 0)])
            await kv.put_many({f"{odd + step:05}": 1 for step in (-4, 2, 500)})
            await kv.put(f"{odd - 1:05}", 2)
        seen.append(key)
    assert set(seen) >= set(stay)
    if kv.features.ordered:
        assert len(seen) == len(set(seen))
        assert seen == sorted(seen)


@clause("kv")
async def increment_counts(kit: Kit) -> None:
    """An absent key counts as 0; the result is an integer like any other; the version changes, the expiry stays."""
    kv = kit.store.kv
    assert [await kv.increment("n"), await kv.increment("n", 5), await kv.increment("n", -9)] == [1, 6, -3]
    assert await kv.get("n") == -3
    before = await kv.entry("n")
    assert await kv.increment("n", 0) == -3
    after = await kv.entry("n")
    assert before is not None
    assert after is not None
    assert before.version != after.version
    await kv.put("t", 1, ttl=10)
    await kv.increment("t")
    assert await kv.ttl("t") == 10


@clause("kv")
async def increment_at_the_limits(kit: Kit) -> None:
    """64 bits are used to the last; beyond them the call is refused and the value stays."""
    kv = kit.store.kv
    await kv.put("n", 2**63 - 2)
    assert await kv.increment("n") == 2**63 - 1
    with refused(StorageDataError):
        await kv.increment("n")
    assert await kv.get("n") == 2**63 - 1
    await kv.put("n", -(2**63) + 1)
    assert await kv.increment("n", -1) == -(2**63)
    with refused(StorageDataError):
        await kv.increment("n", -1)
    assert await kv.get("n") == -(2**63)


@clause("kv")
async def increment_needs_an_integer(kit: Kit) -> None:
    """Anything else that is stored is refused and stays as it is."""
    others: tuple[Any, ...] = ("1", 1.0, 1.5, True, None, [], {}, "x", 2**63, 10**40)
    for value in others:
        await kit.store.kv.put("a", value)
        with refused(StorageDataError):
            await kit.store.kv.increment("a")
        assert same(await kit.store.kv.get("a"), value)


@clause("kv")
async def compare_and_set(kit: Kit) -> None:
    """It writes where the version is the expected one; otherwise it is a conflict and nothing is written."""
    kv = kit.store.kv
    first = await kv.compare_and_set("a", None, 1)
    second = await kv.compare_and_set("a", first, 2)
    for stale in (first, None, 0, -1):
        with refused(StorageConflictError):
            await kv.compare_and_set("a", stale, 3)
    entry = await kv.entry("a")
    assert entry is not None
    assert (entry.value, entry.version) == (2, second)
    with refused(StorageConflictError):
        await kv.compare_and_set("absent", first, 3)
    assert not await kv.exists("absent")


@clause("kv")
async def versions_tell_writes_apart(kit: Kit) -> None:
    """Writing the same value again, or deleting and creating, gives another version; touch keeps it."""
    kv = kit.store.kv
    versions = [await kv.put("a", 1), await kv.put("a", 1), await kv.update("a", 1)]
    await kv.delete("a")
    versions.append(await kv.create("a", 1))
    await kv.touch("a", ttl=5)
    entry = await kv.entry("a")
    assert entry is not None
    assert entry.version == versions[-1]
    assert len(set(versions)) == len(versions)
    with refused(StorageConflictError):
        await kv.compare_and_set("a", versions[0], 2)


@clause("kv")
async def typed_values(kit: Kit) -> None:
    """A typed view reads back its own type, and what else fits it; without a type the same is plain JSON (KV-3)."""
    from dataclasses import dataclass  # noqa: PLC0415 - the model belongs to this clause

    @dataclass
    class Point:
        x: int
        y: float

    points = kit.store.kv.typed(Point)
    await points.put("p", Point(1, 0.5))
    assert await points.get("p") == Point(1, 0.5)
    assert await kit.store.kv.get("p") == {"x": 1, "y": 0.5}
    await kit.store.kv.put("q", {"x": 1, "y": 2})
    assert await points.get("q") == Point(1, 2.0)
    await kit.store.kv.put("r", {"x": "one", "y": 2})
    with refused(StorageDataError, field="value"):
        await points.get("r")
    copied = kit.store.namespace("copy").kv  # which knows nothing of the type
    await copied.bulk_load(kit.store.kv.bulk_export())
    assert await copied.typed(Point).get("p") == Point(1, 0.5)


@clause("kv")
async def input_is_not_mutated(kit: Kit) -> None:
    """What is passed in comes back untouched, and what is changed afterwards changes nothing stored (G-3)."""
    value: dict[str, Any] = {"list": [1, {"a": None}], "n": 1}
    items = {"b": value}
    before = deepcopy(items)
    await kit.store.kv.put("a", value)
    await kit.store.kv.put_many(items)
    assert items == before
    value["list"].append("changed")
    got = await kit.store.kv.get("a")
    assert got == before["b"] == await kit.store.kv.get("b")
    assert got is not None
    got["n"] = "changed"
    assert await kit.store.kv.get("a") == before["b"]


@clause("kv", needs=lambda f: f.durable)
async def survives_reopening(kit: Kit) -> None:
    """Everything of an entry is there after closing and opening: value, version, instants."""
    await kit.store.kv.put("a", {"n": [1, None]}, ttl=100)
    await kit.store.kv.put("b", 1)
    before = await listed(kit.store.kv.entries())
    await kit.reopen()
    assert await listed(kit.store.kv.entries()) == before
    kit.clock.advance(100)
    assert await listed(kit.store.kv.scan()) == ["b"]
