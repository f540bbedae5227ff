"""What `watch` must do: exactly the committed changes of one namespace (EVT-1, EVT-2, TXN-2, G-10)."""

import asyncio
from typing import Any

from polymem.contracts.events import Change, Watch
from polymem.errors import (
    StorageConflictError,
    StorageDataError,
    StorageNotFoundError,
)
from polymem.store import Store
from polymem.testing.clause import clause
from polymem.testing.clauses.names import HOSTILE, NOT_TEXT, TOO_LONG
from polymem.testing.expect import refused
from polymem.testing.faults import Fault, Faults
from polymem.testing.kit import TASKS, Kit

PATIENCE = 10.0
"""Seconds within which a committed change must be seen."""
Told = list[tuple[str, str | None]]


async def told(watch: Watch, count: int) -> Told:
    """The next `count` changes, and that there is no other."""
    changes = [await asyncio.wait_for(anext(watch), PATIENCE) for _ in range(count)]
    return _short(changes + await watch.read(wait=0))


def _short(changes: list[Change]) -> Told:
    return [(change.op, change.key) for change in changes]


def puts(*keys: str) -> Told:
    return [("put", key) for key in keys]


@clause("events")
async def every_kind_of_change(kit: Kit) -> None:
    """Each way to write is a put, each removal a delete or a clear, in the order in which they were made."""
    kv = kit.store.kv
    async with kv.watch() as watch:
        version = await kv.put("a", 1)
        await kv.compare_and_set("a", version, 2)
        await kv.update("a", 3)
        await kv.increment("a")
        await kv.touch("a", ttl=60)
        await kv.create("b", None)
        await kv.put_many({"c": 1, "d": 2})
        await kv.delete("a")
        await kv.delete_many(["c", "d"])
        await kv.clear()
        found = await told(watch, 12)
    assert found[:6] == puts("a", "a", "a", "a", "a", "b")
    assert sorted(found[6:8], key=str) == puts("c", "d")
    assert found[8] == ("delete", "a")
    assert sorted(found[9:11], key=str) == [("delete", "c"), ("delete", "d")]
    assert found[11:] == [("clear", None)]


@clause("events")
async def what_changes_nothing(kit: Kit) -> None:
    """Reads, refused writes and removals of what is not there are no changes."""
    kv = kit.store.kv
    await kv.put("a", 1)
    async with kv.watch() as watch:
        await kv.get_many(["a", "b"])
        await kv.entry("a")
        with refused(StorageConflictError):
            await kv.create("a", 2)
        with refused(StorageConflictError):
            await kv.compare_and_set("a", 1, 2)
        with refused(StorageNotFoundError):
            await kv.update("b", 2)
        with refused(StorageDataError):
            await kv.put_many({"c": 1, "": 2})
        assert not await kv.touch("b", ttl=1)
        assert not await kv.delete("b")
        assert await kv.delete_many(["b", "c"]) == 0
        await kv.delete("a")
        assert await kv.clear() == 0
        assert await told(watch, 1) == [("delete", "a")]


@clause("events")
async def from_its_beginning_on(kit: Kit) -> None:
    """Nothing from before it begins, everything from then on, also what is done before the first step."""
    kv = kit.store.kv
    await kv.put("before", 1)
    async with kv.watch() as watch:
        await kv.put("after", 1)
        assert await told(watch, 1) == puts("after")
    lazy = kv.watch()
    assert lazy.position is None
    assert await lazy.read() == []
    await kv.put("later", 1)
    assert await told(lazy, 1) == puts("later")


@clause("events")
async def only_keys_of_the_prefix(kit: Kit) -> None:
    """Changes of other keys are left out; a clear concerns every prefix."""
    kv = kit.store.kv
    async with kv.watch("a/") as watch, kv.watch("a") as wider:
        await kv.put_many({"a/1": 1, "b": 1})
        for key in ("a", "A/1", "a%2F1", "aa/1", "a/"):
            await kv.put(key, 1)
        assert await told(watch, 2) == puts("a/1", "a/")
        await kv.clear()
        assert await told(watch, 1) == [("clear", None)]
        assert len(await told(wider, 6)) == 6


@clause("events")
async def hostile_names(kit: Kit) -> None:
    """Any key can be watched, whatever characters it has, and is the prefix of itself alone (G-4)."""
    kv = kit.store.kv
    async with kv.watch() as every:
        for key in HOSTILE:
            await kv.put(key, key)
        assert await told(every, len(HOSTILE)) == puts(*HOSTILE)
    for key in ("%", "_", "*", "a*", "[a]", "\\", "'", "\U0010ffff"):
        async with kv.watch(key) as one:
            await kv.put_many({"other": 1, f"x{key}": 1, f"{key}x": 1})
            assert await told(one, 1) == puts(f"{key}x")


