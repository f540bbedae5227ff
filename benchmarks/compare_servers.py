"""Who is compared with Polymem on PostgreSQL and on Redis: the drivers by hand, and the peers as they document it.

All of a group use one database of one server, each with tables or keys of its own. LangGraph's store for Redis does not
take part: it needs a server with the modules RediSearch and RedisJSON, which neither Redis 7 nor a plain Redis 8 has.
"""

import warnings
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
from compare_contestant import Contestant, Described, Kind
from compare_peers import AioCache, LangGraph, PyKeyValue
from compare_polymem import Polymem, decode, encode
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis

POOL = 10
"""Connections, asyncpg's own choice."""
CLIENTS = 300
"""Connections to Redis: by itself redis-py raises an error when more than 100 tasks call at once."""
RAW, PEER, AIO = "compare-raw:", "compare-peer", "compare-aio"
DATABASE = "polymem_compare"
LESS = (
    "a bare upsert of key and text: no versions, instants or expiry; a call has a connection of its own and does not wait "
    "for others to share a statement with"
)
ALONE = "a call has a connection of its own and does not wait for others to share a statement with"
BARE = (
    "a bare SET: no versions, instants or list of keys, which Polymem keeps by a script on the server; a large value "
    "is checked for what JSON cannot hold, which takes longer than sending it"
)
TABLE = "create table if not exists compare_raw(key text primary key, body text not null)"
GET = "select body from compare_raw where key = $1"
GET_MANY = "select key, body from compare_raw where key = any($1::text[])"
UPSERT = "on conflict (key) do update set body = excluded.body"
PUT = f"insert into compare_raw values ($1, $2) {UPSERT}"
PUT_MANY = f"insert into compare_raw select * from unnest($1::text[], $2::text[]) {UPSERT}"


@asynccontextmanager
async def fresh_database(url: str) -> AsyncIterator[str]:
    """The URL of an empty database, dropped afterwards: nobody is slowed down by what another size left."""
    admin = await asyncpg.connect(url)
    await admin.execute(f"drop database if exists {DATABASE} with (force)")
    await admin.execute(f"create database {DATABASE} template template0")
    try:
        yield urlsplit(url)._replace(path=f"/{DATABASE}").geturl()
    finally:
        await admin.execute(f"drop database {DATABASE} with (force)")
        await admin.close()


@asynccontextmanager
async def fresh_keys(url: str) -> AsyncIterator[str]:
    """The same URL; what the drivers and peers put is removed afterwards."""
    yield url
    async with Redis.from_url(url) as client:
        for prefix in (RAW, PEER, AIO):
            async for key in client.scan_iter(f"{prefix}*", count=1000):
                await client.unlink(key)


def on_postgres(url: str) -> Sequence[Contestant]:
    return (
        Polymem("polymem postgres", url, "msgspec; calls of one moment share a statement"),
        Asyncpg("asyncpg, pool", url, f"raw driver, msgspec; a pool of {POOL}, one call at a time on a connection"),
        Asyncpg("asyncpg, pool, no reset", url, "the same without the reset at every release", reset=_no_reset),
        PyKeyValue("PostgreSQLStore", lambda _: _postgres_store(url), f"`json`; asyncpg's pool of {POOL}", ALONE),
        LangGraphPostgres(url),
        LangGraphPlain(url),
    )


def on_redis(url: str) -> Sequence[Contestant]:
    pool = ConnectionPool.from_url(url, max_connections=CLIENTS)
    waiting = BlockingConnectionPool.from_url(url, max_connections=POOL)
    return (
        Polymem("polymem redis", url, "msgspec; calls of one moment share a command"),
        RedisPy("redis-py, pool", pool, "raw driver, msgspec; a connection for each call under way"),
        RedisPy("redis-py, blocking pool", waiting, f"the same with {POOL} connections, for which calls wait"),
        PyKeyValueRedis(url),
        AioCacheRedis(url),
    )


async def _no_reset(_: Any) -> None: ...


