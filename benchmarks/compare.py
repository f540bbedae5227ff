"""Polymem beside the raw drivers and its peers: the same documents, the same calls, in the same run.

Prints Markdown tables; `--markdown`, `--json` and `--plot` save them, the rates of every round, and a drawing. Needs
`pip install 'polymem[all,peers]'`. docs/benchmarks.md says what is compared and what the figures do not say. Alone on
the machine, please.
"""

import argparse
import asyncio
import gc
import itertools
import sys
import warnings
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import msgspec
from compare_contestant import Contestant
from compare_groups import GROUPS, Group
from compare_table import Cell, tables, verdict
from report import arguments, machine
from servers._process import Absent

from polymem.jobs.measure import interleaved, throughput

TASKS = (1, 16, 64, 256)
KEYS = {100: 1024, 10_000: 256, 1_000_000: 64}
BATCH = {100: 100, 10_000: 100, 1_000_000: 8}
"""Documents in a call of get_many and put_many."""
PEERS = (
    "apsw",
    "aiosqlite",
    "py-key-value-aio",
    "diskcache",
    "aiocache",
    "langgraph-checkpoint",
    "langgraph-checkpoint-sqlite",
    "asyncpg",
    "langgraph-checkpoint-postgres",
    "psycopg",
    "redis",
    "hiredis",
)
LONG, LATE, FEW_ROUNDS = 1.0, 900.0, 3
"""A round that takes more seconds than that, with a hundred calls and more of 1 MB by each side, is not repeated as often,
nor is any after a quarter of an hour.
"""
INTRODUCTION = (
    "Made by `python benchmarks/compare.py`. What is compared, and what the figures do not say: "
    "[benchmarks.md](benchmarks.md)."
)
VERSIONS = 37
"""Documents made beforehand, to be put again and again; prime to the keys, so a put never repeats what the key holds."""
WORDS = ("the", "of", "memory", "Ada", "Lisbon", "moved", "told", "morning", "because", "train", "report", "never")
Work = Callable[[int], Awaitable[object]]


def document(number: int, size: int) -> dict[str, Any]:
    """A conversation of about `size` bytes of JSON, unlike every other one."""
    turns: list[dict[str, Any]] = []
    found = {"id": number, "score": number / 7, "active": True, "turns": turns}
    missing = size - 60
    while missing > 0:
        words = (WORDS[(number * 31 + len(turns) * 7 + step * step) % len(WORDS)] for step in range(30))
        text = f"{number * 7919 + len(turns):x} {' '.join(words)}"[: max(missing - 40, 8)]
        turns.append({"role": "user", "text": text, "at": 1_700_000_000 + len(turns)})
        missing -= len(text) + 50
    return found


