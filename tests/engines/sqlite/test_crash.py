"""Nothing acknowledged is lost: kill -9 of a writing process, and the power cut (issue, "Crash").

`POLYMEM_NIGHTLY=1` runs 200 kills and 1,000 power cuts instead of a few.
"""

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import apsw
import pytest
from conftest import NewStore
from power_cut import Disk, PowerCutVFS

from polymem.engines.sqlite.engine import SqliteEngine
from polymem.errors import PolymemError
from polymem.opened import Session
from polymem.store import Store

pytestmark = pytest.mark.anyio
NIGHTLY = os.environ.get("POLYMEM_NIGHTLY") == "1"

# --- kill -9 ------------------------------------------------------------------------------------------------------

_WRITE = """
import asyncio, sys
from polymem.engines.sqlite.engine import SqliteEngine
from polymem.opened import Session
from polymem.store import Store

async def write(store, task, cycle):
    for n in range(1_000_000):
        key = f"{cycle}/{task}/{n}"
        if n % 7 == 3:
            async with store.transaction(timeout=60) as tx:
                await tx.kv.put(key, key)
                await tx.kv.put("twin " + key, key)
        elif n % 7 == 5:
            await store.turns.append(key, "user", key)
        else:
            await store.kv.put(key, key)
        print(n % 7 == 5, key, flush=True)

async def main():
    async with Store(Session(SqliteEngine(sys.argv[1]), sweep_every=None)) as store:
        await asyncio.gather(*(write(store, task, sys.argv[2]) for task in range(16)))

asyncio.run(main())
"""


