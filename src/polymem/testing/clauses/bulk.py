"""Bulk work on key-value records: loads, exports and batches with an outcome for each operation (BLK-1)."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any, Final

from polymem.contracts._kv_bulk import CHUNK_RECORDS
from polymem.contracts.bulk import (
    BulkRecord,
    CompareAndSet,
    Create,
    Delete,
    Increment,
    LoadReport,
    Operation,
    Put,
    Touch,
    Update,
)
from polymem.errors import (
    Outcome,
    StorageConflictError,
    StorageConnectionError,
    StorageDataError,
    StorageNotFoundError,
    StorageQueryError,
)
from polymem.store import Store
from polymem.testing.clause import clause
from polymem.testing.expect import listed, refused, same
from polymem.testing.faults import Fault, Faults
from polymem.testing.kit import Kit

_MANY: Final = 2 * CHUNK_RECORDS + 50
_VALUES: Final[tuple[Any, ...]] = (
    None,
    {},
    0,
    "",
    False,
    [[]],
    {"a": {"b": [1, None]}},
    2**63 - 1,
    -0.5,
    "\u00e9\U0001f600",
    "x" * 5000,
)


def _numbered(count: int, *, start: int = 0) -> Iterator[tuple[str, Any]]:
    return ((f"k{number:05}", {"n": number}) for number in range(start, count))


async def _stored(store: Store) -> dict[str, Any]:
    return {record.key: record.value async for record in store.kv.bulk_export()}


@clause("kv")
async def bulk_load_stores_everything(kit: Kit) -> None:
    """From plain and asynchronous iterables, in chunks; the report counts, and other namespaces are left alone."""

    async def trickle() -> AsyncIterator[tuple[str, Any]]:
        for record in _numbered(_MANY):
            yield record

    sources: dict[str, Any] = {"plain": _numbered(_MANY), "asynchronous": trickle()}
    for name, records in sources.items():
        space = kit.store.namespace(name)
        report = await space.kv.bulk_load(records)
        assert (report.loaded, report.failed, report.position) == (_MANY, 0, _MANY)
        assert report.bytes > _MANY
        assert await space.kv.count() == _MANY
        assert await _stored(space) == dict(_numbered(_MANY))
    assert await kit.store.kv.count() == 0


@clause("kv")
async def bulk_load_keeps_every_value(kit: Kit) -> None:
    """Values are those that single puts store, versions are new ones, and the last record of a key wins."""
    await kit.store.kv.put("0", "old")
    before = await kit.store.kv.entry("0")
    values = {f"{number}": value for number, value in enumerate(_VALUES)}
    await kit.store.kv.bulk_load([("0", "overwritten"), *values.items()])
    assert same(await _stored(kit.store), values)
    after = await kit.store.kv.entry("0")
    assert before is not None
    assert after is not None
    assert before.version != after.version


@clause("kv")
async def bulk_load_keeps_expiry(kit: Kit) -> None:
    """Records of one chunk may expire at different instants, or never; a ttl of the load is for those without one."""
    kv = kit.store.kv
    await kv.put("was", 0, ttl=5)
    records: list[Any] = [("was", 1), ("two", 2, 2), ("three", 3, timedelta(seconds=3)), ("never", 4, None)]
    await kv.bulk_load(records)
    await kit.store.namespace("default").kv.bulk_load([("a", 1), ("b", 2, 10)], ttl=5)
    for seconds, left in ((2, {"was", "three", "never"}), (1, {"was", "never"}), (2, {"was", "never"})):
        kit.clock.advance(seconds)
        assert set(await _stored(kit.store)) == left
    assert await _stored(kit.store.namespace("default")) == {"b": 2}


@clause("kv")
async def bulk_load_names_bad_records(kit: Kit) -> None:
    """By their number in the source and the field; nothing of their chunk is stored, what came before is."""
    bad: list[tuple[Any, str]] = [
        (("", 1), "key"), (("\x00", 1), "key"), ((None, 1), "key"), (("k", float("nan")), "value"), (("k", b""), "value"),
        (("k", 1, "soon"), "ttl"), (("k",), "record"), ("k", "record"), (("k", 1, 2, 3), "record"),
    ]  # fmt: skip
    for number, (record, field) in enumerate(bad):
        space = kit.store.namespace(f"{number}")
        with refused(StorageDataError, field=field) as caught:
            await space.kv.bulk_load([*_numbered(CHUNK_RECORDS + 5), record, ("after", 1)])
        assert f"record {CHUNK_RECORDS + 6}" in str(caught.error)
        assert await _stored(space) == dict(_numbered(CHUNK_RECORDS))


@clause("kv")
async def bulk_load_collects_bad_records(kit: Kit) -> None:
    """With `on_error="collect"` they are left out, counted and named; all others are stored."""
    records = [("a", 1), ("", 2), ("b", 3), ("c", float("nan")), ("d", 5)]
    report = await kit.store.kv.bulk_load(records, on_error="collect")
    assert (report.loaded, report.failed, report.position) == (3, 2, 5)
    assert [(one.position, one.field, one.where) for one in report.errors] == [
        (2, "key", "record 2"), (4, "value", "record 4"),
    ]  # fmt: skip
    assert await _stored(kit.store) == {"a": 1, "b": 3, "d": 5}


@clause("kv")
async def bulk_load_tells_how_far_it_is(kit: Kit) -> None:
    """After every chunk; whatever the report counts is stored by then. A coroutine function is awaited."""
    seen: list[tuple[int, int]] = []

    async def progress(report: LoadReport) -> None:
        seen.append((report.position, await kit.store.kv.count()))

    await kit.store.kv.bulk_load(_numbered(_MANY), progress=progress)
    assert len(seen) > _MANY // CHUNK_RECORDS
    assert all(position <= stored for position, stored in seen)
    assert seen[-1] == (_MANY, _MANY)


@clause("kv")
async def a_cancelled_bulk_load_leaves_whole_chunks(kit: Kit) -> None:
    """What its report counts is stored and nothing else, then or later; `skip` goes on from there."""
    faults, seen = Faults(), [LoadReport()]
    faults.plan("kv.put_many", Fault.SLOW)
    store = await kit.faulty(faults)
    loading = asyncio.create_task(store.kv.bulk_load(_numbered(_MANY), progress=seen.append))
    await faults.seen.wait()
    for _ in range(200):  # until the next chunk is made and waits for the first one
        await asyncio.sleep(0)
    for _ in range(2):
        loading.cancel()
        await asyncio.sleep(0)
    faults.go.set()
    await asyncio.gather(loading, return_exceptions=True)
    assert loading.cancelled()
    done = seen[-1].position
    assert done == CHUNK_RECORDS
    assert await _stored(kit.store) == dict(_numbered(done))
    report = await kit.store.kv.bulk_load(_numbered(_MANY), skip=done)
    assert (report.skipped, report.loaded) == (done, _MANY - done)
    assert await _stored(kit.store) == dict(_numbered(_MANY))


@clause("kv")
async def a_bulk_load_that_fails_says_how_far_it_was(kit: Kit) -> None:
    """The error of the engine comes out, nothing later is written, and loading all of it again is as good."""
    faults = Faults()
    store = await kit.faulty(faults)
    await store.kv.bulk_load(_numbered(CHUNK_RECORDS))
    faults.plan("kv.put_many", Fault.REJECTED)
    with refused(StorageQueryError) as caught:
        await store.kv.bulk_load(_numbered(_MANY, start=CHUNK_RECORDS))
    assert "go on with skip=0" in str(caught.error.__notes__)
    assert await _stored(kit.store) == dict(_numbered(CHUNK_RECORDS))
    await store.kv.bulk_load(_numbered(_MANY))
    assert await _stored(kit.store) == dict(_numbered(_MANY))


@clause("kv")
async def bad_options_of_a_bulk_load(kit: Kit) -> None:
    """They are the caller's: named by field, with nothing written (G-2)."""
    kv: Any = kit.store.kv
    for field, value in (("on_error", "ignore"), ("skip", -1), ("skip", "1"), ("ttl", True), ("ttl", "1")):
        with refused(StorageDataError, field=field):
            await kv.bulk_load([("a", 1)], **{field: value})
    for records in ("ab", {"a": 1}, None, 5):
        with refused(StorageDataError, field="records"):
            await kv.bulk_load(records)
    assert await kv.count() == 0


