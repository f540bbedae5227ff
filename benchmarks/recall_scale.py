"""Recall on tenants of many sizes: speed, memory, file size, against FTS5 in the same process.

Real turns and questions, repeated with other sessions and dates until there are enough of them.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import apsw
from dataset import Dataset, Searches, ingest, load
from report import Figure, arguments, finish, rss_mb

import polymem
from polymem.jobs.measure import Latencies, interleaved, latencies, ratios, spread
from polymem.memory.memory import Memory
from polymem.memory.ranking import CANDIDATES, question_words

TENANTS, TURNS_EACH = 10_000, 10
ASKED = 200
OPENED = 3
BARRED = 100_000
"""The size of tenant that the bars are for."""


async def timed(call: Callable[[str], Awaitable[object]], questions: Sequence[str]) -> Latencies:
    """One call after another."""
    took = []
    for question in questions:
        started = perf_counter()
        await call(question)
        took.append(perf_counter() - started)
    return latencies(took)


class FTS5:
    """The same documents in an FTS5 table, as one would do by hand: OR of the question's words, BM25, ten best."""

    def __init__(self, path: Path) -> None:
        self.connection = apsw.Connection(str(path))
        self.connection.execute("pragma journal_mode=wal")
        self.connection.execute(
            "create virtual table texts using fts5(id unindexed, text, tokenize='porter unicode61')"
        )

    def put(self, rows: Sequence[tuple[str, str]]) -> None:
        with self.connection:
            self.connection.executemany("insert into texts values(?, ?)", rows)

    def search(self, question: str, limit: int) -> list[Any]:
        words = " OR ".join(f'"{word}"' for word in question_words(question))
        query = "select id, text, rank from texts where texts match ? order by rank limit ?"
        return self.connection.execute(query, (words, limit)).fetchall()


async def tenant_of(size: int, dataset: Dataset, folder: Path, rounds: int) -> list[Figure]:
    """Everything about one tenant with `size` turns."""
    path, barred = folder / f"{size}.db", size == BARRED
    name = f"{size:,} turns"
    before = rss_mb()
    async with Memory.open(f"sqlite:///{path}", sweep_every=None) as memory:
        if memory.embedder is not None:
            await memory.embedder.embed("loads the model")
        started = perf_counter()
        await ingest(memory, dataset, size)
        rate = size / (perf_counter() - started)
    questions = dataset.questions[:ASKED]
    async with Memory.open(f"sqlite:///{path}", sweep_every=None) as memory:
        searches = Searches(memory, size)
        await searches.recall(questions[0])
        text = await timed(searches.text, questions)
        wide = await timed(searches.wide_text, questions)
        vector = await timed(searches.vector, questions)
        recall = await timed(searches.recall, questions)
        used = rss_mb() - before
        raw = await against_fts5(searches, folder / f"{size}-fts5.db", questions, rounds)
    opened = [first_recall(path, questions[0]) for _ in range(OPENED)]

    def bar(limit: float) -> float | None:
        return limit if barred else None

    return [
        Figure(f"{name}: ingest with embedding", rate, "turns/s", at_least=bar(2000)),
        Figure(f"{name}: text search p50", text.p50, "ms", at_most=bar(15)),
        Figure(f"{name}: text search p95", text.p95, "ms", at_most=bar(40)),
        Figure(f"{name}: text search of {CANDIDATES} p50", wide.p50, "ms"),
        Figure(f"{name}: text search of {CANDIDATES} p95", wide.p95, "ms"),
        *raw_figures(name, raw),
        Figure(f"{name}: vector search p50", vector.p50, "ms", at_most=bar(6)),
        Figure(f"{name}: vector search p95", vector.p95, "ms"),
        Figure(f"{name}: whole recall p50", recall.p50, "ms", at_most=bar(25)),
        Figure(f"{name}: whole recall p95", recall.p95, "ms", at_most=bar(60)),
        Figure(f"{name}: open + first recall", spread(one["seconds"] for one in opened), "s", at_most=bar(1.5)),
        Figure(f"{name}: of that, open", spread(one["open"] for one in opened), "s"),
        Figure(f"{name}: memory after first recall", spread(one["rss_mb"] for one in opened), "MB"),
        Figure(f"{name}: memory of this process, grown by", used, "MB"),
        Figure(f"{name}: file", path.stat().st_size / 1e6, "MB"),
    ]


