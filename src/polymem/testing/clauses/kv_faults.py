"""Key-value storage behind a failing connection: what was acknowledged is there, and nothing is done twice (RES-1)."""

import asyncio

from polymem.errors import (
    Outcome,
    StorageConflictError,
    StorageConnectionError,
    StorageCorruptError,
    StorageQueryError,
)
from polymem.testing.clause import clause
from polymem.testing.expect import refused
from polymem.testing.faults import Fault, Faults
from polymem.testing.kit import Kit


@clause("kv")
async def put_is_repeated(kit: Kit) -> None:
    """An idempotent write goes through after a refusal, a loss or a lost reply; it is acknowledged once and is there."""
    for fault in (Fault.REFUSED, Fault.LOST, Fault.REPLY_LOST):
        faults = Faults()
        faults.plan("kv.put", fault)
        store = await kit.faulty(faults)
        version = await store.kv.put("a", fault.value)
        entry = await kit.store.kv.entry("a")
        assert entry is not None
        assert (entry.value, entry.version) == (fault.value, version)
        assert faults.calls == ["kv.put", "kv.put"]


@clause("kv")
async def reads_are_repeated(kit: Kit) -> None:
    """A read is tried again whatever happened to it, and gives up after the last attempt."""
    await kit.store.kv.put("a", 1)
    faults = Faults()
    store = await kit.faulty(faults)
    for fault in (Fault.REFUSED, Fault.LOST, Fault.REPLY_LOST):
        faults.plan("kv.get", fault)
        assert await store.kv.get("a") == 1
    faults.plan("kv.get", *[Fault.LOST] * 3)
    with refused(StorageConnectionError):
        await store.kv.get("a")


@clause("kv")
async def create_whose_reply_is_lost_for_good(kit: Kit) -> None:
    """Where it cannot be looked up either what became of it, the outcome stays unknown."""
    faults = Faults()
    store = await kit.faulty(faults)
    faults.plan("kv.create", Fault.REPLY_LOST)
    faults.plan("kv.entry", *[Fault.REFUSED] * 3)
    with refused(StorageConnectionError) as caught:
        await store.kv.create("a", 1)
    assert (caught.error.outcome, caught.error.operation) == (Outcome.UNKNOWN, "kv.create")


@clause("kv")
async def compare_and_set_after_a_lost_reply(kit: Kit) -> None:
    """It re-reads: its own version in place is success, and it is not sent twice."""
    faults = Faults()
    store = await kit.faulty(faults)
    old = await store.kv.put("a", 1)
    faults.plan("kv.replace", Fault.REPLY_LOST)
    new = await store.kv.compare_and_set("a", old, 2)
    faults.plan("kv.create", Fault.REPLY_LOST)
    created = await store.kv.create("b", 3)
    for key, value, version in (("a", 2, new), ("b", 3, created)):
        entry = await kit.store.kv.entry(key)
        assert entry is not None
        assert (entry.value, entry.version) == (value, version)
    assert faults.calls.count("kv.replace") == faults.calls.count("kv.create") == 1


@clause("kv")
async def compare_and_set_that_never_arrived(kit: Kit) -> None:
    """Where its own version is not found the outcome is unknown, said as a conflict that tells what is there."""
    faults = Faults()
    store = await kit.faulty(faults)
    old = await store.kv.put("a", 1)
    faults.plan("kv.replace", Fault.LOST)
    with refused(StorageConflictError) as caught:
        await store.kv.compare_and_set("a", old, 2)
    assert caught.error.outcome is Outcome.UNKNOWN
    assert "another value is stored" in str(caught.error)
    faults.plan("kv.create", Fault.LOST)
    with refused(StorageConflictError) as caught:
        await store.kv.create("b", 1)
    assert caught.error.outcome is Outcome.UNKNOWN
    assert "nothing is stored" in str(caught.error)
    assert not await kit.store.kv.exists("b")
    assert await kit.store.kv.get("a") == 1
    assert faults.calls.count("kv.replace") == 1


