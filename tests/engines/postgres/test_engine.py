"""Opening, options, errors and the tables of PostgreSQL (PG-1, G-1, G-8)."""

import asyncio
from typing import Any

import asyncpg
import pytest
from servers.postgres import PASSWORD, run_sql

from polymem.core.breaker import Breaker
from polymem.core.clock import ManualClock
from polymem.core.registry import create_engine
from polymem.engines.postgres._schema import FORMAT
from polymem.engines.postgres._settings import read_settings
from polymem.errors import (
    StorageAuthError,
    StorageConnectionError,
    StorageCorruptError,
    StorageDataError,
    StorageNotFoundError,
    StorageQueryError,
    StorageTimeoutError,
)
from polymem.opened import Session
from polymem.store import Store

pytestmark = [pytest.mark.integration, pytest.mark.server("postgres")]


def test_options_come_from_the_url_and_beside_it() -> None:
    """CFG-1: what is given beside the URL wins; what is libpq's goes to the driver."""
    url = "postgres://u:p@h/d?pool_size=20&min_size=1&sslmode=require&timeout=1.5&prepared_statements=no"
    settings = read_settings(url, {"min_size": 3})
    assert (settings.max_size, settings.min_size, settings.timeout) == (20, 3, 1.5)
    assert settings.prepared_statements is False
    assert settings.dsn == "postgresql://u:p@h/d?sslmode=require"


@pytest.mark.parametrize(
    ("query", "field"),
    [("nonsense=1", "nonsense"), ("min_size=x", "min_size"), ("timeout=-1", "timeout"), ("max_size=0", "max_size"),
     ("timeout=nan", "timeout"), ("min_size=9&max_size=3", "max_size"), ("schema=a%22b", "schema"),
     ("timeout=0", "timeout"), ("connect_timeout=0.0001", "connect_timeout"), ("pool_size=x", "pool_size"),
     ("prepared_statements=maybe", "prepared_statements"), ("read_your_writes=2", "read_your_writes"),
     ("direct_url=http://h", "direct_url"), ("direct_url=postgresql://h:port/d", "direct_url")],
)  # fmt: skip
def test_bad_options_are_named(query: str, field: str) -> None:
    """G-2."""
    with pytest.raises(StorageDataError) as caught:
        create_engine(f"postgresql://u:hidden@h/d?{query}")
    assert caught.value.field == field
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("application_name", 5), ("direct_url", 5), ("ssl", 5), ("replicas", 5), ("replicas", ["postgresql://h:port/d"]),
     ("client", object()), ("max_size", 2.5)],
)  # fmt: skip
def test_options_of_a_wrong_kind_are_named(name: str, value: object) -> None:
    """G-2."""
    with pytest.raises(StorageDataError) as caught:
        create_engine("postgresql://h/d", **{name: value})
    assert caught.value.field == name


def test_settings_do_not_show_passwords() -> None:
    """G-1."""
    url = "postgresql://u:hidden@h/d"
    assert "hidden" not in repr(read_settings(url, {"direct_url": url, "replicas": [url]}))


@pytest.mark.anyio
async def test_who_may_not_come_in_is_told_why(url: str) -> None:
    """G-1: kinds of failure, and no password in any of them."""
    wrong = {
        url.replace(PASSWORD, "wrong"): StorageAuthError,
        url.rpartition("/")[0] + "/no_such_database": StorageNotFoundError,
        "postgresql://u:hidden@127.0.0.1:1/d": StorageConnectionError,
        "postgresql://u:hidden@no-such-host.invalid/d": StorageConnectionError,
    }
    for address, kind in wrong.items():
        with pytest.raises(kind) as caught:
            await Store(Session(create_engine(address), sweep_every=None))
        assert "hidden" not in repr(caught.value)
        assert "wrong" not in str(caught.value)


@pytest.mark.anyio
async def test_eight_that_open_an_empty_database_at_once(url: str, opened: Any) -> None:
    """SCH-1: tables are made once."""
    run_sql(url, "drop schema if exists crowded cascade")
    stores = await asyncio.gather(*(opened(schema="crowded") for _ in range(8)))
    await asyncio.gather(*(store.kv.put(f"{number}", number) for number, store in enumerate(stores)))
    assert await stores[0].kv.count() == 8


