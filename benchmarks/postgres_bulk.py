"""Bulk loading into PostgreSQL: polymem's `bulk_load` against a raw COPY of the same rows into a table of the same shape.

The raw side has its rows encoded beforehand and loads them in one COPY (binary), all at once, into a table without any
index but the key; polymem checks, encodes and upserts. Distinct JSON values of about 200 bytes. Starts a server itself
unless --url is given.
"""

import asyncio
import itertools
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import asyncpg
import msgspec
from report import Figure, arguments, finish
from server_kv import given_or, own_postgres

import polymem
from polymem.jobs.bench_kv import value
from polymem.jobs.measure import interleaved, ratios, spread

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
RATE, RATIO = 50_000, 1.3
TABLE = "drop table if exists raw_bulk; create table raw_bulk (like pm_kv including all)"
COLUMNS = ["namespace", "key", "body", "codec", "version", "created_at", "updated_at"]
Side = Callable[[], Awaitable[float]]


async def measure(url: str, options: Any) -> list[Figure]:
    numbers, count = itertools.count(), options.records
    raw = await asyncpg.connect(url)
    async with polymem.open(url, sweep_every=None) as store:
        await raw.execute(TABLE)

        def take() -> list[tuple[str, Any]]:
            return [(f"key:{number:012}", value(number)) for number in itertools.islice(numbers, count)]

        async def bulk() -> float:
            rows, started = take(), perf_counter()
            await store.kv.bulk_load(rows)
            return count / (perf_counter() - started)

        async def copy() -> float:
            rows = [("", key, msgspec.json.encode(body).decode(), "json", 1, 0, 0) for key, body in take()]
            started = perf_counter()
            await raw.copy_records_to_table("raw_bulk", records=rows, columns=COLUMNS)
            return count / (perf_counter() - started)

        sides: dict[str, Side] = {"polymem": bulk, "raw COPY": copy}
        rates = await interleaved(sides, options.rounds)
    await raw.close()
    slower = ratios(rates["raw COPY"], rates["polymem"])
    met = {"at_least": RATE} if slower.median > RATIO else {}
    return [
        Figure("bulk_load", spread(rates["polymem"]), "rows/s", **met),
        Figure("raw COPY", spread(rates["raw COPY"]), "rows/s"),
        Figure("raw COPY / bulk_load", slower, "x"),
    ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--records", type=int, default=50_000, help="of each side in each round (%(default)s)")
    parser.add_argument("--url", help="a PostgreSQL database; its tables pm_kv and raw_bulk are written")
    options = parser.parse_args()
    with given_or(
        options.url, lambda: own_postgres("bench-bulk", "fsync=on", "synchronous_commit=on", "max_wal_size=4GB")
    ) as url:
        figures = asyncio.run(measure(url, options))
    finish("PostgreSQL bulk loading", figures, options)


if __name__ == "__main__":
    main()
