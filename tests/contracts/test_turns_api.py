"""TRN-1, G-2, G-3, G-5: what `Turns` checks, converts and passes on."""

import asyncio
import copy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from polymem.contracts.turns import DEFAULT_TTL, MAX_TURN_ID, TurnFeatures, TurnInput, TurnRow, Turns
from polymem.core.clock import MICROSECONDS, ManualClock, to_datetime
from polymem.core.page import Page
from polymem.errors import StorageDataError

CLOCK = ManualClock()
NOW = CLOCK.now()


@pytest.fixture
def driver(recorder: Any) -> Any:
    """Numbers the rows it is given from 1."""
    return recorder(
        TurnFeatures(),
        append=lambda rows, replace: [n if r.turn_id is None else r.turn_id for n, r in enumerate(rows, 1)],
        recent=[],
        page=[],
        delete=1,
        clear=3,
        count=5,
    )


@pytest.fixture
def turns(driver: Any) -> Turns:
    return Turns(driver, CLOCK)


def stored(driver: Any) -> list[TurnRow]:
    return [row for name, args, _ in driver.calls if name == "append" for row in args[0]]


def test_append_returns_what_was_stored(turns: Turns, driver: Any) -> None:
    turn = asyncio.run(turns.append("s 1/:*", "user", "hello", metadata={"a": [1]}))
    assert (turn.session_id, turn.turn_id, turn.role, turn.content) == ("s 1/:*", 1, "user", "hello")
    assert turn.metadata == {"a": [1]}
    assert turn.created_at == to_datetime(NOW)
    assert turn.created_at.tzinfo is UTC
    assert turn.expires_at == to_datetime(NOW) + timedelta(seconds=DEFAULT_TTL)
    [row] = stored(driver)
    assert row == TurnRow(turn.id, "s 1/:*", None, "user", '"hello"', '{"a":[1]}', NOW, NOW + 86_400 * MICROSECONDS)


@pytest.mark.parametrize("content", ["", 'a\n"b" 🎉', [], [{"type": "tool", "args": {"n": 2**70, "x": None}}, {}]])
def test_content_is_kept_losslessly(turns: Turns, driver: Any, content: Any) -> None:
    before = copy.deepcopy(content)
    assert asyncio.run(turns.append("s", "user", content)).content == before
    assert content == before


def test_returned_content_is_not_the_callers_object(turns: Turns) -> None:
    """G-3 both ways: nobody's later change reaches what was stored."""
    parts: list[dict[str, Any]] = [{"a": 1}]
    metadata = {"m": [1]}
    turn = asyncio.run(turns.append("s", "user", parts, metadata=metadata))
    parts[0]["a"], metadata["m"][0] = 2, 2
    assert turn.content == [{"a": 1}]
    assert turn.metadata == {"m": [1]}


