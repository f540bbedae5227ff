"""`kv.batch_write` (BLK-1)."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import polymem
from polymem.contracts.bulk import CompareAndSet, Create, Delete, Increment, Operation, Put, Touch, Update
from polymem.engines.memory.kv import MemoryKV
from polymem.errors import (
    Outcome,
    StorageConflictError,
    StorageConnectionError,
    StorageDataError,
    StorageNotFoundError,
)

Scenario = Callable[[polymem.Store], Coroutine[Any, Any, None]]
Play = Callable[[Scenario], None]


@pytest.fixture(params=["memory", "sqlite"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    url = "memory:" if request.param == "memory" else f"sqlite:///{tmp_path / 'a.db'}"

    def run(scenario: Scenario) -> None:
        async def main() -> None:
            async with polymem.open(url, sweep_every=None) as store:
                await scenario(store)

        asyncio.run(main())

    return run


def test_each_operation_has_its_outcome_in_its_place(play: Play) -> None:
    async def scenario(store: polymem.Store) -> None:
        version = await store.kv.put("there", {"n": 0})
        operations: list[Operation] = [
            Put("put", 1, ttl=60), Create("there", 2), Create("new", None), Update("absent", 3), Delete("absent"),
            CompareAndSet("there", version + 1, 4), Increment("count", 5), Touch("put2", 60), Put("", 6), Put("nan", {7}),
            CompareAndSet("there", version, 8), Delete("there"), Increment("count"), Touch("put", None),
        ]  # fmt: skip
        found = await store.kv.batch_write(operations)
        assert [one.operation for one in found.outcomes] == operations
        errors = {number: type(one.error) for number, one in enumerate(found.outcomes) if one.error is not None}
        assert errors == {
            1: StorageConflictError, 3: StorageNotFoundError, 5: StorageConflictError, 8: StorageDataError,
            9: StorageDataError,
        }  # fmt: skip
        results = [one.result for one in found.outcomes]
        assert (results[4], results[6], results[7], results[11], results[12], results[13]) == (
            False, 5, False, True, 6, True,
        )  # fmt: skip
        assert [one.operation.key for one in found.failed] == ["there", "absent", "there", "", "nan"]
        assert {one.state for one in found.failed} == {Outcome.NOT_APPLIED}
        assert found.outcomes[0].state is Outcome.APPLIED
        entry = await store.kv.entry("put")
        assert entry is not None
        assert (entry.version, entry.expires_at) == (results[0], None)
        assert {key async for key in store.kv.scan()} == {"put", "new", "count"}
        with pytest.raises(StorageConflictError):
            found.raise_first()

    play(scenario)


def test_operations_on_one_key_take_effect_in_order(play: Play) -> None:
    async def scenario(store: polymem.Store) -> None:
        operations: list[Operation] = []
        for n in range(500):
            operations += [Put(f"k{n % 7}", n), Increment(f"k{n % 7}"), Delete(f"k{n % 7}"), Create(f"k{n % 7}", -n)]
        found = await store.kv.batch_write(operations)
        assert found.failed == ()
        assert [one.result for one in found.outcomes[1::4]] == [n + 1 for n in range(500)]
        assert {record.value async for record in store.kv.bulk_export()} == {-n for n in range(493, 500)}

    play(scenario)


def test_an_empty_batch_and_one_of_something_else(play: Play) -> None:
    """G-2: nothing is written when an operation is none."""

    async def scenario(store: polymem.Store) -> None:
        assert (await store.kv.batch_write([])).outcomes == ()
        for given, field in (([Put("a", 1), ("b", 2)], "operations[1]"), ({"a": 1}, "operations"), (7, "operations")):
            with pytest.raises(StorageDataError) as caught:
                await store.kv.batch_write(given)  # type: ignore[arg-type]
            assert caught.value.field == field
        bad_key = await store.kv.batch_write([Put(["list"], 1)])  # type: ignore[arg-type]
        assert isinstance(bad_key.outcomes[0].error, StorageDataError)
        assert await store.kv.count() == 0

    play(scenario)


def test_all_or_nothing_takes_a_transaction(play: Play) -> None:
    async def scenario(store: polymem.Store) -> None:
        operations = [Put("a", 1), *(Put(f"k{n}", n) for n in range(300)), Update("absent", 1), Put("z", 1)]
        with pytest.raises(StorageNotFoundError):
            async with store.transaction() as tx:
                (await tx.kv.batch_write(operations)).raise_first()
        assert await store.kv.count() == 0
        async with store.transaction() as tx:
            (await tx.kv.batch_write(operations[:-2])).raise_first()
        assert await store.kv.count() == 301

    play(scenario)


def test_what_is_not_known_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    async def lost(self: Any, key: str, /) -> bool:
        raise StorageConnectionError("cut off", outcome=Outcome.UNKNOWN)

    monkeypatch.setattr(MemoryKV, "delete", lost)

    async def scenario() -> None:
        async with polymem.open("memory:") as store:
            found = await store.kv.batch_write([Put("a", 1), Delete("b")])
            assert [one.state for one in found.outcomes] == [Outcome.APPLIED, Outcome.UNKNOWN]

    asyncio.run(scenario())


def test_a_cancelled_batch_leaves_no_task_behind(play: Play) -> None:
    async def scenario(store: polymem.Store) -> None:
        writing = asyncio.create_task(store.kv.batch_write([Put(f"k{n}", n) for n in range(5000)]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert await store.kv.count() < 5000

    play(scenario)


def test_values_are_not_shown() -> None:
    """G-1."""
    for operation in (
        Put("k", "secret"),
        Create("k", "secret"),
        Update("k", "secret"),
        CompareAndSet("k", 1, "secret"),
    ):
        assert "secret" not in repr(operation)
