"""What the guard, metrics included, and the API class add to an inline SQLite get, and what the metrics are of that.

The yardstick is the plain inline get: one statement on an apsw connection in autocommit mode, awaited on the loop
thread, decoded by hand. The driver's own get is printed too; it is quicker, since the gets of one turn of the event loop
share a read transaction. Metrics are judged by the quickest call there is; on a put, or a server, they do not show.
Time is the processor time of the loop's thread, where all of this happens: other processes disturb it less.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import thread_time
from typing import Any

from report import Figure, arguments, finish

import polymem
from polymem.contracts.volume import VOLUME
from polymem.core.codec import encode_json
from polymem.core.guard import guard
from polymem.engines.sqlite.kv import _GET
from polymem.jobs.bench_kv import value
from polymem.jobs.measure import interleaved, spread

CALLS = 2_000
KEYS = [f"key:{number}" for number in range(1000)]


async def microseconds(get: Callable[[str], Awaitable[Any]]) -> float:
    """A call, on average."""
    await asyncio.sleep(0.001)  # let the store end its read transaction, which would speed up a neighbour's reads too
    started = thread_time()
    for _ in range(CALLS // len(KEYS)):
        for key in KEYS:
            await get(key)
    return (thread_time() - started) / CALLS * 1e6


async def measure(path: Path, rounds: int, payload: Callable[[int], Any]) -> dict[str, list[float]]:
    async with polymem.open(f"sqlite:///{path}") as store:
        unmeasured = await polymem.open(f"sqlite:///{path}", metrics=False)
        await store.kv.put_many({key: payload(number) for number, key in enumerate(KEYS)})
        driver = store.engine.drivers("").kv
        guarded = guard(driver, "kv", store._session.guard, sizes=VOLUME["kv"])
        bodies = {key: encode_json(payload(number)) for number, key in enumerate(KEYS)}
        decode = store.kv._decode

        async def decoding(key: str) -> Any:
            return decode(bodies[key])

        async def nothing(key: str) -> Any:
            return bodies[key]

        plain_connection = store.engine._settings.connect()

        async def plain(key: str) -> Any:
            return decode(plain_connection.execute(_GET, ("", key)).fetchall()[0][0])

        sides = {
            "plain": plain,
            "driver": driver.get,
            "guard": guarded.get,
            "api": store.kv.get,
            "unmeasured": unmeasured.kv.get,
            "decode": decoding,
            "nothing": nothing,
        }
        for get in sides.values():
            await microseconds(get)
        found = await interleaved({name: partial(microseconds, get) for name, get in sides.items()}, rounds)
        plain_connection.close()
        await unmeasured.close()
        return found


def figures(name: str, found: dict[str, list[float]], bar: float | None) -> list[Figure]:
    decode = [a - b for a, b in zip(found["decode"], found["nothing"], strict=True)]
    metrics = [100 * (a - u) / u for a, u in zip(found["api"], found["unmeasured"], strict=True)]
    calls = list(zip(found["plain"], found["driver"], found["guard"], found["api"], decode, strict=True))
    return [
        Figure(f"{name}: plain inline get", spread(found["plain"]), "us"),
        Figure(f"{name}: get by the driver, not decoded", spread(found["driver"]), "us"),
        Figure(f"{name}: store.kv.get", spread(found["api"]), "us"),
        Figure(f"{name}: store.kv.get / plain inline get", spread([a / p for p, _, _, a, _ in calls]), "x"),
        Figure(f"{name}: guard", spread([100 * (g - d) / p for p, d, g, _, _ in calls]), "%"),
        Figure(f"{name}: guard + API class", spread([100 * (a - j - d) / p for p, d, _, a, j in calls]), "%", at_most=bar),
        Figure(f"{name}: metrics, of store.kv.get without them", spread(metrics), "%", at_most=5),
    ]  # fmt: skip


async def main() -> None:
    options = arguments(__doc__, rounds=101).parse_args()
    found = []
    for name, payload, bar in (("number", lambda n: n, 25), ("200 bytes", value, 25)):
        with TemporaryDirectory(dir=options.folder) as folder:
            found += figures(name, await measure(Path(folder, "guard.db"), options.rounds, payload), bar)
    finish("Guard and API class over an inline SQLite get", found, options)


if __name__ == "__main__":
    asyncio.run(main())
