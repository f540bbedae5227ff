"""kill -9 in the middle of concurrent writes, again and again: is everything acknowledged there, and nothing half?

A child process writes with several tasks and reports each write on a pipe only after the call returned. Killed at a
random moment, it leaves a file that is opened, checked and written to by the next child. Exit code 1 if anything is
missing, half written or damaged.
"""

import asyncio
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from report import Figure, arguments, finish

import polymem
from polymem.jobs.bench_kv import value
from polymem.memory.memory import Memory
from polymem.store import Store


def acknowledge(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())  # one write: lines of several tasks don't mix


async def write(path: str, cycle: str) -> None:
    """The child: writes until it is killed."""
    async with polymem.open(f"sqlite:///{path}") as store, Memory(store, tenant="crash", embed=None) as memory:
        acknowledge("ready")
        await asyncio.gather(
            *(put(store, f"{cycle}.{task}") for task in range(12)),
            *(pairs(store, f"{cycle}.{task}") for task in range(2)),
            *(turns(memory, f"{cycle}.{task}") for task in range(2)),
        )


async def put(store: Store, name: str) -> None:
    for number in itertools.count():
        await store.kv.put(f"put {name}.{number}", value(number))
        acknowledge("put", name, number)


async def pairs(store: Store, name: str) -> None:
    """Two records that are only ever there together."""
    for number in itertools.count():
        async with store.transaction() as tx:
            await tx.kv.put(f"left {name}.{number}", value(number))
            await tx.kv.put(f"right {name}.{number}", value(number))
        acknowledge("pair", name, number)


async def turns(memory: Memory, name: str) -> None:
    for number in itertools.count():
        turn = await memory.session(f"turns {name}").add("user", f"turn number {number} of {name}")
        acknowledge("turn", name, number, turn)


def run_and_kill(path: Path, cycle: int, after: float) -> list[list[str]]:
    """What a child acknowledged before it was killed."""
    command = [sys.executable, __file__, "--writer", str(path), str(cycle)]
    with ThreadPoolExecutor(1) as threads, subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        first = child.stdout.readline()
        if first != b"ready\n":
            raise SystemExit(f"cycle {cycle}: the writer could not open the file")
        killer = threads.submit(_kill, child, after)
        lines = child.stdout.read().decode().splitlines()
    killer.result()
    if child.returncode != -signal.SIGKILL:  # it died of something else, so nothing was tested
        raise SystemExit(f"cycle {cycle}: the writer ended by itself with code {child.returncode}")
    return [line.split(" ") for line in lines]


def _kill(child: "subprocess.Popen[bytes]", after: float) -> None:
    time.sleep(after)
    child.kill()


async def missing(store: Store, memory: Memory, acknowledged: Sequence[list[str]]) -> list[str]:
    """What was acknowledged and isn't there, with its right content."""
    found = []
    for kind, name, number, *rest in acknowledged:
        if kind == "turn":
            record = await memory.get(rest[0] if len(rest) == 1 else " ".join(rest))
            there = record is not None and record.text == f"turn number {number} of {name}"
        else:
            keys = [f"put {name}.{number}"] if kind == "put" else [f"left {name}.{number}", f"right {name}.{number}"]
            there = all([await store.kv.get(key) == value(int(number)) for key in keys])
        if not there:
            found.append(f"{kind} {name} {number}")
    return found


async def halves(store: Store) -> list[str]:
    """Records of a transaction of which only one is there."""
    left = {key.removeprefix("left ") async for key in store.kv.scan("left ")}
    right = {key.removeprefix("right ") async for key in store.kv.scan("right ")}
    return sorted(left ^ right)


async def unfound(memory: Memory) -> list[str]:
    """Turns without their memory or the other way round: both are written at once."""
    stats = await memory.stats()
    return [] if stats["turns"] == stats["memories"] else [f"{stats['turns']} turns, {stats['memories']} memories"]


async def examine(path: Path, acknowledged: Sequence[list[str]]) -> dict[str, list[str]]:
    async with polymem.open(f"sqlite:///{path}") as store, Memory(store, tenant="crash", embed=None) as memory:
        return {
            "acknowledged writes missing": await missing(store, memory, acknowledged),
            "transactions half done": [*await halves(store), *await unfound(memory)],
            "integrity problems": list((await store.check()).problems),
        }


async def main() -> None:
    if sys.argv[1:2] == ["--writer"]:
        await write(*sys.argv[2:4])
        return
    parser = arguments(__doc__ or "", rounds=None)
    parser.add_argument("--cycles", type=int, default=20, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills (%(default)s)")
    options = parser.parse_args()
    chance, everything = random.Random(options.seed), list[list[str]]()
    problems: dict[str, list[str]] = {}
    with TemporaryDirectory(dir=options.folder) as name:
        path = Path(name, "crash.db")
        for cycle in range(options.cycles):
            last = run_and_kill(path, cycle, chance.uniform(0.01, 0.5))
            everything += last
            earlier = chance.sample(everything, min(200, len(everything)))
            for what, found in (await examine(path, [*last, *earlier])).items():
                problems[what] = problems.get(what, []) + [f"cycle {cycle}: {one}" for one in found]
        for what, found in (await examine(path, everything)).items():
            problems[what] += [f"at the end: {one}" for one in found]
    finish(f"{options.cycles} times kill -9", summary(everything, problems, options.cycles), options)
    report(problems)


def summary(everything: list[list[str]], problems: dict[str, list[Any]], cycles: int) -> list[Figure]:
    return [
        Figure("cycles", cycles),
        Figure("acknowledged writes", len(everything)),
        *(Figure(what, len(found), at_most=0) for what, found in problems.items()),
    ]


def report(problems: dict[str, list[str]]) -> None:
    found = [f"{what}: {one}" for what, several in problems.items() for one in several]
    print("\n".join(found[:50]))
    raise SystemExit(bool(found))


if __name__ == "__main__":
    asyncio.run(main())