@pytest.mark.anyio
async def test_the_schema_that_is_there_is_filled_once(url: str, opened: Any) -> None:
    """SCH-1: those that waited for the tables see them, whatever their connection knew before."""
    for _ in range(5):
        run_sql(url, "drop schema if exists filled cascade; create schema filled")
        stores = await asyncio.gather(*(opened(schema="filled", min_size=1) for _ in range(5)))
        assert await stores[0].kv.count() == 0


@pytest.mark.anyio
async def test_schemas_are_worlds_of_their_own(url: str, opened: Any) -> None:
    one, two, none = await opened(schema="one"), await opened(schema="Two"), await opened()
    await one.kv.put("world", 1)
    await two.kv.put("world", 2)
    assert [await store.kv.get("world") for store in (one, two, none)] == [1, 2, None]
    assert run_sql(url, 'select count(*) from "Two".pm_kv').strip() == "1"


@pytest.mark.anyio
async def test_a_pool_of_ones_own_is_used_and_left_open(url: str, opened: Any) -> None:
    """G-8."""
    async with asyncpg.create_pool(url, min_size=1, max_size=4) as client:
        store = await opened(client=client, max_size=4)
        await asyncio.gather(*(store.kv.put(f"own{number}", number) for number in range(50)))
        async with store.transaction() as tx:
            await tx.kv.put("own", 1)
        await store.close()
        assert client.get_idle_size() == client.get_size()
        assert await client.fetchval("select count(*) from pm_kv where key like 'own%'") == 51


@pytest.mark.anyio
async def test_newer_tables_are_left_alone(url: str, opened: Any) -> None:
    await (await opened(schema="newer")).close()
    run_sql(url, "update newer.pm_meta set value = '99' where name = 'format'")
    with pytest.raises(StorageCorruptError, match="upgrade polymem"):
        await opened(schema="newer")


@pytest.mark.anyio
async def test_older_tables_are_upgraded(url: str, opened: Any) -> None:
    """REL-1: what a later format added is made, also by two at once, and nothing else is touched."""
    store = await opened(schema="older")
    await store.kv.put("a", 1)
    await store.close()
    run_sql(url, "drop table older.pm_telling, older.pm_told")
    run_sql(url, "drop function older.pm_tell, older.pm_untell, older.pm_tell_keys, older.pm_tell_truncation")
    run_sql(url, "update older.pm_meta set value = '1' where name = 'format'")
    store, _ = await asyncio.gather(opened(schema="older"), opened(schema="older"))
    assert run_sql(url, "select value from older.pm_meta where name = 'format'").split() == [str(FORMAT)]
    assert await store.kv.get("a") == 1
    assert await store.delete_expired() == 0


@pytest.mark.anyio
async def test_turns_are_a_table_for_everybody(url: str, opened: Any) -> None:
    """PG-1: defaults, plain text, expiry, the cleanup function and the view."""
    store = (await opened()).namespace("default")
    run_sql(url, "insert into active_context(session_id, turn_id, content) values ('s', 1, 'said by SQL')")
    turn = await store.turns.get("s", 1)
    assert (turn.role, turn.content, turn.metadata) == ("user", "said by SQL", {})
    assert turn.expires_at is not None
    await store.turns.append("s", "user", 'a "quoted" \U0001f600 line', metadata={"n": 1e23}, ttl=-1)
    await store.turns.append("s", "tool", [{"type": "result"}], ttl=None)
    shown = run_sql(
        url, "select turn_id, role, content, metadata from active_context where tenant = 'default' order by 1"
    )
    assert shown.splitlines()[1:] == [
        '2|user|a "quoted" \U0001f600 line|{"n": 100000000000000000000000}',
        '3|tool|[{"type":"result"}]|{}',
    ]
    view = "select turn_count, expired_count, active_count from v_active_context_stats where session_id = 's'"
    assert run_sql(url, view).strip() == "3|1|2"
    assert run_sql(url, "select cleanup_expired_active_context()").strip() == "1"
    run_sql(url, 'update active_context set metadata = \'{"by": "hand"}\' where turn_id = 3')
    assert (await store.turns.get("s", 3)).metadata == {"by": "hand"}
    undocumented = (
        "select count(*) from pg_attribute where attrelid = 'active_context'::regclass and attnum > 0 "
        "and col_description(attrelid, attnum) is null"
    )
    assert run_sql(url, undocumented).strip() == "0"
    await store.turns.clear("s")


