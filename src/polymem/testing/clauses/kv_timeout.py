"""Key-value calls with a deadline of their own (RES-1, G-9)."""

import asyncio
from contextlib import suppress
from typing import Any

from polymem.errors import Outcome, StorageDataError, StorageTimeoutError
from polymem.store import Store
from polymem.testing.clause import clause
from polymem.testing.expect import refused
from polymem.testing.faults import Fault, Faults
from polymem.testing.kit import TASKS, Kit

SOON = 0.005
ENOUGH = 60.0


@clause("kv")
async def time_enough(kit: Kit) -> None:
    """A deadline that is met changes no answer."""
    kv = kit.store.kv
    version = await kv.put("a", 1, timeout=ENOUGH)
    assert await kv.put_many({"b": 2, "c": 3}, timeout=ENOUGH)
    assert await kv.create("d", 4, timeout=ENOUGH)
    assert await kv.compare_and_set("a", version, 10, timeout=ENOUGH)
    assert await kv.update("b", 20, timeout=ENOUGH)
    assert await kv.increment("c", timeout=ENOUGH) == 4
    assert await kv.touch("d", ttl=60, timeout=ENOUGH)
    assert await kv.ttl("a", timeout=ENOUGH) is None
    assert (await kv.get("a", timeout=ENOUGH), await kv.get("x", 0, timeout=ENOUGH)) == (10, 0)
    assert await kv.get_many(["a", "b"], timeout=ENOUGH) == {"a": 10, "b": 20}
    entry = await kv.entry("d", timeout=ENOUGH)
    assert entry is not None
    assert entry.value == 4
    assert await kv.exists("d", timeout=ENOUGH)
    assert await kv.count(timeout=ENOUGH) == len((await kv.page(timeout=ENOUGH))[0]) == 4
    assert await kv.delete("a", timeout=ENOUGH)
    assert await kv.delete_many(["b", "c"], timeout=ENOUGH) == 2
    assert await kv.clear(timeout=ENOUGH) == 1


@clause("query")
async def time_enough_for_queries(kit: Kit) -> None:
    """A deadline that is met changes no answer."""
    kv = kit.store.kv
    await kv.put("a", {"n": 1})
    assert await kv.count(where={"n": 1}, timeout=ENOUGH) == 1
    found = await kv.find_one({"n": 1}, timeout=ENOUGH)
    assert found is not None
    assert await kv.find_many({"n": 1}, timeout=ENOUGH) == ([found], None)
    assert (await kv.aggregate({"sum": ("sum", "n")}, timeout=ENOUGH))[0].values == {"sum": 1}
    await kv.explain({"n": 1}, timeout=ENOUGH)
    if kit.features("query").indexes:
        name = await kv.create_index("n", timeout=ENOUGH)
        assert [index.name for index in await kv.list_indexes(timeout=ENOUGH)] == [name]
        assert await kv.drop_index(name, timeout=ENOUGH)


@clause("query")
async def a_late_query(kit: Kit) -> None:
    """A query past its deadline is a timeout that changed nothing."""
    faults = Faults()
    store = await kit.faulty(faults)
    for operation, late in (
        ("find", store.kv.find_one({"n": 1}, timeout=SOON)),
        ("find", store.kv.find_many({"n": 1}, timeout=SOON)),
        ("aggregate", store.kv.aggregate({"n": "count"}, timeout=SOON)),
        ("explain", store.kv.explain({"n": 1}, timeout=SOON)),
    ):
        faults.plan(f"query.{operation}", Fault.SLOW)
        with refused(StorageTimeoutError) as caught:
            await late
        assert (caught.error.outcome, caught.error.operation) == (Outcome.NOT_APPLIED, f"query.{operation}")
    for bad in (0, -1, "1", True):
        with refused(StorageDataError, field="timeout"):
            await store.kv.find_one({"n": 1}, timeout=bad)  # type: ignore[arg-type]