@clause("kv")
async def bulk_export_gives_what_bulk_load_takes(kit: Kit) -> None:
    """Live records of this namespace and prefix, with their expiry: loaded elsewhere they are the same."""
    kv, copy = kit.store.kv, kit.store.namespace("copy")
    await kv.bulk_load([("a1", 1), ("a2", None, 10), ("b", {}), ("gone", 1, 1)])
    kit.clock.advance(1)
    found: list[BulkRecord[Any]] = sorted(await listed(kv.bulk_export()))
    assert [(one.key, one.value) for one in found] == [("a1", 1), ("a2", None), ("b", {})]
    assert [one.expires_at is None for one in found] == [True, False, True]
    await copy.kv.bulk_load(kv.bulk_export())
    assert sorted(await listed(copy.kv.bulk_export())) == found
    kit.clock.advance(9)
    assert await _stored(copy) == {"a1": 1, "b": {}}


@clause("kv", needs=lambda f: f.ordered)
async def bulk_export_of_a_prefix(kit: Kit) -> None:
    """It lists what `scan` lists, in order, over many pages."""
    await kit.store.kv.bulk_load([*_numbered(_MANY), ("other", 1)])
    assert [one.key async for one in kit.store.kv.bulk_export("k")] == [key for key, _ in _numbered(_MANY)]


