"""The window of newest turns that Redis keeps of a session (RD-1, RD-2)."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from polymem import RedisAdapter
from polymem.core.clock import ManualClock, to_datetime
from polymem.errors import StorageConflictError

pytestmark = [pytest.mark.anyio, pytest.mark.integration, pytest.mark.server("redis")]


@pytest.fixture
async def adapter(redis: dict[str, Any]) -> AsyncIterator[RedisAdapter]:
    async with RedisAdapter({**redis, "window_size": 3, "ttl_seconds": 100}) as opened:
        yield opened


def turn(turn_id: int, **more: Any) -> dict[str, Any]:
    return {"session_id": "s", "turn_id": turn_id, "content": f"turn {turn_id}", **more}


async def turn_ids(adapter: RedisAdapter, **query: Any) -> list[int]:
    return [record["turn_id"] for record in await adapter.search({"session_id": "s", **query})]


async def test_only_the_newest_are_kept(adapter: RedisAdapter) -> None:
    stored = await adapter.store_batch([turn(n) for n in range(1, 6)])
    assert await turn_ids(adapter) == [5, 4, 3]
    assert await adapter.retrieve_batch(stored[:2]) == [None, None]
    assert await adapter.get_session_size("s") == 3
    with pytest.raises(StorageConflictError):
        await adapter.store(turn(4))
    await adapter.store(turn(1))  # its place is outside the window: it is gone at once
    assert await turn_ids(adapter) == [5, 4, 3]


async def test_a_search_finds_as_many_as_the_window_holds(redis: dict[str, Any]) -> None:
    async with RedisAdapter({**redis, "window_size": 25}) as adapter:
        await adapter.store_batch([turn(n) for n in range(30)])
        assert await turn_ids(adapter) == list(range(29, 4, -1))
        assert await turn_ids(adapter, limit=2) == [29, 28]


async def test_a_window_of_none_stores_nothing(redis: dict[str, Any]) -> None:
    async with RedisAdapter({**redis, "window_size": 0}) as adapter:
        id = await adapter.store(turn(1))
        assert await adapter.retrieve(id) is None
        assert await adapter.search({"session_id": "s", "limit": 5}) == []
        assert not await adapter.session_exists("s")


async def test_an_unknown_session_is_empty(adapter: RedisAdapter) -> None:
    assert await adapter.search({"session_id": "nobody"}) == []
    assert await adapter.get_session_size("nobody") == 0
    assert await adapter.refresh_ttl("nobody") is False


async def test_turns_live_as_long_as_configured(adapter: RedisAdapter, clock: ManualClock) -> None:
    id = await adapter.store(turn(1))
    assert await adapter.add_turn("s", "two") == 2
    found = await adapter.retrieve(id)
    assert found is not None
    assert found["ttl_expires_at"] == to_datetime(clock.now()) + timedelta(seconds=100)
    clock.advance(100)
    assert await turn_ids(adapter) == []


async def test_reading_refreshes_if_wanted(redis: dict[str, Any], clock: ManualClock) -> None:
    async with RedisAdapter({**redis, "ttl_seconds": 100, "refresh_ttl_on_read": True}) as adapter:
        await adapter.store_batch([turn(1), turn(2)])
        clock.advance(60)
        id = (await adapter.search({"session_id": "s", "limit": 1}))[0]["id"]
        clock.advance(60)
        assert await turn_ids(adapter, include_expired=False, limit=1) == [2]
        clock.advance(60)
        assert await adapter.retrieve(id)
        clock.advance(60)
        assert await adapter.retrieve(id)


async def test_what_is_read_is_not_refreshed_unless_wanted(adapter: RedisAdapter, clock: ManualClock) -> None:
    id = await adapter.store(turn(1))
    clock.advance(60)
    assert await adapter.retrieve(id)
    clock.advance(60)
    assert await adapter.retrieve(id) is None


async def test_many_writers_and_readers_of_a_session_agree(redis: dict[str, Any]) -> None:
    async with RedisAdapter({**redis, "window_size": 50}) as adapter:
        big = "a\tb\n🌍漢" * 150_000  # over a megabyte

        async def write(n: int) -> list[int]:
            return [await adapter.add_turn("s", big if n == 0 else f"{n}", {"deep": [[[{"n": n}]]]}) for _ in range(3)]

        async def read() -> None:
            found = await turn_ids(adapter)
            assert found == sorted(found, reverse=True)

        given, *_ = await asyncio.gather(asyncio.gather(*map(write, range(10))), *(read() for _ in range(20)))
        assert sorted(id for ids in given for id in ids) == list(range(1, 31))
        contents = [record["content"] for record in await adapter.search({"session_id": "s"})]
        assert contents.count(big) == 3


async def test_the_store_behind_it_has_the_rest(adapter: RedisAdapter) -> None:
    await adapter.backend.kv.put("page/1", {"cached": True}, ttl=60)
    assert await adapter.backend.kv.get("page/1") == {"cached": True}
    assert await adapter.backend.kv.delete("page/1")


@pytest.mark.server("redis_cluster")
async def test_sessions_of_a_cluster(redis_cluster: dict[str, Any]) -> None:
    async with RedisAdapter(redis_cluster) as adapter:
        stored = await adapter.store_batch([turn(1), turn(1, session_id="other"), turn(2)])
        assert [one and one["turn_id"] for one in await adapter.retrieve_batch(stored)] == [1, 1, 2]
        assert await adapter.refresh_ttl("s", 60) is True
        assert await adapter.refresh_ttl("nobody") is False
        until = [(one or {})["ttl_expires_at"] - datetime.now(UTC) for one in await adapter.retrieve_batch(stored)]
        assert [left < timedelta(minutes=2) for left in until] == [True, False, True]
        assert await adapter.clear_session("s") == 2
        assert await adapter.clear_session("other") == 1