@clause("kv")
async def a_late_read(kit: Kit) -> None:
    """A read past its deadline is a timeout that changed nothing; it is not tried again, and counted as an error."""
    await kit.store.kv.put("a", 1)
    faults = Faults()
    store = await kit.faulty(faults)
    faults.plan("kv.get", Fault.SLOW)
    with refused(StorageTimeoutError) as caught:
        await store.kv.get("a", timeout=SOON)
    assert isinstance(caught.error, TimeoutError)
    assert (caught.error.outcome, caught.error.operation) == (Outcome.NOT_APPLIED, "kv.get")
    assert faults.calls == ["kv.get"]
    assert _counted(store, "kv.get") == ({"StorageTimeoutError": 1}, 0, 0)
    assert await store.kv.get("a", timeout=ENOUGH) == 1


@clause("kv")
async def a_late_write(kit: Kit) -> None:
    """What became of a write past its deadline is not known; it is not sent again, not even by compare_and_set."""
    faults = Faults()
    store = await kit.faulty(faults)
    old = await kit.store.kv.put("b", 1)
    faults.plan("kv.put", Fault.SLOW)
    faults.plan("kv.replace", Fault.SLOW)
    with refused(StorageTimeoutError) as caught:
        await store.kv.put("a", 1, timeout=SOON)
    assert caught.error.outcome is Outcome.UNKNOWN
    with refused(StorageTimeoutError) as caught:
        await store.kv.compare_and_set("b", old, 2, timeout=SOON)
    assert caught.error.outcome is Outcome.UNKNOWN
    assert faults.calls == ["kv.put", "kv.replace"]
    assert _counted(store, "kv.put") == ({"StorageTimeoutError": 1}, 0, 0)


def _counted(store: Store, operation: str) -> tuple[dict[str, int], int, int]:
    figures = store.metrics()["operations"][operation]
    return figures["errors"], figures["cancelled_count"], figures["in_flight"]


@clause("kv")
async def a_cancelled_caller_is_no_timeout(kit: Kit) -> None:
    """Cancelling a call with a deadline cancels it, and counts as that."""
    faults = Faults()
    store = await kit.faulty(faults)
    faults.plan("kv.get", Fault.SLOW)
    task = asyncio.create_task(store.kv.get("a", timeout=ENOUGH))
    await faults.seen.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert _counted(store, "kv.get") == ({}, 1, 0)


@clause("kv")
async def others_are_not_disturbed(kit: Kit) -> None:
    """Callers who run out of time take nobody with them, nor anything that was acknowledged."""
    kv = kit.store.kv

    async def write(number: int) -> bool:
        try:
            await kv.put(f"k{number}", number, timeout=1e-6 if number % 2 else None)
        except StorageTimeoutError as error:
            assert number % 2
            assert error.outcome is Outcome.UNKNOWN  # noqa: PT017 - runs without pytest
            return False
        return True

    written = await kit.together(write, 2 * TASKS)
    found = await kv.get_many([f"k{number}" for number in range(2 * TASKS)])
    assert all(found[f"k{number}"] == number for number, done in enumerate(written) if done)
    assert all(written[::2])


@clause("kv")
async def a_reply_lost_in_time(kit: Kit) -> None:
    """compare_and_set with a deadline still looks whether its own value is in place."""
    faults = Faults()
    store = await kit.faulty(faults)
    faults.plan("kv.create", Fault.REPLY_LOST)
    assert await store.kv.create("a", 1, timeout=ENOUGH)


@clause("kv")
async def deadlines_that_are_none(kit: Kit) -> None:
    """Anything but seconds above 0 is refused naming `timeout`, and nothing is written (G-2)."""
    kv: Any = kit.store.kv
    for timeout in (0, -1, float("nan"), True, "1"):
        with refused(StorageDataError, field="timeout"):
            await kv.get("a", timeout=timeout)
        with refused(StorageDataError, field="timeout"):
            await kv.put("a", 1, timeout=timeout)
    assert await kv.get("a") is None