@clause("events")
async def refused_input(kit: Kit) -> None:
    """A prefix or position that is none is refused, and so is a foreign or invented position (G-2)."""
    watch: Any = kit.store.kv.watch
    for bad in NOT_TEXT[1:]:
        with refused(StorageDataError, field="prefix"):
            watch(bad)
    for bad in (1, b"1", ["1"]):
        with refused(StorageDataError, field="after"):
            watch(after=bad)
    async with kit.store.kv.watch() as real:
        begun = str(real.position)
    for lost in ("", "0", "1", "-1", "x.1", ".", f"{begun}9999", f"x{begun}", "'; --", *TOO_LONG):
        with refused(StorageDataError, field="after"):
            await kit.store.kv.watch(after=lost).read()
    assert await kit.store.kv.watch(after=begun).read() == []


@clause("events")
async def one_namespace_only(kit: Kit) -> None:
    """Never a change of a parent, a child or a sibling, however alike their names are (G-10)."""
    names = ("a", "ab", "A", "a/b", "%", "_", "a%2Fb")
    stores = [kit.store, kit.store.namespace("a", "b"), *(kit.store.namespace(name) for name in names)]
    watches = [await store.kv.watch().__aenter__() for store in stores]
    for number, store in enumerate(stores):
        await store.kv.put(f"{number}", 1)
    for number, watch in enumerate(watches):
        assert await told(watch, 1) == puts(f"{number}")
    await stores[0].kv.clear()
    assert await told(watches[0], 1) == [("clear", None)]
    assert not any([await watch.read() for watch in watches])


@clause("events")
async def dropped_namespaces(kit: Kit) -> None:
    """Dropping a namespace clears each one in it that held something, and no other."""
    inside, below, empty = (kit.store.namespace(*names) for names in (("a",), ("a", "b"), ("a", "c")))
    beside = kit.store.namespace("ab")
    for store in (inside, below, beside):
        await store.kv.put("k", 1)
    watches = [await store.kv.watch().__aenter__() for store in (inside, below, empty, beside)]
    await kit.store.drop_namespace("a")
    assert await told(watches[0], 1) == await told(watches[1], 1) == [("clear", None)]
    assert not await watches[2].read()
    assert not await watches[3].read()


@clause("events")
async def many_changes(kit: Kit) -> None:
    """More than a page, read whole, in parts, and from any position again."""
    kv, keys = kit.store.kv, [f"{number:04}" for number in range(1200)]
    async with kv.watch() as watch:
        begun = watch.position
        for start in range(0, len(keys), 100):
            await kv.put_many(dict.fromkeys(keys[start : start + 100], 1))
        first = [await anext(watch) for _ in range(700)]
        position = watch.position
        assert position == first[-1].position
        rest: list[Change] = []
        while part := await watch.read(17):
            assert len(part) <= 17
            rest += part
    assert sorted(_short(first + rest), key=str) == puts(*keys)
    again = kv.watch(after=position)
    assert [await anext(again) for _ in rest] == rest
    assert not await again.read()
    assert _short([await anext(kv.watch(after=begun))]) == _short(first[:1])
    assert [await anext(kv.watch(after=first[41].position))] == first[42:43]


@clause("events")
async def waiting(kit: Kit) -> None:
    """A reader waits for the next change of its own namespace and prefix, and no longer than it is told."""
    kv = kit.store.kv
    async with kv.watch("a") as watch:
        waiting = asyncio.create_task(anext(watch))
        await asyncio.sleep(0.02)
        await kit.store.namespace("other").kv.put("a", 1)
        await kv.put("b", 1)
        assert not waiting.done()
        await kv.put("a", 1)
        assert _short([await asyncio.wait_for(waiting, PATIENCE)]) == puts("a")
        assert await watch.read(wait=0.01) == []


@clause("events")
async def a_cancelled_reader_loses_nothing(kit: Kit) -> None:
    """Cancelled at any moment, a reader goes on where it was."""
    kv = kit.store.kv
    async with kv.watch() as watch:
        seen: list[Change] = []
        writing = asyncio.create_task(_write(kit.store, 100))
        patience = 0.0
        while not writing.done() or len(seen) < 100:
            step = asyncio.create_task(anext(watch))
            await asyncio.wait([step], timeout=patience)
            step.cancel()
            found = (await asyncio.gather(step, return_exceptions=True))[0]
            if isinstance(found, Change):
                seen.append(found)
                patience = 0.0
                continue
            assert isinstance(found, asyncio.CancelledError)
            patience += 0.0005  # a slow engine gets there too
        assert _short(seen) == puts(*(f"{number}" for number in range(100)))