@pytest.mark.parametrize(
    ("ttl", "expected"),
    [
        (None, None),
        (2, NOW + 2 * MICROSECONDS),
        (timedelta(minutes=1), NOW + 60 * MICROSECONDS),
        (to_datetime(NOW - 5), NOW - 5),
        (0.0000001, NOW + 1),
    ],
)
def test_ttl_counts_from_now(turns: Turns, driver: Any, ttl: Any, expected: int | None) -> None:
    at = datetime(2020, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    turn = asyncio.run(turns.append("s", "user", "x", ttl=ttl, at=at))
    [row] = stored(driver)
    assert row.expires_at == expected
    assert turn.created_at == datetime(2020, 1, 1, tzinfo=UTC)


def test_append_many_takes_both_forms_in_order(turns: Turns, driver: Any) -> None:
    items: list[TurnInput | dict[str, Any]] = [
        TurnInput("user", "a", id="one"),
        {"role": "tool", "content": [{"b": 1}], "turn_id": 7, "ttl": None},
    ]
    made = asyncio.run(turns.append_many("s", items, replace=True))
    assert [(turn.role, turn.content, turn.turn_id) for turn in made] == [
        ("user", "a", 1),
        ("tool", [{"b": 1}], 7),
    ]
    assert made[0].id == "one"
    assert made[1].expires_at is None
    assert driver.calls[0][2] == {"replace": True}


def test_nothing_to_append_calls_nothing(turns: Turns, driver: Any) -> None:
    assert asyncio.run(turns.append_many("s", [])) == []
    assert asyncio.run(turns.delete_many("s", [])) == 0
    assert driver.calls == []


BAD: list[tuple[str, Callable[[Turns], Any]]] = [
    ("session_id", lambda t: t.append("", "user", "x")),
    ("session_id", lambda t: t.append("a\0", "user", "x")),
    ("session_id", lambda t: t.append("x" * 513, "user", "x")),
    ("role", lambda t: t.append("s", "", "x")),
    ("role", lambda t: t.append("s", None, "x")),  # type: ignore[arg-type]
    ("content", lambda t: t.append("s", "user", None)),  # type: ignore[arg-type]
    ("content", lambda t: t.append("s", "user", b"x")),  # type: ignore[arg-type]
    ("content", lambda t: t.append("s", "user", ["x"])),  # type: ignore[list-item]
    ("content", lambda t: t.append("s", "user", "\ud800")),
    ("content[0].a", lambda t: t.append("s", "user", [{"a": float("nan")}])),
    ("metadata", lambda t: t.append("s", "user", "x", metadata=[1])),  # type: ignore[arg-type]
    ("metadata.k", lambda t: t.append("s", "user", "x", metadata={"k": {1}})),
    ("turn_id", lambda t: t.append("s", "user", "x", turn_id=-1)),
    ("turn_id", lambda t: t.append("s", "user", "x", turn_id=True)),
    ("turn_id", lambda t: t.append("s", "user", "x", turn_id=MAX_TURN_ID + 1)),
    ("turn_id", lambda t: t.append("s", "user", "x", turn_id="1")),  # type: ignore[arg-type]
    ("at", lambda t: t.append("s", "user", "x", at=datetime(2020, 1, 1))),  # noqa: DTZ001
    ("ttl", lambda t: t.append("s", "user", "x", ttl=float("nan"))),
    ("ttl", lambda t: t.append("s", "user", "x", ttl="1")),  # type: ignore[arg-type]
    ("id", lambda t: t.append("s", "user", "x", id="")),
    ("turns", lambda t: t.append_many("s", "user")),  # type: ignore[arg-type]
    ("turns.rolle", lambda t: t.append_many("s", [{"rolle": "user", "content": "x"}])),
    ("turns.content", lambda t: t.append_many("s", [{"role": "user"}])),
    ("role", lambda t: t.append_many("s", [TurnInput("user", "fine"), TurnInput("", "x")])),
    ("turn_id", lambda t: t.get("s", -1)),
    ("limit", lambda t: t.recent("s", limit=-1)),
    ("limit", lambda t: t.recent("s", limit=1.0)),  # type: ignore[arg-type]
    ("offset", lambda t: t.recent("s", offset=-1)),
    ("turn_ids", lambda t: t.delete_many("s", "12")),  # type: ignore[arg-type]
    ("session_id", lambda t: t.clear("")),
    ("session_id", lambda t: t.count("")),
]


@pytest.mark.parametrize(("field", "call"), BAD)
def test_bad_input_names_the_field_and_writes_nothing(
    turns: Turns, driver: Any, field: str, call: Callable[[Turns], Any]
) -> None:
    with pytest.raises(StorageDataError) as refused:
        asyncio.run(call(turns))
    assert refused.value.field == field
    assert driver.calls == []


def test_scan_refuses_at_once(turns: Turns) -> None:
    with pytest.raises(StorageDataError):
        turns.scan("")


def row(turn_id: int) -> TurnRow:
    return TurnRow(f"id{turn_id}", "s", turn_id, "user", '"x"', "{}", NOW, None)


def test_scan_reads_page_after_page(recorder: Any) -> None:
    rows = [row(n) for n in range(1, 1001)]
    driver = recorder(
        TurnFeatures(),
        page=lambda _, after, limit, include_expired: [r for r in rows if after is None or r.turn_id > after][:limit],
    )

    async def ids() -> list[int]:
        return [turn.turn_id async for turn in Turns(driver, CLOCK).scan("s", include_expired=True)]

    assert asyncio.run(ids()) == list(range(1, 1001))
    assert [args[1:] for _, args, _ in driver.calls] == [(None, 500), (500, 500), (1000, 500)]
    assert all(kwargs == {"include_expired": True} for _, _, kwargs in driver.calls)


def test_recent_orders_and_limits(recorder: Any) -> None:
    driver = recorder(TurnFeatures(), recent=[row(3), row(2)])
    turns = Turns(driver, CLOCK)
    assert [t.turn_id for t in asyncio.run(turns.recent("s", limit=2, offset=4))] == [3, 2]
    assert [t.turn_id for t in asyncio.run(turns.recent("s", newest_first=False))] == [2, 3]
    assert driver.calls[0][2] == {"limit": 2, "offset": 4, "include_expired": False}
    assert asyncio.run(turns.recent("s", limit=0)) == []
    assert len(driver.calls) == 2


def test_reads_and_removals_pass_through(turns: Turns, driver: Any) -> None:
    async def all_of_them() -> list[Any]:
        return [
            await turns.get("s", 0),
            await turns.exists("s", 0),
            await turns.delete("s", 4),
            await turns.delete_many("s", [4, 5, 4]),
            await turns.clear("s"),
            await turns.count(),
            await turns.count("s", include_expired=True),
            turns.features,
        ]

    assert asyncio.run(all_of_them()) == [None, False, True, 1, 3, 5, 5, TurnFeatures()]
    assert ("delete", ("s", [4, 5]), {}) in driver.calls


def test_sessions_reads_page_after_page(recorder: Any) -> None:
    pages = {None: Page(["a", "b"], "b"), "b": Page(["c"], None)}
    driver = recorder(TurnFeatures(), sessions=lambda after, limit: pages[after])

    async def names() -> list[str]:
        return [name async for name in Turns(driver, CLOCK).sessions()]

    assert asyncio.run(names()) == ["a", "b", "c"]