@pytest.mark.anyio
async def test_the_clock_is_the_servers(opened: Any) -> None:
    store = await opened()
    there = (await store.sql.query("select (extract(epoch from clock_timestamp()) * 1000000)::bigint"))[0][0]
    assert abs(store.engine.clock.now() - there) < 1_000_000
    store.engine._server_clock._ahead = 10**12
    await store.engine._keep()
    assert abs(store.engine.clock.now() - there) < 60_000_000


@pytest.mark.anyio
async def test_values_that_are_no_documents_and_damage(url: str, opened: Any) -> None:
    store = (await opened(clock=ManualClock())).namespace("damage")
    kv = store.engine.drivers("damage/").kv
    for number, body in enumerate((b"\xff\x00", b'"\\u0000"', b'"\\ud800"', b"null")):
        await kv.put(f"{number}", body, "json", version=number, expires_at=None)
        assert await kv.get(f"{number}") == (body, "json")
    assert await store.kv.count(where={"a": {"exists": False}}) == 1
    run_sql(url, "update pm_kv set body = '{broken', data = null where namespace = 'damage/' and key = '3'")
    with pytest.raises(StorageCorruptError):
        await store.kv.count(where={"a": 1})
    with pytest.raises(StorageCorruptError):
        await store.kv.get("3")
    with pytest.raises(StorageCorruptError):
        await store.kv.create_index("a")
    await store.kv.clear()


@pytest.mark.anyio
async def test_sql_with_names_and_what_it_may_not_do(opened: Any) -> None:
    store = await opened()
    statement = 'select :a::int + :b, \':c\', "x".y -- :d\n from (select 1 as y) as "x" where :a::int = 1 /* :e */'
    assert await store.sql.query(statement, {"a": 1, "b": 2}) == [(3, ":c", 1)]
    with pytest.raises(StorageDataError) as caught:
        await store.sql.query("select :a", {"b": 1})
    assert caught.value.field == "parameters.a"
    for statement in ("set role x", " /* x */ -- y\n COMMIT", "begin", "listen x"):
        with pytest.raises(StorageQueryError):
            await store.sql.execute(statement)
    await store.sql.execute("select set_config('application_name', 'mine', false)")
    names = await asyncio.gather(*(store.sql.query("show application_name") for _ in range(4)))
    assert {name for ((name,),) in names} == {"polymem"}
    await store.sql.execute("vacuum pm_meta")
    with pytest.raises(StorageDataError) as wrong:
        await store.sql.query("select $1::int", ["SECRET"])
    assert "SECRET" not in str(wrong.value)


@pytest.mark.anyio
async def test_slow_statements_do_not_take_the_server_from_everybody(opened: Any) -> None:
    """RES-1: the server itself ended them, so it works, and the breaker stays closed."""
    store = await opened(timeout=0.2)
    store._session.guard.breaker = Breaker()
    for _ in range(2):  # three attempts each
        with pytest.raises(StorageTimeoutError, match="longer than its limit"):
            await store.sql.query("select pg_sleep(5)")
    assert await store.kv.get("a") is None


@pytest.mark.anyio
async def test_isolation_is_what_was_asked_for(opened: Any) -> None:
    """TXN-2."""
    store = (await opened()).namespace("levels")
    for level, seen in (("read_committed", 2), ("repeatable_read", 1), ("serializable", 1)):
        await store.kv.put("a", 1)
        async with store.transaction(isolation=level) as tx:
            assert await tx.kv.get("a") == 1
            await asyncio.create_task(_outside(store))
            assert await tx.kv.get("a") == seen, level
    await store.kv.clear()