@clause("kv")
async def a_refused_call_is_repeated(kit: Kit) -> None:
    """What surely was not sent is sent again, idempotent or not."""
    faults = Faults()
    store = await kit.faulty(faults)
    old = await store.kv.put("a", 1)
    for operation in ("replace", "create", "increment", "delete", "update", "delete_many"):
        faults.plan(f"kv.{operation}", Fault.REFUSED)
    await store.kv.compare_and_set("a", old, 2)
    await store.kv.create("b", 1)
    assert await store.kv.increment("n") == 1
    await store.kv.update("a", 3)
    assert await store.kv.delete("a")
    assert await store.kv.delete_many(["b", "n"]) == 2


@clause("kv")
async def increment_is_never_done_twice(kit: Kit) -> None:
    """After a lost reply the caller is told that the outcome is unknown; the counter moved once."""
    faults = Faults()
    store = await kit.faulty(faults)
    for operation in ("increment", "create", "replace"):  # a layer may count by compare and set
        faults.plan(f"kv.{operation}", Fault.REPLY_LOST)
    with refused(StorageConnectionError) as caught:
        await store.kv.increment("n")
    assert caught.error.outcome is Outcome.UNKNOWN
    assert await kit.store.kv.get("n") == 1
    assert [call for call in faults.calls if call != "kv.entry"] in (["kv.increment"], ["kv.create"])


@clause("kv")
async def an_answer_is_final(kit: Kit) -> None:
    """An error the engine answered with is handed on at once, with engine and operation."""
    faults = Faults()
    store = await kit.faulty(faults)
    faults.plan("kv.put", Fault.REJECTED)
    with refused(StorageQueryError) as caught:
        await store.kv.put("a", 1)
    assert (caught.error.engine, caught.error.operation) == (kit.store.engine.name, "kv.put")
    assert faults.calls == ["kv.put"]
    assert not await kit.store.kv.exists("a")


@clause("kv")
async def damage_is_never_absence(kit: Kit) -> None:
    """A value that arrives damaged is an error, not a missing key or another value."""
    faults = Faults()
    store = await kit.faulty(faults)
    await store.kv.put("a", {"n": 1})
    for operation, call in (
        ("get", store.kv.get),
        ("entry", store.kv.entry),
        ("get_many", lambda k: store.kv.get_many([k])),
    ):
        faults.plan(f"kv.{operation}", Fault.GARBAGE)
        with refused(StorageCorruptError):
            await call("a")
    assert await store.kv.get("a") == {"n": 1}


@clause("kv")
async def acknowledged_is_there(kit: Kit) -> None:
    """Over a bad connection every put that returned is there, and one that raised says what became of it."""
    faults = Faults()
    store = await kit.faulty(faults)
    kinds = [Fault.REFUSED, Fault.LOST, Fault.REPLY_LOST, None, None]
    told: dict[str, bool | None] = {}
    for number in range(60):
        planned = [kinds[(number + step * 2) % 5] for step in range(3)]
        faults.plan("kv.put", *[fault for fault in planned if fault is not None])
        try:
            await store.kv.put(f"{number}", number)
            told[f"{number}"] = True
        except StorageConnectionError as error:
            told[f"{number}"] = False if error.outcome is Outcome.NOT_APPLIED else None
    for key, outcome in told.items():
        there = await kit.store.kv.get(key) == int(key)
        assert there == outcome or outcome is None, key


@clause("kv")
async def cancelled_while_waiting(kit: Kit) -> None:
    """A cancellation passes untouched through a slow call, which is not repeated; the store goes on."""
    faults = Faults()
    store = await kit.faulty(faults)
    faults.plan("kv.put", Fault.SLOW)
    task = asyncio.create_task(store.kv.put("a", 1))
    await faults.seen.wait()
    task.cancel()
    result = (await asyncio.gather(task, return_exceptions=True))[0]
    assert isinstance(result, asyncio.CancelledError)
    faults.go.set()
    assert faults.calls == ["kv.put"]
    assert not await kit.store.kv.exists("a")
    await store.kv.put("a", 2)
    assert await kit.store.kv.get("a") == 2
