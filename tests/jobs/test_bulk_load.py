"""`kv.bulk_load` and `kv.bulk_export` (BLK-1)."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from jobs.bulk_rows import stored

import polymem
from polymem.contracts import _kv_bulk
from polymem.contracts.bulk import BulkRecord, LoadReport
from polymem.core.clock import ManualClock
from polymem.engines.memory.kv import MemoryKV
from polymem.engines.sqlite.kv import SqliteKV
from polymem.errors import StorageDataError, StorageFullError

Scenario = Callable[[polymem.Store, ManualClock], Coroutine[Any, Any, None]]
Play = Callable[[Scenario], None]


@pytest.fixture(params=["memory", "sqlite"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    url = "memory:" if request.param == "memory" else f"sqlite:///{tmp_path / 'a.db'}"

    def run(scenario: Scenario) -> None:
        async def main() -> None:
            clock = ManualClock()
            async with polymem.open(url, clock=clock, sweep_every=None) as store:
                await scenario(store, clock)

        asyncio.run(main())

    return run


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_kv_bulk, "CHUNK_RECORDS", 10)


def numbered(count: int) -> Iterator[tuple[str, Any]]:
    return ((f"k{n:05}", {"n": n}) for n in range(count))


def test_everything_goes_in_from_both_kinds_of_iterable(play: Play) -> None:
    async def trickle() -> AsyncIterator[tuple[str, Any]]:
        for record in numbered(2345):
            yield record

    async def scenario(store: polymem.Store, clock: ManualClock) -> None:
        for name, records in (("plain", numbered(2345)), ("async", trickle())):
            space = store.namespace(name)
            report = await space.kv.bulk_load(records)
            assert (report.loaded, report.failed, report.skipped, report.position) == (2345, 0, 0, 2345)
            assert report.bytes == sum(6 + len(f'{{"n":{n}}}') for n in range(2345))
            assert report.seconds > 0
            assert await stored(space) == dict(numbered(2345))
        assert await store.kv.bulk_load([]) == LoadReport(seconds=pytest.approx(0, abs=10))
        assert await stored(store) == {}

    play(scenario)


def test_any_value_survives(play: Play) -> None:
    """KV-3."""
    values = {"a": None, "ü/🙂:*": "", "c": {}, "d": 0, "e": 2**80, "f": [1.5, "\u2028\n", False], "g": {"": -0.0}}

    async def scenario(store: polymem.Store, clock: ManualClock) -> None:
        assert (await store.kv.bulk_load(values.items())).loaded == len(values)
        assert await stored(store) == values

    play(scenario)


def test_expiry_is_kept_and_the_expired_are_left_out(play: Play) -> None:
    """BLK-1, G-6: seconds, instants, a default; versions are new."""

    async def scenario(store: polymem.Store, clock: ManualClock) -> None:
        soon = datetime(2030, 1, 1, 0, 0, 0, 123456, tzinfo=UTC)
        records = [("never", 1, None), ("soon", 2, soon), ("seconds", 3, 10), ("default", 4), ("past", 5, -1)]
        await store.kv.bulk_load(records, ttl=timedelta(seconds=20))
        exported = {record.key: record async for record in store.kv.bulk_export()}
        assert exported.keys() == {"never", "soon", "seconds", "default"}
        assert exported["never"].expires_at is None
        assert exported["soon"] == BulkRecord("soon", 2, soon)
        assert await store.kv.ttl("seconds") == 10
        assert await store.kv.ttl("default") == 20
        other = store.namespace("copy")
        await other.kv.bulk_load(store.kv.bulk_export())
        assert {record.key: record async for record in other.kv.bulk_export()} == exported
        first, second = await store.kv.entry("soon"), await other.kv.entry("soon")
        assert first is not None
        assert second is not None
        assert first.version != second.version
        clock.advance(10)
        assert await stored(other) == {"never": 1, "soon": 2, "default": 4}

    play(scenario)


def test_a_chunk_is_one_write_whatever_its_expiries(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """BLK-1: all or nothing, and seconds count from the start of the load."""
    calls = list[Any]()
    for cell in (MemoryKV, SqliteKV):

        async def noted(self: Any, items: Any, /, *, whole: Any = cell.put_many) -> None:
            calls.append((len(items), {item[-1] for item in items}))
            await whole(self, items)

        monkeypatch.setattr(cell, "put_many", noted)

    async def scenario(store: polymem.Store, clock: ManualClock) -> None:
        began = clock.now()

        def records() -> Iterator[tuple[str, Any, float]]:
            for number, (key, value) in enumerate(numbered(2500)):
                clock.advance(0.001)  # time goes on while a load runs
                yield key, value, 60 + number % 3

        await store.kv.bulk_load(records())
        instants = {began + seconds * 10**6 for seconds in (60, 61, 62)}
        assert calls == [(1000, instants), (1000, instants), (500, instants)]

    play(scenario)


@pytest.mark.usefixtures("small")
def test_the_last_of_a_key_wins(play: Play) -> None:
    """Within a chunk, whatever its expiry, and across chunks."""

    async def scenario(store: polymem.Store, clock: ManualClock) -> None:
        records = [("a", 1), ("a", 2, 50), *numbered(20), ("a", 3), ("b", 1, 50), ("b", 2), ("b", 3, 70)]
        report = await store.kv.bulk_load(records)
        assert report.loaded == 26
        assert await store.kv.get("a") == 3
        assert await store.kv.ttl("a") is None
        assert await store.kv.ttl("b") == 70
        assert await store.kv.count() == 22

    play(scenario)


def test_chunks_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """BLK-1: not more than a chunk and the next one is held, however slow the engine."""
    made, written, held = 0, 0, []
    whole = MemoryKV.put_many

    def records() -> Iterator[tuple[str, str]]:
        nonlocal made
        for made in range(1, 41):  # noqa: B007 - read by `slow`
            yield f"k{made}", "x" * (1 << 20)

    async def slow(self: Any, items: Any, /) -> None:
        nonlocal written
        await asyncio.sleep(0.01)
        held.append(made - written)
        await whole(self, items)
        written += len(items)

    async def scenario() -> None:
        async with polymem.open("memory:") as store:
            assert (await store.kv.bulk_load(records())).loaded == 40

    monkeypatch.setattr(MemoryKV, "put_many", slow)
    asyncio.run(scenario())
    assert (len(held), max(held)) == (10, 8)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (("", 1), "key"), (("x" * 513, 1), "key"), ((7, 1), "key"), (("a\x00", 1), "key"), (("a", {1, 2}), "value"),
        (("a", {"b": [float("nan")]}), "value.b[0]"), (("a", "\ud800"), "value"), (("a", 1, "soon"), "ttl"),
        (("a", 1, datetime(2030, 1, 1)), "ttl"), (("a",), "record"), (("a", 1, 2, 3), "record"), ("ab", "record"),
        (None, "record"),
    ],
)  # fmt: skip
def test_a_bad_record_is_named(play: Play, bad: Any, field: str) -> None:
    """G-2, BLK-1: stop leaves whole chunks, collect leaves out what is bad."""

    async def scenario(store: polymem.Store, clock: ManualClock) -> None:
        records = [*numbered(25), bad, ("z", 1)]
        with pytest.raises(StorageDataError) as caught:
            await store.kv.bulk_load(records)
        assert caught.value.field == field
        assert "record 26" in str(caught.value)
        assert caught.value.__notes__ == ["20 records are done with; go on with skip=20"]
        assert await stored(store) == dict(numbered(20))
        report = await store.kv.bulk_load(records, on_error="collect")
        assert (report.loaded, report.failed, report.position) == (26, 1, 27)
        assert [(one.position, one.field) for one in report.errors] == [(26, field)]
        assert await stored(store) == {**dict(numbered(25)), "z": 1}

    play(scenario)


def test_named_bad_records_are_capped_and_counted(play: Play) -> None:
    async def scenario(store: polymem.Store, clock: ManualClock) -> None:
        report = await store.kv.bulk_load((("", n) for n in range(2500)), on_error="collect")
        assert (report.loaded, report.failed, len(report.errors)) == (0, 2500, 100)
        assert report.errors[-1].position == 100

    play(scenario)


@pytest.mark.parametrize(
    ("options", "field"),
    [({"skip": -1}, "skip"), ({"skip": True}, "skip"), ({"on_error": "ignore"}, "on_error"), ({"ttl": "1"}, "ttl")],
)
def test_bad_options_write_nothing(play: Play, options: dict[str, Any], field: str) -> None:
    async def scenario(store: polymem.Store, clock: ManualClock) -> None:
        with pytest.raises(StorageDataError) as caught:
            await store.kv.bulk_load(numbered(5), **options)
        assert caught.value.field == field
        for records in ({"a": 1}, "ab", 7):
            with pytest.raises(StorageDataError) as caught:
                await store.kv.bulk_load(records)  # type: ignore[arg-type]
            assert caught.value.field == "records"
        assert await stored(store) == {}

    play(scenario)


@pytest.mark.usefixtures("small")
def test_skip_goes_on_where_a_load_ended(play: Play) -> None:
    async def scenario(store: polymem.Store, clock: ManualClock) -> None:
        report = await store.kv.bulk_load(numbered(45), skip=20)
        assert (report.skipped, report.loaded, report.position) == (20, 25, 45)
        assert list(await stored(store)) == [f"k{n:05}" for n in range(20, 45)]
        await store.kv.bulk_load(numbered(45))
        assert await stored(store) == dict(numbered(45))

    play(scenario)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("asynchronous", [True, False])
def test_progress_tells_after_every_chunk(play: Play, asynchronous: bool) -> None:
    async def scenario(store: polymem.Store, clock: ManualClock) -> None:
        seen: list[LoadReport] = []

        async def later(report: LoadReport) -> None:
            await asyncio.sleep(0)
            assert await store.kv.count() == report.loaded
            seen.append(report)

        report = await store.kv.bulk_load(numbered(25), progress=later if asynchronous else seen.append)
        assert [one.loaded for one in seen] == [10, 20, 25]
        assert seen[-1] == report

    play(scenario)


@pytest.mark.usefixtures("small")
def test_errors_of_the_source_and_of_progress_pass_untouched(play: Play) -> None:
    def source() -> Iterator[tuple[str, Any]]:
        yield from numbered(15)
        raise KeyError("mine")

    def upset(report: LoadReport) -> None:
        raise ZeroDivisionError

    async def scenario(store: polymem.Store, clock: ManualClock) -> None:
        with pytest.raises(KeyError, match="mine"):
            await store.kv.bulk_load(source())
        assert await stored(store) == dict(numbered(10))
        with pytest.raises(ZeroDivisionError):
            await store.kv.bulk_load(numbered(40), progress=upset)
        assert await store.kv.count() == 10

    play(scenario)


@pytest.mark.usefixtures("small")
def test_cancellation_finishes_the_chunk_and_says_how_far(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """BLK-1: whatever the report counts is stored, whatever is stored is counted."""

    async def scenario(store: polymem.Store, clock: ManualClock) -> None:
        begun, go, seen = asyncio.Event(), asyncio.Event(), [LoadReport()]
        for cell in (MemoryKV, SqliteKV):

            async def slow(self: Any, items: Any, /, *, whole: Any = cell.put_many) -> None:
                if items[0][0] == "k00010":
                    begun.set()
                    await go.wait()
                await whole(self, items)

            monkeypatch.setattr(cell, "put_many", slow)
        loading = asyncio.create_task(store.namespace("n").kv.bulk_load(numbered(1000), progress=seen.append))
        await begun.wait()
        for _ in range(3):
            loading.cancel()
            await asyncio.sleep(0.01)
        assert not loading.done()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await loading
        assert seen[-1].position == 20
        assert await stored(store.namespace("n")) == dict(numbered(20))
        await store.namespace("n").kv.bulk_load(numbered(1000), skip=seen[-1].position)
        assert await stored(store.namespace("n")) == dict(numbered(1000))

    play(scenario)


@pytest.mark.usefixtures("small")
def test_an_engine_that_fails_midway(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of the engine comes out, with how far the load was; nothing later is written."""

    async def scenario(store: polymem.Store, clock: ManualClock) -> None:
        seen = [LoadReport()]
        for cell in (MemoryKV, SqliteKV):

            async def full(self: Any, items: Any, /, *, whole: Any = cell.put_many) -> None:
                if items[0][0] == "k00020":
                    raise StorageFullError("no space left")
                await whole(self, items)

            monkeypatch.setattr(cell, "put_many", full)
        with pytest.raises(StorageFullError) as caught:
            await store.namespace("n").kv.bulk_load(numbered(1000), progress=seen.append)
        assert caught.value.__notes__ == ["20 records are done with; go on with skip=20"]
        assert (seen[-1].position, await stored(store.namespace("n"))) == (20, dict(numbered(20)))

    play(scenario)