@clause("kv")
async def batch_write_has_an_outcome_for_each_operation(kit: Kit) -> None:
    """In the order given: the result of the call of that name or the error it met, which stops no other."""
    kv = kit.store.kv
    version = await kv.put("there", 1)
    await kv.put("n", 5)
    operations: list[Operation] = [
        Put("new", {"a": 1}), Create("made", 1), Create("there", 2), Update("absent", 1), Increment("n", 2),
        Touch("absent", 5), Touch("n", 5), Delete("absent"), CompareAndSet("gone", 12345, 1), Put("", 1),
        CompareAndSet("there", version, 3), Delete("new"),
    ]  # fmt: skip
    result = await kv.batch_write(operations)
    assert [one.operation for one in result.outcomes] == operations
    errors = {2: StorageConflictError, 3: StorageNotFoundError, 8: StorageConflictError, 9: StorageDataError}
    assert {at: type(one.error) for at, one in enumerate(result.outcomes) if one.error is not None} == errors
    assert [one.state for one in result.failed] == [Outcome.NOT_APPLIED] * 4
    assert [result.outcomes[at].result for at in (4, 5, 6, 7, 11)] == [7, False, True, False, True]
    stored = await kv.entry("there")
    assert stored is not None
    assert (stored.value, stored.version) == (3, result.outcomes[10].result)
    assert await _stored(kit.store) == {"made": 1, "there": 3, "n": 7}
    kit.clock.advance(5)
    assert not await kv.exists("n")


@clause("kv")
async def batch_write_keeps_the_order_of_a_key(kit: Kit) -> None:
    """Operations on one key take effect one after another, whatever happens to those on others."""
    operations: list[Operation] = []
    for key in (f"k{number}" for number in range(50)):
        operations += [Put(key, 1), Increment(key, 10), Delete(key), Create(key, 0), *[Increment(key)] * 3]
    result = await kit.store.kv.batch_write(operations)
    assert not result.failed
    assert await _stored(kit.store) == {f"k{number}": 3 for number in range(50)}


@clause("kv")
async def batch_write_says_what_is_not_known(kit: Kit) -> None:
    """A lost reply makes the outcome of that operation unknown, and of no other."""
    await kit.store.kv.put("a", 1)
    faults = Faults()
    faults.plan("kv.delete", Fault.REPLY_LOST)
    store = await kit.faulty(faults)
    result = await store.kv.batch_write([Delete("a"), Put("b", 2)])
    assert [one.state for one in result.outcomes] == [Outcome.UNKNOWN, Outcome.APPLIED]
    assert type(result.outcomes[0].error) is StorageConnectionError
    assert await _stored(kit.store) == {"b": 2}


@clause("kv")
async def a_cancelled_batch_does_nothing_more(kit: Kit) -> None:
    """Operations that had not begun, the later ones of the key under way too, are never carried out."""
    faults = Faults()
    faults.plan("kv.create", Fault.SLOW)
    store = await kit.faulty(faults)
    batch = asyncio.create_task(store.kv.batch_write([Create("a", 1), Increment("a", 5), Put("a", 2)]))
    await faults.seen.wait()
    batch.cancel()
    await asyncio.gather(batch, return_exceptions=True)
    faults.go.set()
    assert batch.cancelled()
    assert [call for call in faults.calls if call != "kv.create"] == []
    assert await _stored(kit.store) == {}


@clause("kv")
async def what_is_no_operation_is_refused(kit: Kit) -> None:
    """By its place in the batch, before anything is written (G-2)."""
    kv: Any = kit.store.kv
    assert (await kv.batch_write([])).outcomes == ()
    for operation in (("a", 1), "a", None, {"put": "a"}):
        with refused(StorageDataError, field="operations"):
            await kv.batch_write([Put("a", 1), operation])
    for operations in ("ab", None, 5):
        with refused(StorageDataError, field="operations"):
            await kv.batch_write(operations)
    assert await kv.count() == 0


@clause("kv", uses=["transactions"])
async def bulk_work_in_a_transaction(kit: Kit) -> None:
    """All of it or nothing: an error undoes the batch and the load before it."""
    await kit.store.kv.put("there", 1)
    with refused(StorageConflictError):
        async with kit.store.transaction(timeout=30) as tx:
            await tx.kv.bulk_load(_numbered(CHUNK_RECORDS + 5))
            assert await tx.kv.count() == CHUNK_RECORDS + 6
            (await tx.kv.batch_write([Delete("there"), Put("new", 1), Create("k00000", 1)])).raise_first()
    assert await _stored(kit.store) == {"there": 1}
    async with kit.store.transaction(timeout=30) as tx:
        await tx.kv.bulk_load(_numbered(CHUNK_RECORDS + 5))
        (await tx.kv.batch_write([Delete("there"), Put("new", 1)])).raise_first()
    assert await _stored(kit.store) == {**dict(_numbered(CHUNK_RECORDS + 5)), "new": 1}
