"""Facts in PostgreSQL: the table working_memory (ADP-2, PG-1)."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import servers
from servers.postgres import database, run_sql

from polymem import F, PostgresAdapter
from polymem.adapters._facts import _FIELDS as FACT_FIELDS
from polymem.adapters._search import read_search
from polymem.core.clock import ManualClock, SystemClock, to_datetime
from polymem.engines.postgres.filter_sql import Values
from polymem.errors import StorageConnectionError, StorageDataError, StorageQueryError

pytestmark = [pytest.mark.anyio, pytest.mark.integration, pytest.mark.server("postgres")]


@pytest.fixture
async def facts(postgres: dict[str, Any]) -> AsyncIterator[PostgresAdapter]:
    async with PostgresAdapter({**postgres, "table": "working_memory"}) as opened:
        yield opened


@pytest.fixture(scope="module")
def url() -> str:
    return database(servers.url("postgres"), "polymem_facts")


UNDOCUMENTED = """
with mine as (select oid from pg_class where relnamespace = 'the_schema'::regnamespace and relname in
    ('active_context', 'working_memory', 'v_active_context_stats', 'v_working_memory_stats'))
select attrelid::regclass || '.' || attname from pg_attribute
    where attrelid in (select oid from mine) and attnum > 0 and col_description(attrelid, attnum) is null
union all select oid::regclass::text from mine where obj_description(oid, 'pg_class') is null
union all select indexrelid::regclass::text from pg_index where indrelid in (select oid from mine)
    and not indisunique and obj_description(indexrelid, 'pg_class') is null
