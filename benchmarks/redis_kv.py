"""Key-value calls and conversation turns on Redis: polymem against redis-py with hiredis.

Both sides encode and decode JSON values of about 200 bytes with msgspec. "held" is a client with one connection of
its own (`single_connection_client`), the quickest form for one task; "pool" the default pool, one call at a time by
each task; "blocking pool" the one that waits when it is empty. A put by redis-py is a bare SET: it keeps no version,
no instants and no index, which polymem's does. The hand-written turns are a pipeline of RPUSH, LTRIM and EXPIRE with
LRANGE. Starts redis-server itself unless --url is given.

With --cluster: 64 tasks on six nodes against redis-py's client of a Cluster, which spreads keys where polymem spreads
namespaces: each call is for one of 16.
"""

import asyncio
from typing import Any

import msgspec
from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from report import Figure, arguments, finish
from server_kv import Call, alone, crowded, given_or, own_redis

import polymem
from polymem.jobs.bench_kv import value
from polymem.store import Store

KEYS, WINDOW = 5000, 10
NAMESPACES = 16
AT_64 = 5.0
decode, encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode
VALUES = [value(number) for number in range(KEYS)]


def polymem_calls(store: Store) -> dict[str, Call]:
    async def turn(number: int) -> None:
        await store.turns.append(f"s{number % 100}", "user", "x" * 150)
        await store.turns.recent(f"s{number % 100}", limit=WINDOW)

    return {
        "put": lambda n: store.kv.put(f"key:{n % KEYS}", VALUES[n * 7 % KEYS]),
        "get": lambda n: store.kv.get(f"key:{n % KEYS}"),
        "turn": turn,
    }


def redis_calls(client: Redis | RedisCluster) -> dict[str, Call]:
    async def get(number: int) -> Any:
        stored = await client.get(f"raw:key:{number % KEYS}")
        return decode(stored)

    async def put(number: int) -> None:
        await client.set(f"raw:key:{number % KEYS}", encode(VALUES[number * 7 % KEYS]))

    async def turn(number: int) -> Any:
        key = f"raw:turns:{number % 100}"
        writing = client.pipeline(transaction=True)
        writing.rpush(key, encode({"role": "user", "content": "x" * 150})).ltrim(key, -WINDOW, -1).expire(key, 86_400)
        await writing.execute()
        return [decode(one) for one in await client.lrange(key, -WINDOW, -1)]

    return {"put": put, "get": get, "turn": turn}


async def compare(url: str, options: Any) -> list[Figure]:
    figures: list[Figure] = []
    held, pool = Redis.from_url(url, single_connection_client=True), Redis.from_url(url)
    waiting = Redis(connection_pool=BlockingConnectionPool.from_url(url, max_connections=10))
    async with polymem.open(url, sweep_every=None, prefix="bench", turn_window=WINDOW) as store:
        mine = polymem_calls(store)
        for number in range(KEYS):
            await asyncio.gather(mine["put"](number), redis_calls(pool)["put"](number))
        for operation in ("get", "put", "turn"):
            figures += await alone(operation, mine, {"held": redis_calls(held)}, options)
        for operation in ("get", "put"):
            rivals = {"pool": redis_calls(pool), "blocking pool": redis_calls(waiting)}
            figures += await crowded(operation, mine, rivals, options, at_least=AT_64)
    for client in (held, pool, waiting):
        await client.aclose(close_connection_pool=True)
    return figures


async def compare_cluster(url: str, options: Any) -> list[Figure]:
    figures: list[Figure] = []
    client = RedisCluster.from_url(url.replace("redis+cluster", "redis"))
    async with polymem.open(url, sweep_every=None, prefix="bench") as store:
        spaces = [polymem_calls(store.namespace(f"n{number}")) for number in range(NAMESPACES)]
        mine = {name: spread_calls([space[name] for space in spaces]) for name in ("get", "put")}
        theirs = redis_calls(client)
        for number in range(KEYS):
            await asyncio.gather(mine["put"](number), theirs["put"](number))
        for operation in ("get", "put"):
            figures += await crowded(operation, mine, {"RedisCluster": theirs}, options, at_least=None)
    await client.aclose()
    return figures


def spread_calls(calls: list[Call]) -> Call:
    return lambda number: calls[number % KEYS % len(calls)](number)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each side in each round (%(default)s)")
    parser.add_argument("--url", help="a Redis server; keys that begin with bench and raw: are written")
    parser.add_argument("--cluster", action="store_true", help="measure on a Cluster")
    options = parser.parse_args()
    compared = compare_cluster if options.cluster else compare
    with given_or(options.url, lambda: own_redis(cluster=options.cluster)) as url:
        figures = asyncio.run(compared(url, options))
    finish("Redis Cluster" if options.cluster else "Redis key-value and turns", figures, options)


if __name__ == "__main__":
    main()
