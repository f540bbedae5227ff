"""Vector search on PostgreSQL with pgvector: polymem against SQL written by hand on a table of its own.

Vectors of 384 numbers around a few thousand centres, as embeddings are. By hand is what one would write: a typed column,
an index HNSW or IVFFlat (or none), a held prepared statement with the settings of the scan made once for the session, rows
with id and score. Polymem reads the vectors found as well, to score them like its other engines. "tenant" filters one in a
hundred: by hand by a column with an index, here by a member of the payload. Recall is against NumPy. Starts a server
itself unless --url is given.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import asyncpg
import numpy as np
from report import Figure, arguments, finish
from server_kv import given_or, own_postgres

import polymem
from polymem.contracts.vectors import Vectors
from polymem.engines.postgres._vector_index import lists_for, probes_for
from polymem.engines.postgres.search import index_vectors
from polymem.jobs.measure import interleaved, ratios, spread

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
DIMENSIONS, CENTRES, TENANTS, BATCH, TOP = 384, 2000, 100, 1000, 10
RATIO, RECALL, TENANT_RECALL = 1.5, 0.95, 0.99
TABLE = f"""
drop table if exists raw_vectors;
create table raw_vectors(id text primary key, tenant int not null, embedding vector({DIMENSIONS}) not null);
insert into raw_vectors select id, (payload::json ->> 'tenant')::int, embedding from pm_vectors;
create index on raw_vectors(tenant)"""
INDEXES = {
    "exact": "",
    "ivfflat": "drop index if exists raw_index; "
    "create index raw_index on raw_vectors using ivfflat (embedding vector_cosine_ops) with (lists = {lists}); "
    "set ivfflat.probes = {probes}; set ivfflat.iterative_scan = relaxed_order",
    "hnsw": "drop index if exists raw_index; "
    "create index raw_index on raw_vectors using hnsw (embedding vector_cosine_ops); "
    "set hnsw.ef_search = 120; set hnsw.iterative_scan = strict_order",
}
SEARCH = f"select id, 1 - (embedding <=> $1) as score from raw_vectors {{where}} order by embedding <=> $1 limit {TOP}"
Search = Callable[[int], Awaitable[list[str]]]


def points(count: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    centres = np.random.default_rng(0).normal(size=(CENTRES, DIMENSIONS))
    random = np.random.default_rng(seed)
    rows = centres[random.integers(CENTRES, size=count)] + 0.6 * random.normal(size=(count, DIMENSIONS))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def nearest(rows: np.ndarray[Any, Any], queries: np.ndarray[Any, Any], tenant: int | None) -> list[set[str]]:
    numbers = np.arange(len(rows)) if tenant is None else np.arange(tenant, len(rows), TENANTS)
    close = queries @ rows[numbers].T
    return [{f"{numbers[n]:08}" for n in np.argsort(-row)[:TOP]} for row in close]


async def fill(url: str, rows: np.ndarray[Any, Any]) -> float:
    async with polymem.open(url, vector_index="exact") as store:
        vectors = store.vectors("bench", dimensions=DIMENSIONS)
        await vectors.clear()
        started = perf_counter()
        for at in range(0, len(rows), BATCH):
            batch = range(at, min(at + BATCH, len(rows)))
            await vectors.put_many((f"{n:08}", rows[n], {"tenant": n % TENANTS}) for n in batch)
        return len(rows) / (perf_counter() - started)


def by_polymem(vectors: Vectors, queries: np.ndarray[Any, Any], where: dict[str, Any] | None) -> Search:
    async def search(number: int) -> list[str]:
        return [hit.id for hit in await vectors.search(queries[number], limit=TOP, where=where)]

    return search


async def by_hand(raw: asyncpg.Connection, queries: np.ndarray[Any, Any], tenant: int | None) -> Search:
    held = await raw.prepare(SEARCH.format(where="" if tenant is None else f"where tenant = {tenant}"))

    async def search(number: int) -> list[str]:
        given = "[" + ",".join(map(str, queries[number].tolist())) + "]"
        return [row["id"] for row in await held.fetch(given)]

    return search


async def median(search: Search, count: int) -> float:
    taken = []
    for number in range(count):
        started = perf_counter()
        await search(number)
        taken.append(perf_counter() - started)
    return float(np.median(taken))


async def recall(search: Search, truth: list[set[str]]) -> float:
    found = [len(ids & set(await search(number))) / len(ids) for number, ids in enumerate(truth)]
    return float(np.mean(found))


async def compare(name: str, sides: dict[str, Search], truth: list[set[str]], options: Any) -> list[Figure]:
    each = {side: partial(median, search, options.calls) for side, search in sides.items()}
    times = await interleaved(each, options.rounds)
    found = {side: await recall(search, truth) for side, search in sides.items()}
    filtered = "tenant" in name  # it is read by an index either way; so few rows are found that fixed costs tell
    least = TENANT_RECALL if filtered else RECALL
    return [
        *(Figure(f"{name}: {side}, p50", spread(1e3 * t for t in times[side]), "ms") for side in sides),
        Figure(
            f"{name}: polymem / by hand",
            ratios(times["polymem"], times["by hand"]),
            "x",
            at_most=None if filtered else RATIO,
        ),
        Figure(f"{name}: recall@{TOP} by hand", found["by hand"]),
        Figure(f"{name}: recall@{TOP}", found["polymem"], at_least=least),
    ]


async def measure(url: str, options: Any) -> list[Figure]:
    rows, queries = points(options.records, 1), points(options.calls, 2)
    figures = [Figure("put_many", await fill(url, rows), "vectors/s")]
    raw = await asyncpg.connect(url)
    await raw.execute(TABLE)
    for index in options.indexes or INDEXES:
        async with polymem.open(url, vector_index=index) as store:
            vectors = store.vectors("bench", dimensions=DIMENSIONS)
            started = perf_counter()
            if index != "exact":
                await index_vectors(vectors)
                figures.append(Figure(f"{index}: making the index", perf_counter() - started, "s"))
                lists = lists_for(len(rows))
                await raw.execute(INDEXES[index].format(lists=lists, probes=probes_for(lists)))
            await raw.execute("vacuum analyze raw_vectors")
            await raw.execute("vacuum analyze pm_vectors")
            for name, tenant in ((index, None), (f"{index}, tenant", 7)):
                where = None if tenant is None else {"tenant": tenant}
                sides = {
                    "polymem": by_polymem(vectors, queries, where),
                    "by hand": await by_hand(raw, queries, tenant),
                }
                figures += await compare(name, sides, nearest(rows, queries, tenant), options)
    await raw.close()
    return figures


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--records", type=int, default=100_000, help="vectors (%(default)s)")
    parser.add_argument("--calls", type=int, default=40, help="searches of each side in each round (%(default)s)")
    parser.add_argument("--indexes", nargs="*", choices=INDEXES, help="only with these (all)")
    parser.add_argument("--url", help="a PostgreSQL database; its tables pm_vectors and raw_vectors are written")
    options = parser.parse_args()
    with given_or(
        options.url,
        lambda: own_postgres("bench-vectors", "shared_buffers=1GB", "maintenance_work_mem=512MB", "max_wal_size=4GB"),
    ) as url:
        figures = asyncio.run(measure(url, options))
    finish("PostgreSQL vectors", figures, options)


if __name__ == "__main__":
    main()