class Documents:
    """The keys and documents of one size, the same for every side; keys for every task to have one of its own."""

    def __init__(self, size: int, tasks: int) -> None:
        self.keys = [f"user:{number:04}:notes" for number in range(max(KEYS[size], tasks))]
        self._versions = [document(number, size) for number in range(VERSIONS)]
        self._batch = BATCH[size]

    def portions(self) -> Iterator[dict[str, Any]]:
        """All of them, as many at once as go into a call of `put_many`."""
        for start in range(0, len(self.keys), self._batch):
            yield {key: self.version(start + n) for n, key in enumerate(self.keys[start : start + self._batch])}

    def version(self, number: int) -> dict[str, Any]:
        return self._versions[number % VERSIONS]

    def key(self, number: int) -> str:
        return self.keys[number % len(self.keys)]

    def some(self, number: int) -> list[str]:
        return [self.key(number * self._batch + step) for step in range(self._batch)]

    def work(self, side: Any, operation: str) -> Work | None:
        """What one task does again and again; None where that side has no such call."""
        call, fresh = getattr(side, operation, None), itertools.count(len(self.keys))
        if call is None:
            return None
        return {
            "get": lambda number: call(self.key(number)),
            "put": lambda number: call(self.key(number), self.version(next(fresh))),
            "get_many": lambda number: call(self.some(number)),
            "put_many": lambda number: call({key: self.version(next(fresh)) for key in self.some(number)}),
        }[operation]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and for how long."""

    sizes: Sequence[int]
    tasks: Sequence[int]
    rounds: int
    seconds: float
    groups: Sequence[Group]
    late: float
    """The moment after which there are few rounds, for the whole to end."""

    def rounds_of(self, seconds: float) -> int:
        """How often a round that took so long is measured."""
        hasty = seconds > LONG or perf_counter() > self.late
        return min(FEW_ROUNDS, self.rounds) if hasty else self.rounds


async def measured(plan: Plan, folder: Path) -> list[Cell]:
    found: list[Cell] = []
    wanted = [(group, size) for group in plan.groups for size in plan.sizes if size <= group.largest]
    started = perf_counter()
    for number, (group, size) in enumerate(wanted, 1):
        minutes = (perf_counter() - started) / 60
        print(f"{minutes:4.1f} min: {number}/{len(wanted)} {group.name}, {size:,} bytes", file=sys.stderr, flush=True)
        with TemporaryDirectory(dir=folder) as place:
            found += await cells(group, size, plan, Path(place))
    return found


async def cells(group: Group, size: int, plan: Plan, folder: Path) -> list[Cell]:
    wanted = list(operations(plan, group))
    documents = Documents(size, max(tasks for _, tasks in wanted))
    async with group.fresh(group.url) as url, AsyncExitStack() as opened:
        sides = [await ready(side, folder / f"{n}", documents, opened) for n, side in enumerate(group.sides(url))]
        gc.collect()
        gc.freeze()  # what is open now is no garbage, and looking through it is nobody's work
        try:
            rates = [await rated(operation, tasks, sides, documents, plan) for operation, tasks in wanted]
        finally:
            gc.unfreeze()
    return [Cell(group.name, size, *work, sides[0].name, found) for work, found in zip(wanted, rates, strict=True)]


async def ready(side: Contestant, folder: Path, documents: Documents, opened: AsyncExitStack) -> Contestant:
    """The side open, filled, and found to give back what was put."""
    folder.mkdir()
    await side.open(folder)
    opened.push_async_callback(side.close)
    put_many = getattr(side, "put_many", None)
    for rows in documents.portions():
        if put_many is not None:
            await put_many(rows)
        else:
            for key, value in rows.items():
                await side.put(key, value)
    assert await side.get(documents.key(0)) == documents.version(0), side.name
    return side


def operations(plan: Plan, group: Group) -> Iterator[tuple[str, int]]:
    yield from itertools.product(("get", "put"), [tasks for tasks in plan.tasks if tasks in group.tasks])
    yield from (("get_many", 1), ("put_many", 1))


async def rated(
    operation: str, tasks: int, sides: Sequence[Contestant], documents: Documents, plan: Plan
) -> dict[str, list[float]]:
    """The calls per second of each side in each round."""
    work = {side.name: documents.work(side, operation) for side in sides}
    calls = {name: call for name, call in work.items() if call is not None}
    started = perf_counter()
    for call in calls.values():
        await turn(call, tasks, plan.seconds / 10)  # warm: caches, threads, pages
    rounds = plan.rounds_of(perf_counter() - started)
    turns: Mapping[str, Callable[[], Awaitable[float]]] = {
        name: partial(turn, call, tasks, plan.seconds) for name, call in calls.items()
    }
    return await interleaved(turns, rounds)


async def turn(call: Work, tasks: int, seconds: float) -> float:
    """Calls per second; again where the machine was so busy that its time was over before the first call."""
    await asyncio.sleep(0.005)  # what the side before it left to do, and left behind, is not to be done in its time
    gc.collect()
    while not (rate := await throughput(call, tasks=tasks, seconds=seconds)):
        pass
    return rate


def main() -> None:
    options = parsed()
    plan = planned(options)
    warnings.simplefilter("ignore", DeprecationWarning)  # the peers' affair
    started = perf_counter()
    with ExitStack() as servers, TemporaryDirectory(dir=options.folder) as folder:
        plan = replace(plan, groups=[located(group, options.url, servers) for group in plan.groups])
        cells = asyncio.run(measured(plan, Path(folder)))
    found = {**machine(options.folder), **versions(), "rounds": plan.rounds, "seconds of a turn": plan.seconds}
    print(f"took {(perf_counter() - started) / 60:.1f} minutes", file=sys.stderr)
    report(plan, cells, found, options)


def located(group: Group, urls: Sequence[str], servers: ExitStack) -> Group:
    """The group with the URL of its server, given or started; a comparison without it would look complete."""
    if group.server is None:
        return group
    try:
        given = (url for url in urls if url.startswith(group.name))
        return replace(group, url=next(given, "") or servers.enter_context(group.server()))
    except (Absent, OSError, RuntimeError) as error:
        raise SystemExit(f"no server for {group.name}: {error}; give its --url, or --without {group.name}") from error


def report(plan: Plan, cells: Sequence[Cell], found: Mapping[str, Any], options: argparse.Namespace) -> None:
    if options.json:
        saved = {"machine": found, "cells": cells}
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(saved), indent=2) + b"\n")
    text = "\n".join((
        f"\nMeasured with {', '.join(f'{name} {value}' for name, value in found.items())}.",
        tables(plan.groups, cells),
        verdict(plan.groups, cells),
    ))  # fmt: skip
    print(text)
    if options.markdown:
        picture = f"\n![calls per second by the number of tasks]({options.plot.name})\n" if options.plot else ""
        options.markdown.write_text(f"# Polymem beside its peers: the figures\n\n{INTRODUCTION}\n{picture}{text}\n")
    if options.plot:
        from compare_plot import draw

        draw(cells, options.plot)


def versions() -> dict[str, str]:
    """Of the drivers and peers that are installed."""
    found: dict[str, str] = {}
    for name in PEERS:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def parsed() -> argparse.Namespace:
    parser = arguments(__doc__ or "")
    parser.add_argument("--quick", action="store_true", help="shorter turns, 1 and 64 tasks")
    parser.add_argument("--seconds", type=float, help="of each side in each round")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(KEYS), choices=list(KEYS))
    parser.add_argument("--tasks", type=int, nargs="+")
    names = [group.name for group in GROUPS]
    parser.add_argument("--groups", nargs="+", choices=names, default=names)
    parser.add_argument("--without", nargs="+", choices=names, default=[], help="groups to leave out")
    parser.add_argument(
        "--url", nargs="+", default=[], type=known,
        help="servers to use rather than start: postgresql://... of one who may create databases, redis://...",
    )  # fmt: skip
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="save the tables")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the figures (.svg, .png)")
    return parser.parse_args()


def known(url: str) -> str:
    """As argparse wants it: a URL that a group can be on."""
    if not any(group.server and url.startswith(group.name) for group in GROUPS):
        raise argparse.ArgumentTypeError("expected postgresql://... or redis://...")
    return url


def planned(options: argparse.Namespace) -> Plan:
    groups = [group for group in GROUPS if group.name in options.groups and group.name not in options.without]
    tasks = options.tasks or ((1, 64) if options.quick else TASKS)
    seconds = options.seconds or (0.03 if options.quick else 0.06)
    return Plan(options.sizes, tasks, options.rounds, seconds, groups, perf_counter() + LATE)


if __name__ == "__main__":
    main()
