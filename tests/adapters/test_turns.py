"""Turns as records, the same on every engine (ADP-1, ADP-2, TRN-1)."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from polymem import F, MemoryAdapter, PostgresAdapter, RedisAdapter
from polymem.adapters._engine import TurnAdapter
from polymem.core.clock import ManualClock, to_datetime
from polymem.errors import StorageConflictError, StorageConnectionError, StorageDataError

pytestmark = pytest.mark.anyio
HOSTILE = ["a:b:turns", "{x}/%2F", "*", "päd 🌍", "' or 1=1 --", "a.b", "~"]


def turn(turn_id: int = 1, session_id: str = "s", **more: Any) -> dict[str, Any]:
    return {"session_id": session_id, "turn_id": turn_id, "content": f"turn {turn_id}", **more}


def ids(records: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(record["session_id"], record["turn_id"]) for record in records]


async def test_every_stored_field_comes_back(adapter: TurnAdapter, clock: ManualClock) -> None:
    at, until = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC), datetime(2999, 1, 1, tzinfo=UTC)
    given = turn(7, role="tool", content="", metadata={"a": [1, None, 1e23]}, created_at=at, ttl_expires_at=until)
    id = await adapter.store(given)
    assert isinstance(id, str)
    assert await adapter.retrieve(id) == {**given, "id": id}
    assert await adapter.search({"session_id": "s"}) == [{**given, "id": id}]
    plain = await adapter.store(turn(8))
    now = to_datetime(clock.now())
    until = now + timedelta(hours=24)
    usual = {"id": plain, "role": "user", "metadata": {}, "created_at": now, "ttl_expires_at": until}
    assert await adapter.retrieve(plain) == {**turn(8), **usual}


async def test_parts_and_metadata_are_not_shared_with_the_caller(adapter: TurnAdapter) -> None:
    given = turn(content=[{"type": "text", "text": "hi"}], metadata={"tags": ["a"]})
    id = await adapter.store(given)
    given["metadata"]["tags"].append("b")
    found = await adapter.retrieve(id)
    assert found is not None
    assert found["content"] == [{"type": "text", "text": "hi"}]
    assert found["metadata"] == {"tags": ["a"]}
    assert await adapter.search({"session_id": "s", "filters": F("content.0.type") == "text"}) == [found]


@pytest.mark.parametrize("session_id", HOSTILE)
async def test_ids_carry_any_session(adapter: TurnAdapter, session_id: str) -> None:
    id = await adapter.store(turn(3, session_id))
    await adapter.store(turn(3, session_id + "x"))
    found = await adapter.retrieve(id)
    assert found is not None
    assert (found["session_id"], found["turn_id"]) == (session_id, 3)
    assert ids(await adapter.search({"session_id": session_id})) == [(session_id, 3)]
    assert await adapter.delete(id) is True
    assert await adapter.delete(id) is False
    assert await adapter.retrieve(id) is None


@pytest.mark.parametrize(
    "id", ["", "x", "cw", "cw.", "cw.-1", "cw.01", "cw. 1", "cw==.1", "*.1", "_w.1", ".1", f"cw.{2**60}", "AA.1", 5]
)
async def test_a_malformed_id_is_refused(adapter: TurnAdapter, id: Any) -> None:
    for call in (adapter.retrieve, adapter.delete, lambda one: adapter.retrieve_batch([one])):
        with pytest.raises(StorageDataError) as caught:
            await call(id)
        assert caught.value.field == "id"


async def test_a_whole_session_by_its_key(adapter: TurnAdapter) -> None:
    await adapter.store_batch([turn(1), turn(2), turn(1, "other")])
    key = adapter.session_key("s")
    with pytest.raises(StorageDataError):
        await adapter.retrieve(key)
    assert await adapter.delete(key) is True
    assert await adapter.delete(key) is False
    assert await adapter.count() == 1


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ({}, "session_id"), ({"session_id": "s", "content": ""}, "turn_id"), (turn(turn_id=-1), "turn_id"),
        (turn(turn_id=True), "turn_id"), (turn(content=None), "content"), (turn(session_id=""), "session_id"),
        (turn(metadata=[]), "metadata"), (turn(metadata={"a": float("nan")}), "metadata"), (turn(colour="red"), "colour"),
        (turn(created_at=datetime(2026, 1, 1)), "created_at"), (turn(ttl_expires_at=60), "ttl_expires_at"),
        (turn(ttl_expires_at=datetime(2026, 1, 1)), "ttl_expires_at"),
        (turn(content="a\x00"), "content"), (turn(role=""), "role"), (None, "data"),
    ],
)  # fmt: skip
async def test_a_bad_record_is_refused_and_nothing_is_written(adapter: TurnAdapter, record: Any, field: str) -> None:
    with pytest.raises(StorageDataError) as caught:
        await adapter.store(record)
    assert (caught.value.field or "").startswith(field)
    with pytest.raises(StorageDataError):
        await adapter.store_batch([turn(5, "good"), record])
    assert await adapter.count() == 0


async def test_a_turn_that_exists_is_a_conflict(adapter: TurnAdapter) -> None:
    id = await adapter.store(turn())
    with pytest.raises(StorageConflictError):
        await adapter.store(turn(content="other"))
    found = await adapter.retrieve(id)
    assert found is not None
    assert found["content"] == "turn 1"


async def test_a_batch_over_several_sessions_is_all_or_nothing(adapter: TurnAdapter) -> None:
    await adapter.store(turn(1, "b"))
    with pytest.raises(StorageConflictError):
        await adapter.store_batch([turn(1, "a"), turn(1, "b"), turn(1, "c")])
    assert await adapter.count() == 1


async def test_batches_keep_the_order_of_what_was_given(adapter: TurnAdapter) -> None:
    records = [turn(n, f"s{n % 3}") for n in range(10)]
    stored = await adapter.store_batch(records)
    found = await adapter.retrieve_batch([*reversed(stored), adapter.session_key("none").replace("all", "1")])
    assert [one and one["turn_id"] for one in found] == [*range(9, -1, -1), None]
    assert await adapter.delete_batch([stored[4], stored[4], stored[0]]) == {stored[4]: True, stored[0]: True}
    assert await adapter.delete_batch([stored[4], stored[5]]) == {stored[4]: False, stored[5]: True}
    assert await adapter.store_batch([]) == await adapter.retrieve_batch([]) == []
    assert await adapter.count() == 7


async def test_a_batch_that_fails_leaves_no_call_running() -> None:
    adapter, ended = MemoryAdapter({}), []

    async def slow(id: str) -> None:
        if id == "bad":
            raise StorageDataError("malformed", field="id")
        for _ in range(10):
            await asyncio.sleep(0)
        ended.append(id)

    adapter._table.retrieve = slow  # type: ignore[assignment,method-assign]
    with pytest.raises(StorageDataError):
        await adapter.retrieve_batch(["bad", "1", "2"])
    assert ended == ["1", "2"]


async def test_searching_one_session(adapter: TurnAdapter) -> None:
    await adapter.store_batch([turn(n, metadata={"even": n % 2 == 0, "n": n}) for n in range(1, 10)])
    await adapter.store(turn(99, "other"))

    async def found(**query: Any) -> list[int]:
        return [record["turn_id"] for record in await adapter.search({"session_id": "s", **query})]

    assert await found() == [9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert await found(limit=3, offset=2) == [7, 6, 5]
    assert await found(limit=3, order="asc") == [1, 2, 3]
    assert await found(limit=0) == []
    assert await found(filters={"metadata.even": True}) == [8, 6, 4, 2]
    assert await found(filters=(F("metadata.n") > 4) & ~F("content").contains("6"), limit=2, offset=1) == [8, 7]
    assert await found(filters={"turn_id": {"between": [2, 4]}}, sort="turn_id", order="asc") == [2, 3, 4]
    assert await found(filters={"session_id": "other"}) == []
    assert await found(filters={"role": "user"}, limit=1) == [9]
    assert await adapter.count({"session_id": "s"}) == 9
    assert await adapter.count({"session_id": "s", "filters": {"metadata.even": True}}) == 4
    assert await adapter.count() == 10


async def test_a_limit_is_ten_unless_given(adapter: TurnAdapter) -> None:
    await adapter.store_batch([turn(n) for n in range(1, 13)])
    assert len(await adapter.search({"session_id": "s"})) == 10


async def test_sorting_by_instants_with_none_last(adapter: TurnAdapter, clock: ManualClock) -> None:
    now = to_datetime(clock.now())
    lives = [3, None, 1, 2]
    for n, life in enumerate(lives, 1):
        until = None if life is None else now + timedelta(hours=life)
        await adapter.store(turn(n, ttl_expires_at=until, created_at=now - timedelta(seconds=n // 2)))

    async def found(**query: Any) -> list[int]:
        return [record["turn_id"] for record in await adapter.search({"session_id": "s", **query})]

    assert await found(sort="ttl_expires_at", order="asc") == [3, 4, 1, 2]
    assert await found(sort="ttl_expires_at", order="desc") == [1, 4, 3, 2]
    assert await found(sort="created_at", order="desc") == [1, 2, 3, 4]
    assert await found(sort="created_at", order="asc") == [4, 2, 3, 1]
    since = (now - timedelta(seconds=1)).isoformat(timespec="microseconds")
    assert await found(filters={"created_at": {"ge": since}}, order="asc") == [1, 2, 3]
    assert await found(filters={"ttl_expires_at": None}) == [2]


async def test_a_session_may_be_named_by_the_filter(adapter: TurnAdapter) -> None:
    await adapter.store_batch([turn(n, session) for session in "ab" for n in (1, 2)])
    for filters in ({"session_id": "a"}, F("session_id") == "a", {"and": [{"session_id": "a"}, {"role": "user"}]}):
        assert ids(await adapter.search({"filters": filters})) == [("a", 2), ("a", 1)]
        assert await adapter.count({"filters": filters}) == 2
        assert await adapter.search({"session_id": "b", "filters": filters}) == []
    both = (F("session_id") == "a") & (F("session_id") == "b")
    assert await adapter.search({"filters": both}) == []
    assert ids(
        await adapter.search({"filters": (F("session_id") == "a") & (F("turn_id") > 1) & (F("turn_id") < 3)})
    ) == [("a", 2)]


async def test_searching_all_sessions(adapter: TurnAdapter) -> None:
    await adapter.store_batch([turn(n, session, metadata={"n": n}) for session in "ab" for n in (1, 2)])
    if isinstance(adapter, RedisAdapter):
        with pytest.raises(StorageDataError) as caught:
            await adapter.search({"filters": {"metadata.n": 2}})
        assert caught.value.field == "session_id"
        return
    assert ids(await adapter.search({"filters": {"session_id": {"in": ["a"]}}})) == [("a", 2), ("a", 1)]
    assert ids(await adapter.search({})) == [("a", 2), ("b", 2), ("a", 1), ("b", 1)]
    assert ids(await adapter.search({"filters": {"metadata.n": 2}, "offset": 1})) == [("b", 2)]
    assert ids(await adapter.search({"sort": "session_id", "limit": 2})) == [("b", 1), ("b", 2)]
    assert await adapter.count({"filters": {"metadata.n": 2}}) == 2


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"limit": -1}, "limit"), ({"limit": "5"}, "limit"), ({"offset": -1}, "offset"), ({"sort": "colour"}, "sort"),
        ({"sort": []}, "sort"), ({"order": "down"}, "order"), ({"include_expired": 1}, "include_expired"),
        ({"fact_type": "goal"}, "fact_type"), ({"colour": 1}, "colour"), ({"session_id": 5}, "session_id"),
        ({"filters": {"colour": 1}}, "filters.colour"), ({"filters": [1]}, "filters"),
        ({"filters": {"role": {"like": 1}}}, "filters.role"), ({"filters": ~(F("role") == "a") | (F("a") == 1)}, "filters.a"),
    ],
)  # fmt: skip
async def test_a_bad_query_is_refused(adapter: TurnAdapter, query: dict[str, Any], field: str) -> None:
    with pytest.raises(StorageDataError) as caught:
        await adapter.search({"session_id": "s", **query})
    assert caught.value.field == field


async def test_an_expired_turn_is_shown_on_demand_only(adapter: TurnAdapter, clock: ManualClock) -> None:
    until = to_datetime(clock.now()) + timedelta(seconds=60)
    id = await adapter.store(turn(1, ttl_expires_at=until))
    for_ever = await adapter.store(turn(2, ttl_expires_at=None))
    clock.advance(60)
    assert await adapter.retrieve(id) is None
    if not isinstance(adapter, PostgresAdapter):
        with pytest.raises(StorageDataError):
            await adapter.count({"filters": {"role": "user"}, "include_expired": True})
    everything = {"role": "user"}
    for more in ({}, {"filters": everything}, {"order": "asc"}):
        assert ids(await adapter.search({"session_id": "s", **more})) == [("s", 2)]
        assert len(await adapter.search({"session_id": "s", "include_expired": True, **more})) == 2
        assert await adapter.count({"session_id": "s", **more}) == 1
        assert await adapter.count({"session_id": "s", "include_expired": True, **more}) == 2
    assert await adapter.delete(id) is False
    clock.advance(10**9)
    assert await adapter.retrieve(for_ever) is not None


async def test_turns_by_their_own_methods(adapter: TurnAdapter, clock: ManualClock) -> None:
    assert await adapter.add_turn("s", "one", {"a": 1}, ttl=timedelta(seconds=30)) == 1
    assert await adapter.add_turn("s", "five", turn_id=5, role="assistant") == 5
    assert await adapter.add_turn("s", "six", ttl=None) == 6
    recent = await adapter.get_recent_turns("s", limit=2)
    assert [one["content"] for one in recent] == ["five", "six"]
    assert recent[1]["ttl_expires_at"] is None
    assert recent[::-1] == await adapter.search({"session_id": "s", "limit": 2})
    assert await adapter.get_session_size("s") == 3
    assert await adapter.delete_turn("s", 5) is True
    assert await adapter.delete_turn("s", 5) is False
    clock.advance(30)
    assert await adapter.get_session_size("s") == 1
    assert await adapter.session_exists("s")
    assert await adapter.clear_session("s") == 1
    assert await adapter.clear_session("s") == 0
    assert not await adapter.session_exists("s")
    assert await adapter.get_recent_turns("s") == []


async def test_refreshing_a_session(adapter: TurnAdapter, clock: ManualClock) -> None:
    id = await adapter.store(turn(3, metadata={"a": 1}))
    before = await adapter.retrieve(id)
    assert before is not None
    clock.advance(3600)
    assert await adapter.refresh_ttl("s") is True
    assert await adapter.retrieve(id) == {**before, "ttl_expires_at": before["ttl_expires_at"] + timedelta(hours=1)}
    assert await adapter.refresh_ttl("s", ttl=5) is True
    clock.advance(5)
    assert await adapter.retrieve(id) is None
    assert await adapter.refresh_ttl("s") is False


async def test_expired_records_are_removed_on_demand(adapter: TurnAdapter, clock: ManualClock) -> None:
    await adapter.add_turn("s", "short", ttl=1)
    await adapter.add_turn("s", "long")
    clock.advance(1)
    assert await adapter.delete_expired() >= 1
    assert await adapter.count({"session_id": "s", "include_expired": True}) == 1


async def test_it_can_be_used_only_while_connected(adapter: TurnAdapter) -> None:
    await adapter.disconnect()
    for call in (adapter.store(turn()), adapter.search({"session_id": "s"}), adapter.count()):
        with pytest.raises(StorageConnectionError):
            await call
    assert (await adapter.health_check()).status == "unhealthy"
    await adapter.connect()
    id = await adapter.store(turn())
    assert await adapter.retrieve(id)
    health = await adapter.health_check()
    assert (health.status, health.engine) == ("healthy", adapter.backend.engine.name)
    assert (health.pool is None) is not isinstance(adapter, PostgresAdapter | RedisAdapter)


async def test_tenants_do_not_see_each_other(adapter: TurnAdapter) -> None:
    if isinstance(adapter, MemoryAdapter):
        return  # what it holds is seen by nobody else
    id = await adapter.store(turn())
    async with type(adapter)({**adapter.config, "tenant": "somebody/else"}) as other:
        assert await other.retrieve(id) is None
        assert await other.search({"session_id": "s", "filters": {"role": "user"}}) == []
        assert await other.count() == 0
        assert await other.delete(id) is False
        await other.store(turn())
        assert await other.clear_session("s") == 1
    async with type(adapter)(adapter.config) as same:
        assert await same.retrieve(id)


async def test_the_verbs_are_counted_as_such(adapter: TurnAdapter) -> None:
    id = await adapter.store(turn())
    await adapter.store_batch([turn(2), turn(3)])
    await adapter.retrieve(id)
    with pytest.raises(StorageConflictError):
        await adapter.store(turn())
    metrics = adapter.get_metrics()
    counted = {name: figures["total_count"] for name, figures in metrics["operations"].items()}
    assert counted == {"store": 2, "store_batch": 1, "retrieve": 1}
    assert metrics["errors"]["by_type"] == {"StorageConflictError": 1}
    assert (metrics["connection"]["pool"] is None) is not isinstance(adapter, PostgresAdapter | RedisAdapter)


async def test_what_only_the_engine_knows_is_among_the_metrics(disconnected: TurnAdapter) -> None:
    """MET-1: in words that JSON has, and nothing before and after."""
    assert disconnected.get_metrics()["backend_specific"] is None
    async with disconnected:
        found = json.loads(disconnected.export_metrics("json"))["backend_specific"]
        assert disconnected.backend.metrics()["backend_specific"] == found
        version = (await disconnected.health_check()).server_version
        if isinstance(disconnected, PostgresAdapter):
            assert found.pop("connections_opened") >= 2
            direct = {"pooled": False, "prepared_statements": True, "replicas": []}
            assert found == {"server_version": version, **direct}
        elif isinstance(disconnected, RedisAdapter):
            assert found == {"server_version": version, "mode": "standalone", "durable": True}
        else:
            assert found is None
    assert disconnected.get_metrics()["backend_specific"] is None
