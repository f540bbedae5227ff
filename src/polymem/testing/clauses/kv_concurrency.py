"""Key-value storage: many tasks, two instances, late writers, cancelled callers."""

import asyncio
from contextlib import suppress
from typing import Any

from polymem.contracts.kv import KeyValue
from polymem.errors import StorageConflictError, StorageNotFoundError
from polymem.testing.clause import clause
from polymem.testing.expect import listed, refused
from polymem.testing.kit import TASKS, Kit

ROUNDS = 10


async def _add_one(kv: KeyValue[Any]) -> None:
    """Read, add, compare and set, until it works."""
    while True:
        entry = await kv.entry("n")
        await asyncio.sleep(0)  # so that others come in between
        with suppress(StorageConflictError):
            if entry is None:
                await kv.compare_and_set("n", None, 1)
            else:
                await kv.compare_and_set("n", entry.version, entry.value + 1)
            return


@clause("kv")
async def compare_and_set_loses_nothing(kit: Kit) -> None:
    """Many tasks that count by compare_and_set count everything."""

    async def work(_: int) -> None:
        for _ in range(ROUNDS):
            await _add_one(kit.store.kv)

    await kit.together(work, 8)
    assert await kit.store.kv.get("n") == 8 * ROUNDS


@clause("kv", uses=["shared"])
async def compare_and_set_by_two_instances(kit: Kit) -> None:
    """Neither of two instances loses the other's updates."""
    stores = [kit.store, await kit.second()]

    async def work(number: int) -> None:
        for _ in range(ROUNDS):
            await _add_one(stores[number % 2].kv)

    await kit.together(work, 8)
    assert await stores[0].kv.get("n") == await stores[1].kv.get("n") == 8 * ROUNDS


@clause("kv")
async def increment_loses_nothing(kit: Kit) -> None:
    """Every one of many concurrent increments counts and gets a result of its own."""

    async def work(_: int) -> list[int]:
        return [await kit.store.kv.increment("n") for _ in range(ROUNDS)]

    results = [result for some in await kit.together(work) for result in some]
    assert sorted(results) == list(range(1, TASKS * ROUNDS + 1))


@clause("kv", uses=["shared"])
async def increment_by_two_instances(kit: Kit) -> None:
    """The same with two instances."""
    stores = [kit.store, await kit.second()]

    async def work(number: int) -> list[int]:
        return [await stores[number % 2].kv.increment("n") for _ in range(ROUNDS)]

    results = [result for some in await kit.together(work) for result in some]
    assert sorted(results) == list(range(1, TASKS * ROUNDS + 1))


@clause("kv")
async def one_creator_wins(kit: Kit) -> None:
    """Of many concurrent creates one succeeds, and its value is there."""

    async def work(number: int) -> int | None:
        with suppress(StorageConflictError):
            await kit.store.kv.create("a", number)
            return number
        return None

    winners = [number for number in await kit.together(work) if number is not None]
    assert winners == [await kit.store.kv.get("a")]


@clause("kv")
async def one_deleter_wins(kit: Kit) -> None:
    """Of many concurrent deletes one says that it removed something."""
    for _ in range(5):
        await kit.store.kv.put("a", 1)
        assert sum(await kit.together(lambda _: kit.store.kv.delete("a"))) == 1


@clause("kv")
async def a_task_sees_its_own_writes(kit: Kit) -> None:
    """Whatever runs beside it, a task reads what it has just written, and its last write stays."""
    kv = kit.store.kv

    async def work(number: int) -> None:
        for step in range(ROUNDS):
            await kv.put(f"{number}", step)
            assert await kv.get(f"{number}") == step
            await kv.delete(f"{number}")
            assert await kv.get(f"{number}") is None
            await kv.put(f"{number}", -step)

    await kit.together(work)
    assert await kv.get_many([f"{n}" for n in range(TASKS)]) == {f"{n}": 1 - ROUNDS for n in range(TASKS)}


