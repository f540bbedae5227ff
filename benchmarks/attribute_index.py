"""The attribute index on 100,000 entities with 10 attributes: lookups, boolean queries, one change, loading, memory.

The attributes: a flag (half of all have it), a status of 5, a language of 20, a team of 100, an author of 1,000,
three tags of 50 each, a year, a score (a float of its own), a title (a text of its own), a parent of 10,000.
"""

import asyncio
import multiprocessing
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from report import Figure, arguments, finish, rss_mb

import polymem
from polymem.attribute_index import AttributeIndex
from polymem.jobs.measure import Spread

Call = Callable[[], Awaitable[Any]]
LOOKUP, AND, CHANGE = 1.0, 5.0, 10.0
"""Bars in ms."""


def entity(number: int, chance: random.Random) -> tuple[str, dict[str, Any]]:
    return f"document:{number}", {
        "flag": chance.random() < 0.5,
        "status": f"status {chance.randrange(5)}",
        "language": f"l{chance.randrange(20)}",
        "team": f"team {chance.randrange(100)}",
        "author": f"author {chance.randrange(1000)}",
        "tags": [f"tag {tag}" for tag in chance.sample(range(50), 3)],
        "year": 1980 + chance.randrange(45),
        "score": chance.random(),
        "title": f"{chance.randrange(16**6):06x} title {number}",
        "parent": f"document:{chance.randrange(10_000)}",
    }


def queries(index: AttributeIndex) -> dict[str, tuple[Call, float | None]]:
    one, many = index.find_by_attribute, index.find_by_attributes
    common = [("flag", True), ("status", "status 1"), ("tags", "tag 7")]
    nineties = {"name": "year", "operator": "range", "low": 1990, "high": 1999}
    ranged = [nineties, ("flag", True), ("team", "team 5")]
    return {
        "lookup, 10 found (parent)": (lambda: one("parent", "document:77"), LOOKUP),
        "lookup, 100 found (author)": (lambda: one("author", "author 7"), LOOKUP),
        "lookup, 6,000 found (tag)": (lambda: one("tags", "tag 7"), LOOKUP),
        "lookup, 20,000 found (status)": (lambda: one("status", "status 1"), LOOKUP),
        "lookup, 50,000 found (flag)": (lambda: one("flag", True), LOOKUP),
        "AND of flag, status, tag": (lambda: many(common), AND),
        "AND of year range, flag, team": (lambda: many(ranged), AND),
        "AND of flag, flag, flag (50,000 found)": (lambda: many([("flag", True)] * 3), AND),
        "OR of flag, status, tag": (lambda: many(common, "OR"), None),
        "NOT flag, status, tag": (lambda: many(common, "NOT"), None),
        "range of 10 years": (lambda: one("year", operator="range", low=1990, high=1999), None),
        "range of 1,000 scores": (lambda: one("score", operator="range", low=0.5, high=0.51), None),
        "starts_with, 25 of 100,000 titles": (lambda: one("title", "00f", operator="starts_with"), None),
        "contains, over 100,000 titles": (lambda: one("title", "title 777", operator="contains"), None),
        "statistics": (index.statistics, None),
    }


async def timed(call: Call, times: int) -> Spread:
    """Milliseconds per call; the first, which may sort, is not counted."""
    await call()
    found = []
    for _ in range(times):
        started = perf_counter()
        await call()
        found.append((perf_counter() - started) * 1000)
    found.sort()
    return Spread(found[len(found) // 2], found[0], found[-1], times)


def changes(index: AttributeIndex, entities: int) -> dict[str, Call]:
    chance = random.Random(5)

    async def add() -> None:
        await index.add_attribute(f"document:{chance.randrange(entities)}", "note", f"note {chance.random()}")

    async def reindex() -> None:
        await index.index_entities([entity(chance.randrange(entities), chance)])

    async def remove() -> None:
        await index.remove_entity(f"document:{chance.randrange(entities)}")

    return {"add_attribute": add, "index_entities of one": reindex, "remove_entity": remove}


async def on(url: str, options: Any) -> list[Figure]:
    engine = url.partition(":")[0]
    chance = random.Random(7)
    rows = [entity(number, chance) for number in range(options.entities)]
    async with polymem.open(url, sweep_every=None) as store:
        started = perf_counter()
        await AttributeIndex(store, "documents").index_entities(rows)
        figures = [Figure("index all", perf_counter() - started, "s")]
        started = perf_counter()
        index = AttributeIndex(store, "documents")
        await index.load()
        figures.append(Figure("load", perf_counter() - started, "s"))
        for name, (call, bar) in queries(index).items():
            figures.append(Figure(name, await timed(call, options.times), "ms", at_most=bar))
        for name, call in changes(index, options.entities).items():
            figures.append(
                Figure(f"save of one change: {name}", await timed(call, options.times), "ms", at_most=CHANGE)
            )
        started = perf_counter()
        await index.refresh()
        figures.append(Figure("refresh, nothing changed", perf_counter() - started, "s"))
    return [Figure(f"{engine}: {f.name}", f.value, f.unit, f.at_most) for f in figures]


async def load(url: str) -> float:
    async with polymem.open(url, sweep_every=None) as store:
        before = rss_mb()
        index = AttributeIndex(store, "documents")
        await index.load()
        return rss_mb() - before


def memory_of(url: str) -> float:
    """MB that the index takes in a process that does nothing else."""
    return asyncio.run(load(url))


async def main() -> None:
    parser = arguments(__doc__ or "", rounds=None)
    parser.add_argument("--entities", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=200, help="calls of each kind (%(default)s)")
    options = parser.parse_args()
    with TemporaryDirectory(dir=options.folder) as name:
        urls = (f"sqlite:///{Path(name) / 'index.db'}", "memory:")
        figures = [figure for url in urls for figure in await on(url, options)]
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            figures.append(Figure("memory of the index", pool.apply(memory_of, urls[:1]), "MB"))
    finish("Attribute index", figures, options)


if __name__ == "__main__":
    asyncio.run(main())
