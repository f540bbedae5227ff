"""Key-value calls and conversation turns on PostgreSQL: polymem against asyncpg, every write durable.

Both sides encode and decode JSON values of about 200 bytes with msgspec; a put never writes what is there already. "held"
is one connection with held prepared statements, the quickest form for one task; "pool" is asyncpg's own with 10 connections,
one call at a time by each task; "pool, no reset" the same without the reset that it does at every release. "held, same" is
held and writes what polymem writes, by the same statement; every other put by asyncpg is a bare upsert of key and text: it
keeps no version, no instants and no expiry. The hand-written turns are two statements on a copy of the same table, for which
the writer must be alone. Starts a server itself, with fsync on, unless --url is given.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import getrandbits
from time import time_ns
from typing import Any

import asyncpg
import msgspec
from report import Figure, arguments, finish
from server_kv import Call, alone, crowded, given_or, own_postgres

import polymem
from polymem.engines.postgres._traffic import PUT as SAME
from polymem.jobs.bench_kv import value
from polymem.store import Store

KEYS, WINDOW, POOL = 5000, 10, 10
VALUES = [value(number) for number in range(7919)]  # made beforehand: that takes as long as a batched put
AT_64 = {"get": 6.0, "put": 5.0}
TABLES = """
create table if not exists raw_kv(key text primary key, body text not null);
create table if not exists raw_turns (like active_context including all);
"""
GET = "select body from raw_kv where key = $1"
PUT = "insert into raw_kv values ($1, $2) on conflict (key) do update set body = excluded.body"
APPEND = """
insert into raw_turns(session_id, turn_id, role, content)
select $1, coalesce(max(turn_id), 0) + 1, $2, $3 from raw_turns where tenant = 'default' and session_id = $1
returning turn_id"""
RECENT = f"""
select uid, turn_id, role, content, metadata, created_at, ttl_expires_at from raw_turns
where tenant = 'default' and session_id = $1 and (ttl_expires_at is null or ttl_expires_at > now())
order by turn_id desc limit {WINDOW}"""
decode, encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode
Fetch = Callable[..., Awaitable[list[Any]]]


def polymem_calls(store: Store) -> dict[str, Call]:
    fresh = itertools.cycle(VALUES)

    async def turn(number: int) -> None:
        await store.turns.append(f"s{number % 100}", "user", "x" * 150)
        await store.turns.recent(f"s{number % 100}", limit=WINDOW)

    return {
        "put": lambda n: store.kv.put(f"key:{n % KEYS}", next(fresh)),
        "get": lambda n: store.kv.get(f"key:{n % KEYS}"),
        "turn": turn,
    }


async def same_put(connection: asyncpg.Connection) -> dict[str, Call]:
    """The statement of polymem, on a table like its own."""
    await connection.execute("create table if not exists raw_same (like pm_kv including all)")
    statement, fresh = await connection.prepare(SAME.replace("pm_kv", "raw_same")), itertools.cycle(VALUES)

    async def put(number: int) -> None:
        body, now = encode(next(fresh)).decode(), time_ns() // 1000
        await statement.fetch("", f"key:{number % KEYS}", body, None, "json", getrandbits(63), now, None)

    for number in range(KEYS):
        await put(number)
    return {"put": put}


def asyncpg_calls(fetch: Fetch) -> dict[str, Call]:
    fresh = itertools.cycle(VALUES)

    async def get(number: int) -> Any:
        ((body,),) = await fetch(GET, f"key:{number % KEYS}")
        return decode(body)

    async def put(number: int) -> None:
        await fetch(PUT, f"key:{number % KEYS}", encode(next(fresh)).decode())

    async def turn(number: int) -> Any:
        session = f"s{number % 100}"
        await fetch(APPEND, session, "user", "x" * 150)
        return [(*row[:4], decode(row[4]), *row[5:]) for row in await fetch(RECENT, session)]

    return {"put": put, "get": get, "turn": turn}


async def held(connection: asyncpg.Connection) -> Fetch:
    prepared = {statement: await connection.prepare(statement) for statement in (GET, PUT, APPEND, RECENT)}
    return lambda statement, *values: prepared[statement].fetch(*values)


async def without_reset(_: Any) -> None: ...


@asynccontextmanager
async def rivals(url: str) -> AsyncIterator[dict[str, dict[str, Call]]]:
    async with (
        asyncpg.create_pool(url, min_size=POOL, max_size=POOL) as pool,
        asyncpg.create_pool(url, min_size=POOL, max_size=POOL, reset=without_reset) as quick,
    ):
        yield {"pool": asyncpg_calls(pool.fetch), "pool, no reset": asyncpg_calls(quick.fetch)}


async def compare(url: str, options: Any) -> list[Figure]:
    figures: list[Figure] = []
    connection = await asyncpg.connect(url)
    async with polymem.open(url, sweep_every=None) as store, rivals(url) as pools:
        await connection.execute(TABLES)
        mine, theirs = polymem_calls(store), asyncpg_calls(await held(connection))
        same = {"held, same": await same_put(connection)}
        await asyncio.gather(*map(mine["put"], range(KEYS)))
        await connection.executemany(PUT, [(f"key:{n}", encode(value(n)).decode()) for n in range(KEYS)])
        for operation in ("get", "put", "turn"):
            figures += await alone(operation, mine, {**(same if operation == "put" else {}), "held": theirs}, options)
        for operation in ("get", "put"):
            figures += await crowded(operation, mine, pools, options, at_least=AT_64[operation])
    await connection.close()
    return figures


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each side in each round (%(default)s)")
    parser.add_argument("--url", help="a PostgreSQL database; its tables pm_kv, raw_kv and so on are written")
    options = parser.parse_args()
    with given_or(
        options.url, lambda: own_postgres("bench", "fsync=on", "synchronous_commit=on", "autovacuum=off")
    ) as url:
        figures = asyncio.run(compare(url, options))
    finish("PostgreSQL key-value and turns", figures, options)


if __name__ == "__main__":
    main()