@clause("kv", uses=["shared"])
async def the_other_instance_sees_it(kit: Kit) -> None:
    """What one instance was told is written, another one reads: values, deletions and expiry alike."""
    other = await kit.second()
    for step in range(5):
        await kit.store.kv.put("a", step)
        assert await other.kv.get("a") == step
        await other.kv.put("a", -step, ttl=1)
        assert await kit.store.kv.get("a") == -step
    assert await other.kv.delete("a")
    assert not await kit.store.kv.exists("a")


@clause("kv", needs=lambda f: f.atomic_batches)
async def batches_are_whole(kit: Kit) -> None:
    """Concurrent put_many calls over the same keys leave the items of one of them, never a mixture."""
    keys = [f"{number}" for number in range(50)]
    await kit.together(lambda n: kit.store.kv.put_many(dict.fromkeys(keys[n:] + keys[:n], n)))
    assert len(set((await kit.store.kv.get_many(keys)).values())) == 1


@clause("kv")
async def late_writer(kit: Kit) -> None:
    """A writer that read long ago cannot overwrite what happened since: a new value, a deletion, a new life."""
    kv = kit.store.kv
    read = await kv.put("a", "read")
    await kv.put("a", "newer")
    with refused(StorageConflictError, field="expected_version"):
        await kv.compare_and_set("a", read, "late")
    assert await kv.get("a") == "newer"
    await kv.delete("a")
    with refused(StorageConflictError):
        await kv.compare_and_set("a", read, "late")
    with refused(StorageNotFoundError):
        await kv.update("a", "late")
    await kv.create("a", "read")
    with refused(StorageConflictError):
        await kv.compare_and_set("a", read, "late")
    assert await kv.get("a") == "read"


@clause("kv")
async def late_writer_after_expiry(kit: Kit) -> None:
    """Nor can it bring an expired value back."""
    kv = kit.store.kv
    read = await kv.put("a", 1, ttl=1)
    kit.clock.advance(1)
    with refused(StorageConflictError):
        await kv.compare_and_set("a", read, 2)
    assert not await kv.exists("a")


@clause("kv")
async def cancelled_callers(kit: Kit) -> None:
    """A cancelled write happened whole or not at all, the others are not disturbed, and the store goes on (G-8)."""
    kv = kit.store.kv
    await kv.put_many({f"{number}": "old" for number in range(40)})
    tasks = [asyncio.create_task(kv.put(f"{number}", "new")) for number in range(40)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    values = await kv.get_many([f"{number}" for number in range(40)])
    for number, result in enumerate(done):
        assert values[f"{number}"] in ({"old", "new"} if isinstance(result, asyncio.CancelledError) else {"new"})
        assert isinstance(result, (int, asyncio.CancelledError))
    await kv.put("after", 1)
    assert await kv.get("after") == 1


@clause("kv", needs=lambda f: f.atomic_batches)
async def cancelled_batch(kit: Kit) -> None:
    """A cancelled put_many leaves all of its items or none."""
    kv = kit.store.kv
    for pauses in range(6):
        await kv.clear()
        task = asyncio.create_task(kv.put_many({f"{number}": pauses for number in range(100)}))
        for _ in range(pauses):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await kv.put("x", 0)  # what was under way is over when a later write is
        assert await kv.count() in (1, 101)


@clause("kv")
async def many_readers_and_writers(kit: Kit) -> None:
    """Reads, listings and writes at once: every read is a value that was written, every listing has what stays."""
    kv = kit.store.kv
    await kv.put_many({f"stay{number}": number for number in range(20)})

    async def work(number: int) -> None:
        for step in range(ROUNDS):
            await kv.put("hot", [number, step])
            value = await kv.get("hot")
            assert isinstance(value, list)
            assert 0 <= value[0] < TASKS
            assert 0 <= value[1] < ROUNDS
            assert len(await listed(kv.scan("stay"))) == 20

    await kit.together(work)