def kill_while_writing(path: Path, cycle: int, lines: int) -> list[tuple[bool, str]]:
    """What the child reported as written before it was killed."""
    child = subprocess.Popen(
        [sys.executable, "-c", _WRITE, str(path), str(cycle)], stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert child.stdout is not None
    reported = [child.stdout.readline() for _ in range(lines)]
    child.kill()
    reported += child.stdout.readlines()
    child.stdout.close()
    child.wait()
    whole = [line.decode().split() for line in reported if line.endswith(b"\n")]
    return [(is_turn == "True", key) for is_turn, key in whole]


@pytest.mark.timeout(1800 if NIGHTLY else 300)
async def test_kill_9_loses_nothing_acknowledged(new_store: NewStore, path: Path) -> None:
    chance = random.Random(9)  # noqa: S311
    for cycle in range(200 if NIGHTLY else 4):
        lines = chance.choice((1, 10, 100, 1000))
        acknowledged = await asyncio.to_thread(kill_while_writing, path, cycle, lines)
        assert len(acknowledged) >= lines
        async with new_store() as store:
            assert (await store.check()).ok
            keys = {key async for key in store.kv.scan(f"{cycle}/")}
            sessions = {name async for name in store.turns.sessions()}
            assert not [key for is_turn, key in acknowledged if key not in (sessions if is_turn else keys)]
            twins = {key.removeprefix("twin ") async for key in store.kv.scan(f"twin {cycle}/")}
            assert twins == {key for key in keys if int(key.rpartition("/")[2]) % 7 == 3}


# --- power cut ----------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """A recorded run: every event on the files, and when each value of each key was acknowledged."""

    vfs: PowerCutVFS
    acknowledged: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    def acknowledge(self, key: str, value: int) -> None:
        self.acknowledged.setdefault(key, []).append((len(self.vfs.log), value))

    def least(self, key: str, cut: int) -> int:
        """The newest value of a key that was acknowledged before the cut."""
        return max((value for at, value in self.acknowledged.get(key, []) if at <= cut), default=-1)


async def record(path: Path, vfs: PowerCutVFS, *, durability: str, synchronous: str | None) -> Run:
    run = Run(vfs)
    engine = SqliteEngine(path, durability=durability, vfs=vfs.vfs_name)
    async with Store(Session(engine, sweep_every=None)) as store:
        await engine._runner.unbatched(lambda c: c.wal_autocheckpoint(12))  # a checkpoint every few commits
        if synchronous:
            await engine._runner.unbatched(lambda c: c.pragma("synchronous", synchronous))
        await asyncio.gather(*(_write(store, run, task) for task in range(6)), _write_more(store, run))
    return run


async def _write(store: Store, run: Run, task: int) -> None:
    """The values of a key grow, so that what is found says how far it got."""
    for n in range(30):
        await store.kv.put(f"k{task}", [n, "x" * (n * 97 % 3000)])
        run.acknowledge(f"k{task}", n)


async def _write_more(store: Store, run: Run) -> None:
    for n in range(8):
        async with store.transaction() as tx:
            await tx.kv.put("left", [n])
            await tx.kv.put("right", [n])
        run.acknowledge("left", n)
        await store.blobs().put("blob", bytes([n]) * 300_000, metadata={"n": n})
        run.acknowledge("blob", n)


async def losses(folder: Path, run: Run, cut: int) -> list[str]:
    """What is wrong with the files that a cut left."""
    try:
        async with Store(Session(SqliteEngine(folder / "agent.db"), sweep_every=None)) as store:
            health = await store.check()
            return health.problems + await _losses(store, run, cut)
    except (PolymemError, apsw.Error) as error:
        return [f"{type(error).__name__}: {error}"]


async def _losses(store: Store, run: Run, cut: int) -> list[str]:
    keys = [key for key in run.acknowledged if key != "blob"]
    found = {key: (await store.kv.get(key, [-1]))[0] for key in [*keys, "right"]}
    blob = await store.blobs().info("blob")
    found["blob"] = -1 if blob is None else blob.metadata["n"]
    lost = [f"{key} fell back to {found[key]}" for key in run.acknowledged if found[key] < run.least(key, cut)]
    if found["left"] != found["right"]:
        lost.append("half a transaction")
    if blob is not None and await store.blobs().get("blob") != bytes([found["blob"]]) * 300_000:
        lost.append("the blob is damaged")
    return lost


async def cut_at_random_points(run: Run, folder: Path, points: int, seed: int) -> list[str]:
    chance = random.Random(seed)  # noqa: S311
    log, disk, done, found = list(run.vfs.log), Disk(), 0, []
    for cut in sorted(chance.randrange(len(log) + 1) for _ in range(points)):
        for event in log[done:cut]:
            disk.apply(event)
        done, left = cut, folder / f"cut {cut}"
        left.mkdir(exist_ok=True)
        for old in left.iterdir():
            old.unlink()
        for name, content in disk.after_power_cut(chance).items():
            (left / name).write_bytes(content)
        found += [f"cut {cut} of {len(log)}: {problem}" for problem in await losses(left, run, cut)]
        for old in left.iterdir():
            old.unlink()
    return found


@pytest.fixture
def vfs() -> Iterator[PowerCutVFS]:
    made = PowerCutVFS("power cut")
    yield made
    made.unregister()


@pytest.mark.timeout(1800 if NIGHTLY else 300)
async def test_a_power_cut_loses_nothing_acknowledged(vfs: PowerCutVFS, path: Path, tmp_path: Path) -> None:
    run = await record(path, vfs, durability="full", synchronous=None)
    assert sum(event.kind == "sync" for event in vfs.log) > 30
    assert any(event.kind == "write" and event.file == "agent.db" for event in vfs.log)
    assert await cut_at_random_points(run, tmp_path, 1000 if NIGHTLY else 50, seed=1) == []


async def test_the_power_cut_test_can_fail(vfs: PowerCutVFS, path: Path, tmp_path: Path) -> None:
    """Without any sync the same cuts find losses."""
    run = await record(path, vfs, durability="full", synchronous="off")
    assert await cut_at_random_points(run, tmp_path, 50, seed=1)


async def test_normal_durability_may_lose_the_end_but_not_the_file(
    vfs: PowerCutVFS, path: Path, tmp_path: Path
) -> None:
    run = await record(path, vfs, durability="normal", synchronous=None)
    found = await cut_at_random_points(run, tmp_path, 200 if NIGHTLY else 30, seed=2)
    assert [problem for problem in found if "fell back" not in problem] == []