async def against_fts5(searches: Searches, path: Path, questions: Sequence[str], rounds: int) -> dict[str, list[float]]:
    """The seconds that the same questions take, round by round."""
    fts5 = FTS5(path)
    chunk: list[tuple[str, str]] = []
    async for record in searches.memory.scan():
        speaker = record.speaker or record.role or ""
        chunk.append((record.id, f"{record.at:%-d %B %Y} | {speaker}: {record.text}"))
        if len(chunk) == 5000:
            fts5.put(chunk)
            chunk = []
    fts5.put(chunk)
    some = questions[:50]

    async def raw() -> float:
        started = perf_counter()
        for question in some:
            fts5.search(question, 10)
        return perf_counter() - started

    def ours(call: Callable[[str], Awaitable[object]]) -> Callable[[], Awaitable[float]]:
        async def run() -> float:
            started = perf_counter()
            for question in some:
                await call(question)
            return perf_counter() - started

        return run

    sides = {"polymem": ours(searches.text), "all words": ours(searches.all_words), "fts5": raw}
    measured = await interleaved(sides, rounds)
    fts5.connection.close()
    return {side: [1000 * one / len(some) for one in found] for side, found in measured.items()}


def raw_figures(name: str, found: dict[str, list[float]]) -> list[Figure]:
    return [
        Figure(f"{name}: FTS5 mean of a search", spread(found["fts5"]), "ms"),
        Figure(f"{name}: FTS5 / text search", ratios(found["fts5"], found["polymem"]), "x"),
        Figure(f"{name}: FTS5 / text search of every word", ratios(found["fts5"], found["all words"]), "x"),
    ]


def first_recall(path: Path, question: str, tenant: str = "default") -> dict[str, float]:
    """Open a file and recall once, in a new process; the imports are not counted, the model and indexes are."""
    command = [sys.executable, __file__, "--first-recall", str(path), question, tenant]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


async def _first_recall(path: str, question: str, tenant: str) -> dict[str, float]:
    started = perf_counter()
    async with Memory.open(f"sqlite:///{path}", tenant=tenant, sweep_every=None) as memory:
        opened = perf_counter() - started
        hits = await memory.recall(question)
        seconds = perf_counter() - started
        assert hits
    return {"open": opened, "seconds": seconds, "rss_mb": rss_mb()}


async def small_tenants(dataset: Dataset, folder: Path, tenants: int) -> list[Figure]:
    """Many tenants of few turns each in one file."""
    path, chance = folder / "tenants.db", random.Random(0)
    before = rss_mb()
    async with polymem.open(f"sqlite:///{path}", sweep_every=None) as store:
        count, started = len(dataset.utterances), perf_counter()
        for number in range(tenants):
            first = number * TURNS_EACH % (count - TURNS_EACH)
            own = Dataset(dataset.utterances[first : first + TURNS_EACH], [])
            async with Memory(store, tenant=f"tenant {number}") as memory:
                await ingest(memory, own, TURNS_EACH)
        rate = tenants * TURNS_EACH / (perf_counter() - started)

        async def recall(question: str) -> None:
            async with Memory(store, tenant=f"tenant {chance.randrange(tenants)}") as memory:
                await memory.recall(question)

        latency = await timed(recall, [dataset.questions[n % len(dataset.questions)] for n in range(10 * ASKED)])
        used = rss_mb() - before
    opened = [first_recall(path, dataset.utterances[0][1].text, "tenant 0") for _ in range(OPENED)]
    name = f"{tenants:,} tenants of {TURNS_EACH} turns"
    return [
        Figure(f"{name}: ingest with embedding", rate, "turns/s"),
        Figure(f"{name}: whole recall of any tenant p50", latency.p50, "ms"),
        Figure(f"{name}: whole recall of any tenant p95", latency.p95, "ms"),
        Figure(f"{name}: open + first recall", spread(one["seconds"] for one in opened), "s"),
        Figure(f"{name}: memory after first recall", spread(one["rss_mb"] for one in opened), "MB"),
        Figure(f"{name}: memory of this process, grown by", used, "MB"),
        Figure(f"{name}: file", path.stat().st_size / 1e6, "MB"),
    ]


async def measure(options: argparse.Namespace) -> None:
    dataset = load(options.dataset)
    figures: list[Figure] = []
    for size in [*options.sizes, *([1_000_000] if options.million else [])]:
        with TemporaryDirectory(dir=options.folder) as folder:
            figures += await tenant_of(size, dataset, Path(folder), options.rounds)
    if options.tenants:
        with TemporaryDirectory(dir=options.folder) as folder:
            figures += await small_tenants(dataset, Path(folder), options.tenants)
    finish("Recall by size of tenant", figures, options)


def main() -> None:
    if sys.argv[1:2] == ["--first-recall"]:
        print(json.dumps(asyncio.run(_first_recall(*sys.argv[2:5]))))
        return
    parser = arguments(__doc__)
    parser.add_argument("dataset", type=Path, nargs="?", help="LoCoMo file or BEAM folder; made-up words without one")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000], help="(%(default)s)")
    parser.add_argument("--million", action="store_true", help="a tenant of 1,000,000 turns too")
    parser.add_argument("--tenants", type=int, default=TENANTS, help="of ten turns each (%(default)s)")
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
