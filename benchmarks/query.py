"""Queries over 100,000 records of one SQLite file: with an index, against hand-written SQL without one; writes."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import msgspec
from report import Figure, arguments, finish

import polymem
from polymem.contracts.filter import F
from polymem.jobs.measure import interleaved, ratios, spread

RECORDS = 100_000
WRITTEN = 2_000
INDEXED = ("user", "age", "profile.address.city")
BAR_MS = 5.0
BAR_RATIO = 1.10
LIVE = "namespace = 'bench/' and type = 'json' and (expires_at is null or expires_at > 1)"
NARROW, WIDE = F("user") == "user 77", F("age").between(30, 39)
decode = msgspec.json.decode


def record(number: int, rng: random.Random) -> dict[str, Any]:
    return {
        "user": f"user {rng.randrange(1000)}",
        "age": rng.randrange(100),
        "score": rng.random(),
        "profile": {"address": {"city": rng.choice(["Lisbon", "Porto", "Faro"])}},
        "tags": ["a", "b", rng.choice("cdefg")],
        "text": "lorem ipsum dolor sit amet " * 4,
        "n": number,
    }


async def milliseconds(work: Callable[[], Awaitable[Any]]) -> float:
    started = perf_counter()
    await work()
    return (perf_counter() - started) * 1000


async def fill(store: Any) -> None:
    rng = random.Random(7)
    for start in range(0, RECORDS, 5000):
        await store.kv.put_many({f"k{n:06}": record(n, rng) for n in range(start, start + 5000)})


def asked(kv: Any) -> dict[str, Callable[[], Awaitable[Any]]]:
    by_age: Any = [("age", "desc")]
    return {
        "count, 0.1 % match": lambda: kv.count(where=NARROW),
        "count, 1 % match": lambda: kv.count(where=F("age") == 30),
        "count, 10 % match": lambda: kv.count(where=WIDE),
        "first page of 20, 0.1 % match": lambda: kv.find_many(NARROW, limit=20),
        "first page of 20, 10 % match": lambda: kv.find_many(WIDE, limit=20),
        "first page of 20, 99 % match": lambda: kv.find_many(F("age") >= 1, limit=20),
        "first page of 20, 10 % match, by the indexed field": lambda: kv.find_many(WIDE, order_by=by_age, limit=20),
        "first page of 20, all, by the indexed field": lambda: kv.find_many(order_by=by_age, limit=20),
    }


def by_hand(store: Any) -> dict[str, tuple[Callable[[], Awaitable[Any]], Callable[[], Awaitable[Any]]]]:
    """The same questions to the library and as SQL on one of the engine's own reader connections."""
    kv, read = store.kv, store.engine._runner.read

    def sql(statement: str, *values: Any, documents: bool = False) -> Callable[[], Awaitable[Any]]:
        def run(connection: Any) -> Any:
            rows = connection.execute(statement, values).fetchall()
            return [(key, decode(text)) for key, text in rows] if documents else rows

        return lambda: read(run)

    async def collected(where: Any) -> Any:
        return [(entry.key, entry.value) async for entry in kv.query(where)]

    # as a careful author writes it: typeof, lest 1 equal true
    city = "json_extract(value, '$.profile.address.city') = ? and json_type(value, '$.profile.address.city') = 'text'"
    age = "json_extract(value, '$.age') = ? and json_type(value, '$.age') in ('integer', 'real')"
    total = f"select sum(json_extract(value, '$.n')), max(json_extract(value, '$.score')) from pm_kv where {LIVE}"
    return {
        "count of a third": (
            lambda: kv.count(where=F("profile.address.city") == "Porto"),
            sql(f"select count(*) from pm_kv where {LIVE} and {city}", "Porto"),
        ),
        "count, two conditions": (
            lambda: kv.count(where=(F("age") == 30) & (F("profile.address.city") == "Faro")),
            sql(f"select count(*) from pm_kv where {LIVE} and {age} and {city}", 30, "Faro"),
        ),
        "1 % read": (
            lambda: collected(F("age") == 30),
            sql(f"select key, value from pm_kv where {LIVE} and {age} order by key", 30, documents=True),
        ),
        "first 20 by a field": (
            lambda: kv.find_many(order_by=[("score", "desc")], limit=20),
            sql(
                f"select key, value from pm_kv where {LIVE} order by json_extract(value, '$.score') desc, key limit 20",
                documents=True,
            ),
        ),
        "sum and max (the sum exact)": (
            lambda: kv.aggregate({"total": ("sum", "n"), "top": ("max", "score")}),
            sql(total),
        ),
    }


async def measure(folder: Path, rounds: int) -> list[Figure]:
    figures = []
    async with polymem.open(f"sqlite:///{folder / 'query.db'}?cache_mb=256") as root:
        store = root.namespace("bench")
        await fill(store)
        for name, (ours, theirs) in by_hand(store).items():
            found = await interleaved(
                {"ours": lambda w=ours: milliseconds(w), "sql": lambda w=theirs: milliseconds(w)}, rounds
            )
            bar = None if name.startswith(("first", "sum")) else BAR_RATIO
            figures += [
                Figure(f"unindexed, {name}: query", spread(found["ours"]), "ms"),
                Figure(f"unindexed, {name}: hand-written SQL", spread(found["sql"]), "ms"),
                Figure(f"unindexed, {name}: ratio", ratios(found["ours"], found["sql"]), "x", at_most=bar),
            ]
        for path in ("user", "age"):
            took = await milliseconds(lambda path=path: store.kv.create_index(path))
            figures.append(Figure(f"create_index({path!r})", took, "ms"))
        work = {name: lambda w=w: milliseconds(w) for name, w in asked(store.kv).items()}
        found = await interleaved(work, rounds)
        figures += [Figure(f"indexed, {name}", spread(values), "ms", at_most=BAR_MS) for name, values in found.items()]
    return figures


async def measure_writes(folder: Path, rounds: int) -> list[Figure]:
    """Records written again and again to files with 0, 1 and 3 indexes, many in a call and one by one."""
    rng = random.Random(7)
    async with AsyncExitStack() as stack:
        work = {}
        for count in (0, 1, 3):
            kv = (await stack.enter_async_context(polymem.open(f"sqlite:///{folder / f'{count}.db'}"))).kv
            for path in INDEXED[:count]:
                await kv.create_index(path)
            work[f"put_many of {WRITTEN:,}, {count} indexes"] = lambda kv=kv: per_record(
                kv.put_many(records(rng)), WRITTEN
            )
            work[f"put, {count} indexes"] = lambda kv=kv: per_record(one_by_one(kv, records(rng)), WRITTEN // 10)
        found = await interleaved(work, rounds)
    return [Figure(f"{name}, per record", spread(values), "us") for name, values in found.items()]


def records(rng: random.Random) -> dict[str, Any]:
    return {f"k{n:06}": record(n, rng) for n in range(WRITTEN)}


async def one_by_one(kv: Any, documents: dict[str, Any]) -> None:
    for key in list(documents)[: WRITTEN // 10]:
        await kv.put(key, documents[key])


async def per_record(work: Awaitable[Any], count: int) -> float:
    started = perf_counter()
    await work
    return (perf_counter() - started) / count * 1e6


async def main() -> None:
    options = arguments(__doc__).parse_args()
    with TemporaryDirectory(dir=options.folder) as folder:
        figures = await measure(Path(folder), options.rounds)
        figures += await measure_writes(Path(folder), options.rounds)
        finish(f"Queries over {RECORDS:,} records", figures, options)


if __name__ == "__main__":
    asyncio.run(main())