class Asyncpg(Described):
    """Its own pool: each call takes a connection, on which the statement is prepared, and gives it back."""

    kind: Kind = "raw"
    why = LESS

    def __init__(self, name: str, url: str, note: str, **options: Any) -> None:
        self.name, self.note, self._url, self._options = name, note, url, options

    async def open(self, folder: Path) -> None:
        self._pool = await asyncpg.create_pool(self._url, min_size=POOL, max_size=POOL, **self._options)
        await self._pool.execute(TABLE)

    async def close(self) -> None:
        await self._pool.close()

    async def get(self, key: str) -> Any:
        return decode(await self._pool.fetchval(GET, key))

    async def put(self, key: str, value: dict[str, Any]) -> None:
        await self._pool.execute(PUT, key, encode(value).decode())

    async def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        return {key: decode(body) for key, body in await self._pool.fetch(GET_MANY, keys)}

    async def put_many(self, items: Mapping[str, dict[str, Any]]) -> None:
        await self._pool.execute(PUT_MANY, list(items), [encode(value).decode() for value in items.values()])


def _postgres_store(url: str) -> Any:
    from key_value.aio.stores.postgresql import PostgreSQLStore

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that its format may change
        return PostgreSQLStore(url=url)


class LangGraphPostgres(LangGraph):
    """As its `from_conn_string` opens it: one connection, calls of one moment in one batch."""

    name = "LangGraph AsyncPostgresStore"
    note = "orjson; one connection; calls of one moment share a transaction, equal keys in it are done once"
    why = "of several puts of one key that wait together it writes the last, and it keeps no versions"
    _pool: Mapping[str, int] | None = None

    def __init__(self, url: str) -> None:
        self._url = url

    async def open(self, folder: Path) -> None:
        from langgraph.store.postgres import AsyncPostgresStore

        self._opened = AsyncExitStack()
        opening = AsyncPostgresStore.from_conn_string(self._url, pool_config=self._pool)
        self._store = await self._opened.enter_async_context(opening)
        await self._store.setup()

    async def close(self) -> None:
        self._store._task.cancel()
        await self._opened.aclose()


class LangGraphPlain(LangGraphPostgres):
    """Past the queue in which it collects calls, each on a connection of the pool that its documentation shows."""

    name = "LangGraph AsyncPostgresStore, unbatched"
    note = "orjson; a pool of 5 to 20, each call a batch of its own"
    why = ALONE
    _pool: Mapping[str, int] | None = {"min_size": 5, "max_size": 20}

    async def get(self, key: str) -> Any:
        return (await self.get_many([key]))[key]

    async def put(self, key: str, value: dict[str, Any]) -> None:
        await self.put_many({key: value})


class RedisPy(Described):
    kind: Kind = "raw"
    why = BARE

    def __init__(self, name: str, pool: ConnectionPool, note: str) -> None:
        self.name, self.note, self._client = name, note, Redis(connection_pool=pool)

    async def open(self, folder: Path) -> None:
        return

    async def close(self) -> None:
        await self._client.aclose(close_connection_pool=True)

    async def get(self, key: str) -> Any:
        return decode(await self._client.get(RAW + key))

    async def put(self, key: str, value: dict[str, Any]) -> None:
        await self._client.set(RAW + key, encode(value))

    async def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        found = await self._client.mget([RAW + key for key in keys])
        return {key: decode(body) for key, body in zip(keys, found, strict=True)}

    async def put_many(self, items: Mapping[str, dict[str, Any]]) -> None:
        await self._client.mset({RAW + key: encode(value) for key, value in items.items()})


class PyKeyValueRedis(PyKeyValue):
    """On a client of ours, which it leaves open: its own would raise an error when more than 100 tasks call at once."""

    def __init__(self, url: str) -> None:
        super().__init__(
            "RedisStore", self._on_client, "`json`; redis-py's pool, one call at a time on a connection", BARE
        )
        self._url = url

    def _on_client(self, _: Path) -> Any:
        from key_value.aio.stores.redis import RedisStore

        self._client = Redis.from_url(self._url, max_connections=CLIENTS, decode_responses=True)
        return RedisStore(client=self._client, default_collection=PEER)

    async def close(self) -> None:
        await super().close()
        await self._client.aclose()


class AioCacheRedis(AioCache):
    name = "aiocache Redis"
    note = "`json` encodes; redis-py's pool, one call at a time on a connection"
    why = BARE

    def __init__(self, url: str) -> None:
        self._url = f"{url}?pool_max_size={CLIENTS}"

    async def open(self, folder: Path) -> None:
        from aiocache import Cache
        from aiocache.serializers import JsonSerializer

        self._cache = Cache.from_url(self._url)
        self._cache.serializer, self._cache.namespace = JsonSerializer(), AIO
        self._cache.timeout = None  # 256 calls of 1 MB may take longer than its 5 seconds
        self.get, self.put = self._cache.get, self._cache.set

    async def close(self) -> None:
        await self._cache.close()