async def _write(store: Store, count: int) -> None:
    for number in range(count):
        await store.kv.put(f"{number}", number)


@clause("events")
async def many_writers_and_readers(kit: Kit) -> None:
    """Every reader sees every change exactly once, and those of one task in their order."""
    readers = [await kit.store.kv.watch().__aenter__() for _ in range(3)]

    async def write(task: int) -> None:
        for number in range(10):
            await kit.store.kv.put(f"{task}/{number}", 1)

    await kit.together(write)
    first, *others = [await told(reader, TASKS * 10) for reader in readers]
    assert all(other == first for other in others)
    for task in range(TASKS):
        own = [key for _, key in first if key is not None and key.startswith(f"{task}/")]
        assert own == [f"{task}/{number}" for number in range(10)]


@clause("events")
async def a_mirror_stays_right(kit: Kit) -> None:
    """Begin, load, then look at each key that changed: the copy ends equal to the data, whatever goes on meanwhile."""
    kv = kit.store.kv
    await kv.put_many({f"{number}": -1 for number in range(20)})

    async def write(task: int) -> None:
        for number in range(10):
            await kv.put(f"{(task + number) % 30}", number)
            await kv.delete(f"{(task * 7 + number) % 30}")

    writing = asyncio.create_task(kit.together(write))
    mirror: dict[str, Any] = {}
    async with kv.watch() as watch:
        async for entry in kv.entries():
            mirror[entry.key] = entry.value
        while not writing.done():
            await _follow(kit.store, watch, mirror)
        await writing
        await _follow(kit.store, watch, mirror)
    assert mirror == {entry.key: entry.value async for entry in kv.entries()}


async def _follow(store: Store, watch: Watch, mirror: dict[str, Any]) -> None:
    while changes := await watch.read(wait=0.005):
        for key in {change.key for change in changes if change.key is not None}:
            entry = await store.kv.entry(key)
            if entry is None:
                mirror.pop(key, None)
            else:
                mirror[key] = entry.value


@clause("events")
async def expired_records(kit: Kit) -> None:
    """What expires is told when it is removed, by the sweeper or by hand; written over, it is a put."""
    kv = kit.store.kv
    await kv.put_many({"swept": 1, "deleted": 1, "written": 1}, ttl=5)
    await kv.put("stays", 1, ttl=50)
    async with kv.watch() as watch:
        kit.clock.advance(6)
        assert not await kv.delete("deleted")
        await kv.put("written", 2)
        await kit.root.delete_expired()
        assert await told(watch, 3) == [("expire", "deleted"), ("put", "written"), ("expire", "swept")]


@clause("events", needs=lambda f: f.kept <= 100_000)
async def a_reader_too_far_behind(kit: Kit) -> None:
    """Beyond what the log keeps a reader is refused, or still gets everything: never a part. One close behind goes on."""
    kv, written = kit.store.kv, 0
    async with kv.watch() as behind, kv.watch() as close:
        while written < kit.features("events").kept + 2000:
            await kv.put_many({f"{number}": 1 for number in range(1000)})
            written += 1000
            await _rest(close, 1000)
        await kit.root.delete_expired()
        try:
            assert await _rest(behind, written) == written
        except StorageDataError as error:
            assert error.field == "after"  # noqa: PT017 - runs without pytest
        await kv.put("end", 1)
        assert await told(close, 1) == puts("end")


async def _rest(watch: Watch, expected: int) -> int:
    """How many changes there were to read; those expected may be told late, when others' transactions have ended."""
    count = 0
    while part := await watch.read(wait=PATIENCE if count < expected else 0):
        count += len(part)
    return count


@clause("events")
async def broken_connections(kit: Kit) -> None:
    """Reading and beginning are repeated after a failure, and still each change comes once."""
    faults = Faults()
    store = await kit.faulty(faults)
    faults.plan("events.begin", Fault.REFUSED, Fault.REPLY_LOST)
    async with store.kv.watch() as watch:
        await kit.store.kv.put("a", 1)
        faults.plan("events.read", Fault.REFUSED, Fault.REPLY_LOST)
        assert await told(watch, 1) == puts("a")
        assert faults.calls.count("events.begin") == 3