def test_in_a_transaction_all_of_it_or_nothing(play: Play) -> None:
    """TXN: a load through the store of a transaction is undone with it."""

    async def scenario(store: polymem.Store, clock: ManualClock) -> None:
        with pytest.raises(StorageDataError):
            async with store.transaction() as tx:
                await tx.kv.bulk_load([*numbered(2500), ("", 1)])
        assert await stored(store) == {}
        async with store.transaction() as tx:
            await tx.kv.bulk_load((key, value, 5 + value["n"]) for key, value in numbered(1200))
        assert await store.kv.count() == 1200

    play(scenario)


@dataclass
class Theme:
    dark: bool


def test_typed(play: Play) -> None:
    """KV-3: a load encodes with the codec of the storage, an export decodes with it."""

    async def scenario(store: polymem.Store, clock: ManualClock) -> None:
        themes = store.kv.typed(Theme)
        await themes.bulk_load([("a", Theme(dark=True))])
        assert [record async for record in themes.bulk_export()] == [BulkRecord("a", Theme(dark=True))]
        with pytest.raises(StorageDataError, match="record 1: expected Theme"):
            await themes.bulk_load([("b", {"dark": True})])  # type: ignore[list-item]
        assert await stored(store) == {"a": {"dark": True}}

    play(scenario)


def test_export_of_a_prefix_and_of_one_namespace(play: Play) -> None:
    async def scenario(store: polymem.Store, clock: ManualClock) -> None:
        await store.kv.bulk_load([("a:1", 1), ("a:2", 2), ("b:1", 3)])
        await store.namespace("inner").kv.put("a:9", 9)
        assert [record async for record in store.kv.bulk_export("a:")] == [("a:1", 1, None), ("a:2", 2, None)]

    play(scenario)


def test_other_tasks_get_their_turn(play: Play) -> None:
    """A long load from memory into memory never awaits anything slow, and still gives way."""

    async def scenario(store: polymem.Store, clock: ManualClock) -> None:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        started = time.perf_counter()
        await store.kv.bulk_load(numbered(6400))
        counting.cancel()
        assert turns >= 100, time.perf_counter() - started

    play(scenario)
