"""TRN-1 on the driver."""

import pytest

from polymem.contracts.turns import TurnDriver, TurnRow
from polymem.core.clock import ManualClock
from polymem.core.page import Page
from polymem.engines.memory.engine import MemoryEngine
from polymem.errors import StorageConflictError

pytestmark = pytest.mark.anyio


@pytest.fixture
def turns(engine: MemoryEngine) -> TurnDriver:
    driver = engine.drivers("").turns
    assert driver is not None
    return driver


def row(session: str, turn_id: int | None = None, content: str = '""', expires_at: int | None = None) -> TurnRow:
    return TurnRow("id", session, turn_id, "user", content, "{}", 0, expires_at)


async def ids(
    turns: TurnDriver, session: str, limit: int = 9, offset: int = 0, include: bool = False
) -> list[int | None]:
    rows = await turns.recent(session, limit=limit, offset=offset, include_expired=include)
    return [r.turn_id for r in rows]


async def test_numbers_follow_the_highest_present(turns: TurnDriver) -> None:
    assert await turns.append([row("s"), row("t"), row("s"), row("s", 7), row("s")], replace=False) == [
        1,
        1,
        2,
        7,
        8,
    ]
    assert await turns.append([row("s", 0), row("s")], replace=False) == [0, 9]
    assert await turns.delete("s", [9, 8, 9, 99]) == 2
    assert await turns.append([row("s")], replace=False) == [8]
    assert await ids(turns, "s", 2, 1) == [7, 2]
    assert [r.turn_id for r in await turns.page("s", 1, 2, include_expired=False)] == [2, 7]
    assert [r.turn_id for r in await turns.page("s", None, 2, include_expired=False)] == [0, 1]


async def test_conflict_writes_nothing(turns: TurnDriver) -> None:
    await turns.append([row("s", 1, '"old"')], replace=False)
    with pytest.raises(StorageConflictError):
        await turns.append([row("s"), row("s", 1, '"new"')], replace=False)
    with pytest.raises(StorageConflictError):
        await turns.append([row("u", 4), row("u", 4)], replace=False)
    assert await turns.count(None, include_expired=True) == 1
    assert await turns.append([row("s", 1, '"new"')], replace=True) == [1]
    found = await turns.get("s", 1, include_expired=False)
    assert found is not None
    assert found.content == '"new"'


async def test_each_turn_expires_at_its_own_instant(turns: TurnDriver, clock: ManualClock) -> None:
    soon = clock.now() + 1
    await turns.append([row("s", expires_at=soon), row("s"), row("gone", expires_at=soon)], replace=False)
    clock.advance(1e-6)
    assert await ids(turns, "s") == [2]
    assert await ids(turns, "s", include=True) == [2, 1]
    assert await turns.get("s", 1, include_expired=False) is None
    assert await turns.get("s", 1, include_expired=True) is not None
    assert await turns.count("s", include_expired=False) == 1
    assert await turns.count(None, include_expired=True) == 3
    assert await turns.sessions(None, 9) == Page(["s"], None)
    assert await turns.append([row("s", 1)], replace=False) == [1], "an expired turn is no conflict"
    assert await turns.append([row("gone")], replace=False) == [2], "but its number is taken until it is swept"
    assert await turns.clear("gone") == 1
    assert await turns.clear("never") == 0
    assert await turns.count("never", include_expired=True) == 0


async def test_sessions_are_paged_in_order(turns: TurnDriver) -> None:
    await turns.append([row(name) for name in ("c", "a:1", "b/*", "😀")], replace=False)
    assert await turns.sessions(None, 2) == Page(["a:1", "b/*"], "b/*")
    assert await turns.sessions("b/*", 2) == Page(["c", "😀"], None)
    assert await turns.delete("c", [1]) == 1
    assert await turns.sessions("b/*", 2) == Page(["😀"], None)