async def _outside(store: Store) -> None:
    from polymem.core.guard import in_transaction

    in_transaction.set(None)
    await store.kv.put("a", 2)


@pytest.mark.anyio
async def test_a_commit_that_was_a_rollback_says_so(opened: Any) -> None:
    """PostgreSQL answers COMMIT of a failed transaction with a quiet rollback."""
    from polymem.errors import StorageConflictError

    store = await opened()
    driver = store.engine.drivers("").transactions
    tx = await driver.begin(timeout=5)
    with pytest.raises(asyncpg.PostgresError):
        await tx._runner.fetch("select 1 / 0")
    with pytest.raises(StorageConflictError):
        await tx.commit()
    assert store.engine.pool_status()["used"] == 0


@pytest.mark.anyio
async def test_a_claim_is_one_holders_until_it_runs_out(opened: Any) -> None:
    """One sweeper for each database (G-6)."""
    clock = ManualClock()
    one, two = [(await opened(clock=clock)).engine for _ in range(2)]
    assert await one.lease("claim", "a", 10)
    assert not await two.lease("claim", "b", 10)
    assert await one.lease("claim", "a", 20)
    clock.advance(20)
    assert await two.lease("claim", "b", 10)
    assert not await one.lease("claim", "a", 10)
    assert await two.lease("claim", "b", 0)
    assert await one.lease("claim", "a", 0)


@pytest.mark.anyio
async def test_writes_of_one_tick_travel_together(opened: Any) -> None:
    """Puts and deletes of several namespaces, documents or not, keep their order for each key."""
    store = await opened()
    cells = [store.engine.drivers(f"batch{number}/").kv for number in range(3)]

    async def put(number: int, key: str, body: bytes, codec: str = "json") -> None:
        await cells[number % 3].put(key, body, codec, version=number, expires_at=None)

    await asyncio.gather(*(put(n, f"{n}", b"1" if n % 4 else b"", "json" if n % 4 else "other") for n in range(100)))
    assert await cells[0].get("0") == (b"", "other")
    assert await cells[1].get("1") == (b"1", "json")
    before = store.engine.pool_status()["size"]
    answers = await asyncio.gather(
        put(0, "x", b"1"), cells[0].delete("x"), put(0, "x", b"2"), cells[0].delete("y"), cells[0].delete("x"),
        cells[0].delete("x"), put(0, "x", b"3"), put(0, "x", b"4"), cells[1].delete("1"), cells[1].delete("1"),
    )  # fmt: skip
    assert answers == [None, True, None, False, True, False, None, None, True, False]
    assert await cells[0].get("x") == (b"4", "json")
    assert store.engine.pool_status()["size"] == before
    for cell in cells:
        await cell.clear()


@pytest.mark.anyio
async def test_dropping_a_namespace_waits_for_open_transactions(opened: Any) -> None:
    """What a transaction has written and not committed would otherwise outlive it."""
    store = (await opened()).namespace("dropped")
    async with store.transaction() as tx:
        await tx.namespace("n").kv.put("a", 1)
        await tx.namespace("n").turns.append("s", "user", "x")
        dropping = asyncio.create_task(_drop(store))
        await asyncio.sleep(0.1)
        assert not dropping.done()
    assert await dropping == 2
    assert await store.namespace("n").kv.count() == 0


async def _drop(store: Store) -> int:
    from polymem.core.guard import in_transaction

    in_transaction.set(None)
    return await store.drop_namespace("n")


@pytest.mark.anyio
async def test_turns_that_others_date_at_infinity(url: str, opened: Any) -> None:
    """PG-1: the table is everybody's, and what a datetime cannot hold is as near to it as can be."""
    store = (await opened()).namespace("endless")
    insert = "insert into active_context(tenant, session_id, turn_id, content, created_at, ttl_expires_at) values"
    run_sql(
        url, f"{insert} ('endless', 's', 1, 'x', '-infinity', 'infinity'), ('endless', 's', 2, 'y', 'infinity', null)"
    )
    second, first = await store.turns.recent("s")
    assert (first.created_at.year, first.expires_at.year) == (1, 9999)
    assert (second.created_at.year, second.expires_at) == (9999, None)