union all select proname from pg_proc where pronamespace = 'the_schema'::regnamespace and proname ~ '^(cleanup|update)_'
    and obj_description(oid, 'pg_proc') is null"""


def fact(content: str = "likes tea", session_id: str = "s", **more: Any) -> dict[str, Any]:
    return {"session_id": session_id, "fact_type": "preference", "content": content, **more}


async def test_every_stored_field_comes_back(facts: PostgresAdapter, clock: ManualClock) -> None:
    at, until = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC), datetime(2999, 1, 1, tzinfo=UTC)
    given = fact(
        confidence=0.1,
        source_turn_ids=[3, 1, 3],
        metadata={"n": 1e23, "none": None},
        created_at=at,
        ttl_expires_at=until,
    )
    id = await facts.store(given)
    assert await facts.retrieve(id) == {**given, "id": id, "updated_at": at}
    assert await facts.search({"session_id": "s"}) == [{**given, "id": id, "updated_at": at}]
    now = to_datetime(clock.now())
    usual = {
        "confidence": 1.0, "source_turn_ids": [], "metadata": {}, "created_at": now, "updated_at": now,
        "ttl_expires_at": now + timedelta(days=7),
    }  # fmt: skip
    plain = await facts.store(fact(""))
    assert await facts.retrieve(plain) == {**fact(""), **usual, "id": plain}
    assert await facts.delete(plain) is True
    assert await facts.delete(plain) is False
    assert await facts.retrieve(plain) is None


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ({"session_id": "s"}, "fact_type"), (fact(fact_type=""), "fact_type"), (fact(fact_type="x" * 51), "fact_type"),
        (fact(confidence=1.01), "confidence"), (fact(confidence=-0.1), "confidence"), (fact(confidence=True), "confidence"),
        (fact(confidence=float("nan")), "confidence"), (fact(source_turn_ids=[-1]), "source_turn_ids"),
        (fact(source_turn_ids=[True]), "source_turn_ids"), (fact(source_turn_ids=[2**31]), "source_turn_ids"),
        (fact(source_turn_ids="12"), "source_turn_ids"), (fact(content=None), "content"), (fact("a\x00"), "content"),
        (fact(metadata={"a": object()}), "metadata"), (fact(colour="red"), "colour"), (fact(session_id=""), "session_id"),
        (fact(created_at=datetime(2026, 1, 1)), "created_at"), (fact(ttl_expires_at=datetime(2026, 1, 1)), "ttl_expires_at"),
    ],
)  # fmt: skip
async def test_a_bad_fact_is_refused_and_nothing_is_written(facts: PostgresAdapter, record: Any, field: str) -> None:
    for call in (facts.store, lambda one: facts.store_batch([fact(), one])):
        with pytest.raises(StorageDataError) as caught:
            await call(record)
        assert (caught.value.field or "").startswith(field)
    assert await facts.count() == 0


@pytest.mark.parametrize("id", ["", "x", "-1", "01", "1.0", "²", str(2**63), 1])
async def test_a_malformed_id_is_refused(facts: PostgresAdapter, id: Any) -> None:
    for call in (facts.retrieve, facts.delete, lambda one: facts.update_fact(one, content="x")):
        with pytest.raises(StorageDataError) as caught:
            await call(id)
        assert caught.value.field == "id"


async def test_searching(facts: PostgresAdapter) -> None:
    kinds = ["goal", "entity", "goal", "preference"]
    await facts.store_batch([
        fact(f"{n}", fact_type=kind, confidence=n / 10, source_turn_ids=[n, n + 1], metadata={"n": n})
        for n, kind in enumerate(kinds)
    ])  # fmt: skip
    await facts.store(fact("elsewhere", "other", fact_type="goal"))

    async def found(**query: Any) -> list[str]:
        return [record["content"] for record in await facts.search({"session_id": "s", **query})]

    assert await found(fact_type="goal", sort="confidence") == ["2", "0"]
    assert await found(sort="confidence", order="asc", limit=2, offset=1) == ["1", "2"]
    assert await found(filters=F("source_turn_ids").contains(2), order="asc") == ["1", "2"]
    assert await found(filters={"metadata.n": {"in": [0, 3]}}) == ["0", "3"]
    assert await found(filters={"confidence": {"ge": 0.2}}, sort="fact_type") == ["3", "2"]
    assert await found(limit=0) == []
    assert await facts.count({"fact_type": "goal"}) == 3
    assert await facts.count({"session_id": "s", "filters": {"confidence": {"lt": 0.1}}}) == 1
    assert len(await facts.search({"fact_type": "goal"})) == 3
    for bad in ("x", True, 1.5):
        with pytest.raises(StorageDataError) as caught:
            await facts.get_facts("s", min_confidence=bad)  # type: ignore[arg-type]
        assert caught.value.field == "min_confidence"
    for query, field in (
        ({"fact_type": 5}, "fact_type"),
        ({"sort": "content"}, "sort"),
        ({"filters": {"x": 1}}, "filters.x"),
    ):
        with pytest.raises(StorageDataError) as caught:
            await facts.search(query)
        assert caught.value.field == field


async def test_indexes_on_what_metadata_holds(url: str) -> None:
    async with PostgresAdapter({"url": url, "table": "working_memory", "tenant": uuid4().hex}) as facts:
        for _ in range(2):
            await facts.create_gin_indexes()
        held = [{"n": n, "deep": {"tag": f"t{n}"}} for n in range(5000)]
        await facts.store_batch([fact(metadata=one, source_turn_ids=[one["n"]]) for one in held])
        run_sql(url, "vacuum analyze working_memory")  # what is new waits in a list that is read whole
        for filters, index in (
            (F("metadata.n") == 7, "working_memory_metadata"),
            (F("metadata.deep.tag") == "t7", "working_memory_metadata"),
            (F("source_turn_ids").contains(7), "working_memory_sources"),
            (F("source_turn_ids").contains(7) & (F("confidence") > 0.5), "working_memory_sources"),
        ):
            values = Values()
            condition = facts._facts.rows._condition(read_search({"filters": filters}, FACT_FIELDS), values)
            plan = await facts._root.sql.query(f"explain select from working_memory t where {condition}", values)
            assert any(index in line for (line,) in plan), plan
            assert [one["source_turn_ids"] for one in await facts.search({"filters": filters})] == [[7]]
        assert await facts.count({"filters": F("metadata.n") != 7}) == 4999
        assert await facts.count({"filters": {"metadata.n": {"in": [1, 2, 9999]}}}) == 2
        assert await facts.clear_session("s") == 5000


async def test_a_batch_gives_ids_in_order(facts: PostgresAdapter) -> None:
    stored = await facts.store_batch([fact(str(n)) for n in range(50)])
    assert [one and one["content"] for one in await facts.retrieve_batch(stored)] == [str(n) for n in range(50)]


async def test_facts_by_their_own_methods(postgres: dict[str, Any], clock: ManualClock) -> None:
    async with PostgresAdapter(postgres) as adapter:
        sure = await adapter.add_fact("s", "goal", "win", confidence=0.9, source_turn_ids=[1], metadata={"a": 1})
        await adapter.add_fact("s", "goal", "draw", confidence=0.4, ttl=60)
        await adapter.add_fact("s", "entity", "Ada", ttl=None)
        await adapter.add_turn("s", "hello")
        assert [one["content"] for one in await adapter.get_facts("s", "goal", 0.5)] == ["win"]
        assert len(await adapter.get_facts("s")) == 3
        clock.advance(60)
        assert len(await adapter.get_facts("s")) == 2
        assert await adapter.count() == 1, "the four verbs are about turns here"
        assert await adapter.clear_session("s") == 3
        assert await adapter.clear_session("s") == 0
        assert await adapter.get_facts("s") == []
        assert await adapter.update_fact(sure, content="x") is False


async def test_changing_a_fact(facts: PostgresAdapter, clock: ManualClock) -> None:
    id = await facts.store(fact(metadata={"n": 1e23}))
    other = await facts.store(fact("other"))
    before = await facts.retrieve(id)
    assert before is not None
    assert await facts.update_fact(id, content="likes mate", confidence=0.5, ttl=30) is True
    after = await facts.retrieve(id)
    assert after is not None
    until = to_datetime(clock.now()) + timedelta(seconds=30)
    changed = {"content": "likes mate", "confidence": 0.5, "ttl_expires_at": until, "updated_at": after["updated_at"]}
    assert after == {**before, **changed}
    assert after["updated_at"] > before["updated_at"], "the database notes it"
    assert await facts.update_fact(id, metadata={"m": 1e23}, source_turn_ids=(4,), ttl=None) is True
    again = await facts.retrieve(id)
    assert again is not None
    assert (again["source_turn_ids"], again["ttl_expires_at"]) == ([4], None)
    assert type(again["metadata"].pop("m")) is float, "as it was given"
    assert again["metadata"] == {}
    assert (await facts.retrieve(other) or {})["content"] == "other"
    for changes, field in (({}, "changes"), ({"session_id": "x"}, "session_id"), ({"confidence": 2}, "confidence")):
        with pytest.raises(StorageDataError) as caught:
            await facts.update_fact(id, **changes)
        assert caught.value.field == field


async def test_an_expired_fact_is_shown_on_demand_only(facts: PostgresAdapter, clock: ManualClock) -> None:
    id = await facts.store(fact())
    clock.advance(timedelta(days=7).total_seconds())
    assert await facts.retrieve(id) is None
    assert await facts.count() == 0
    assert await facts.count({"include_expired": True}) == 1
    assert await facts.update_fact(id, content="x") is False
    assert await facts.delete(id) is False
    assert len(await facts.search({"include_expired": True})) == 1
    assert await facts.delete_expired() >= 1
    assert await facts.count({"include_expired": True}) == 0


async def test_expired_turns_are_removed_by_themselves(postgres: dict[str, Any], clock: ManualClock) -> None:
    async with PostgresAdapter(postgres) as adapter:
        await adapter.add_turn("s", "short", ttl=1)
        await adapter.add_fact("s", "goal", "short", ttl=1)
        clock.advance(1)
        assert await adapter.cleanup_expired_turns() >= 1
        assert await adapter.count({"include_expired": True}) == 0
        assert await adapter._facts.count({"include_expired": True}) == 1


async def test_the_sweeper_removes_facts_too(postgres: dict[str, Any], clock: ManualClock) -> None:
    async with PostgresAdapter({**postgres, "table": "working_memory"}) as adapter:
        await adapter.store(fact())
        clock.advance(10**6)
        assert await adapter._root._session.sweep_in_turn() >= 1
        assert await adapter.count({"include_expired": True}) == 0


async def test_tenants_do_not_see_each_other(facts: PostgresAdapter) -> None:
    id = await facts.store(fact())
    async with PostgresAdapter({**facts.config, "tenant": uuid4().hex}) as other:
        assert await other.retrieve(id) is None
        assert await other.search({}) == []
        assert await other.update_fact(id, content="mine") is False
        assert await other.delete(id) is False
        assert await other.clear_session("s") == 0
    assert await facts.count() == 1


async def test_what_others_wrote_into_the_table_is_read(facts: PostgresAdapter) -> None:
    plain = {"url": facts.config["url"], "table": "working_memory"}
    insert = "insert into working_memory(session_id, fact_type, content, metadata) values ('psql', 'goal', 'x', '{\"a\": 1}')"
    run_sql(plain["url"], insert)
    async with PostgresAdapter(plain) as default:
        (found,) = await default.search({"session_id": "psql", "filters": {"metadata.a": 1}})
        assert (found["metadata"], found["confidence"], found["source_turn_ids"]) == ({"a": 1}, 1.0, [])
        run_sql(plain["url"], "update working_memory set metadata = '{\"a\": 2}' where session_id = 'psql'")
        assert (await default.retrieve(found["id"]) or {})["metadata"] == {"a": 2}
        assert await default.clear_session("psql") == 1


async def test_the_functions_and_views_of_the_table(url: str) -> None:
    async with PostgresAdapter({"url": url, "clock": SystemClock(), "sweep_every": None}) as adapter:
        await adapter.add_fact("s", "goal", "a", confidence=0.5)
        await adapter.add_fact("s", "goal", "b", confidence=1.0, ttl=-1)
        await adapter.add_turn("s", "c", ttl=-1)
        stats = "fact_count, fact_type_count, avg_confidence, expired_count, active_count"
        assert run_sql(url, f"select {stats} from v_working_memory_stats where session_id = 's'") == "2|1|0.75|1|1\n"
        assert run_sql(url, "select * from cleanup_expired_records()") == "1|1|2\n"
        assert run_sql(url, "select cleanup_expired_working_memory()") == "0\n"


async def test_connecting_at_once_makes_one_table(url: str) -> None:
    schema = f"made_{uuid4().hex}"
    adapters = [PostgresAdapter({"url": url, "schema": schema, "table": "working_memory"}) for _ in range(3)]
    await asyncio.gather(*(adapter.connect() for adapter in adapters))
    await adapters[0].store(fact())
    assert [await adapter.count() for adapter in adapters] == [1, 1, 1]
    await asyncio.gather(*(adapter.disconnect() for adapter in adapters))
    assert run_sql(url, UNDOCUMENTED.replace("the_schema", schema)) == ""
    run_sql(url, f"drop schema {schema} cascade")


async def test_a_table_that_cannot_be_made_leaves_nothing_open(url: str) -> None:
    schema = f"made_{uuid4().hex}"
    run_sql(url, f"create schema {schema}; create view {schema}.v_working_memory_stats as select 1 as one")
    adapter = PostgresAdapter({"url": url, "schema": schema})
    with pytest.raises(StorageQueryError):
        await adapter.connect()
    assert not adapter.is_connected
    with pytest.raises(StorageConnectionError):
        await adapter.retrieve("cw.1")
    run_sql(url, f"drop view {schema}.v_working_memory_stats")
    async with adapter:
        await adapter.add_fact("s", "goal", "x")
    run_sql(url, f"drop schema {schema} cascade")
