"""What the API classes share (G-2, G-3)."""

import asyncio
import itertools

import pytest

from polymem.contracts import _input
from polymem.contracts._input import all_checked, json_object, members, several, stream, unique_ids
from polymem.core.page import Page
from polymem.errors import StorageDataError


def test_bulk_checks_let_other_tasks_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """No event-loop stall: whoever waits gets turns while thousands of records are checked."""

    clock = itertools.count(0.0, 0.00015)
    monkeypatch.setattr(_input, "perf_counter", lambda: next(clock))

    async def run() -> int:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        assert await all_checked(range(1000), str, field="items") == [str(number) for number in range(1000)]
        task.cancel()
        return turns

    assert asyncio.run(run()) >= 300


def test_json_object_is_a_copy_of_any_mapping() -> None:
    given = {"a": [1, {"b": (2, None)}]}
    copy = json_object(given, field="payload")
    given["a"][1]["b"] = 3  # type: ignore[index]
    assert copy == {"a": [1, {"b": [2, None]}]}
    assert json_object(None, field="payload") == {}


def test_members_of_tuples_and_mappings() -> None:
    def of(item: object) -> dict[str, object]:
        return members(item, required=("id", "text"), optional=("payload",), field="items")

    assert of(("a", "b")) == of({"text": "b", "id": "a"}) == {"id": "a", "text": "b"}
    assert of(("a", "b", None)) == {"id": "a", "text": "b", "payload": None}
    for bad, field in (
        (("a",), "items.text"),
        ({"id": 1, "text": 2, 3: 4}, "items.3"),
        (["a", "b"], "items"),
    ):
        with pytest.raises(StorageDataError) as refused:
            of(bad)
        assert refused.value.field == field


def test_unique_ids_keeps_the_order() -> None:
    assert unique_ids(iter(["b", "a", "b"])) == ["b", "a"]
    for slip in ("ab", b"ab", {"a": 1}, 7, None):
        with pytest.raises(StorageDataError):
            several(slip, field="ids")


def test_stream_follows_pages_even_empty_ones() -> None:
    pages = {None: Page([1, 2], "2"), "2": Page([], "5"), "5": Page([6], None)}

    async def page(after: str | None) -> Page[int]:
        return pages[after]

    async def run() -> list[int]:
        return [item async for item in stream(page)]

    assert asyncio.run(run()) == [1, 2, 6]
