"""Key-value calls on SQLite: polymem against aiosqlite and against apsw in a plain loop. All of them durable.

Every side keeps distinct JSON values of about 200 bytes in a WAL database with synchronous=FULL, encodes them with
msgspec, commits every put by itself, and decodes what it gets. "aiosqlite" is the form its documentation shows
(`async with db.execute(...) as cursor: await cursor.fetchone()`), three hops to its thread for a get; "aiosqlite, one
hop" is its quickest (`execute_fetchall`). A put of the first is `execute` and `commit`, of the second one statement in autocommit
mode; each is one transaction.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import aiosqlite
import apsw
import msgspec
from report import Figure, arguments, finish
from syncs import SyncCounter

import polymem
from polymem.engines.sqlite.engine import SqliteEngine
from polymem.jobs.bench_kv import value
from polymem.jobs.measure import interleaved, ratios, spread, throughput
from polymem.opened import Session
from polymem.store import Store

KEYS = 5000
TABLE = "create table if not exists kv(key text primary key, value text not null) without rowid"
PUT = "insert into kv values(?, ?) on conflict do update set value = excluded.value"
GET = "select value from kv where key = ?"
PRAGMAS = ("journal_mode=wal", "synchronous=full")
BARS = {("put", 1): 0.95, ("put", 64): 5.0, ("get", 1): 10.0, ("get", 64): 8.0}
decode, encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode
Call = Callable[[int], Awaitable[Any]]
Calls = dict[str, Call]


class Numbers:
    """Keys to be used again, values never: SQLite skips a write that changes nothing."""

    def __init__(self) -> None:
        self._next = itertools.count(KEYS)

    def pair(self, number: int) -> tuple[str, Any]:
        return f"key:{number % KEYS}", value(next(self._next))


def polymem_calls(store: Store, numbers: Numbers) -> Calls:
    return {
        "put": lambda n: store.kv.put(*numbers.pair(n)),
        "get": lambda n: store.kv.get(f"key:{n % KEYS}"),
    }


def aiosqlite_calls(connection: aiosqlite.Connection, numbers: Numbers) -> Calls:
    async def put(number: int) -> None:
        key, content = numbers.pair(number)
        await connection.execute(PUT, (key, encode(content).decode()))
        await connection.commit()

    async def put_at_once(number: int) -> None:
        key, content = numbers.pair(number)
        await connection.execute_fetchall(PUT, (key, encode(content).decode()))

    async def get(number: int) -> Any:
        async with connection.execute(GET, (f"key:{number % KEYS}",)) as cursor:
            row = await cursor.fetchone()
        return row and decode(row[0])

    async def get_at_once(number: int) -> Any:
        ((text,),) = await connection.execute_fetchall(GET, (f"key:{number % KEYS}",))
        return decode(text)

    return {"put": put, "get": get, "put at once": put_at_once, "get at once": get_at_once}


def apsw_loop(connection: apsw.Connection, numbers: Numbers, operation: str, seconds: float) -> float:
    """Calls a second of a loop without asyncio."""
    started, count = perf_counter(), 0
    while perf_counter() - started < seconds:
        if operation == "put":
            key, content = numbers.pair(count)
            connection.execute(PUT, (key, encode(content).decode()))
        else:
            decode(connection.execute(GET, (f"key:{count % KEYS}",)).get)
        count += 1
    return count / (perf_counter() - started)


def apsw_open(path: Path, vfs: str | None = None) -> apsw.Connection:
    connection = apsw.Connection(str(path), vfs=vfs)
    for pragma in PRAGMAS:
        connection.execute(f"pragma {pragma}").fetchall()
    connection.execute(TABLE)
    return connection


async def compare(folder: Path, options: Any) -> list[Figure]:
    numbers, figures = Numbers(), []
    raw = apsw_open(folder / "apsw.db")
    async with (
        polymem.open(f"sqlite:///{folder / 'polymem.db'}", sweep_every=None) as store,
        aiosqlite.connect(folder / "aiosqlite.db", isolation_level=None) as other,
    ):
        for pragma in PRAGMAS:
            await other.execute_fetchall(f"pragma {pragma}")
        await other.execute_fetchall(TABLE)
        rows = [numbers.pair(number) for number in range(KEYS)]
        await store.kv.put_many(dict(rows))
        text = [(key, encode(content).decode()) for key, content in rows]
        raw.execute("begin")
        raw.executemany(PUT, text)
        raw.execute("commit")
        await other.execute("begin")
        await other.executemany(PUT, text)
        await other.commit()
        ours, theirs = polymem_calls(store, numbers), aiosqlite_calls(other, numbers)
        assert rows[7][1] == await ours["get"](7) == await theirs["get"](7) == await theirs["get at once"](7)
        for operation, tasks in itertools.product(("get", "put"), options.tasks):
            figures += await duel(
                operation, tasks, ours, theirs, loop_of(raw, numbers, operation, options.seconds), options
            )
    raw.close()
    return figures


def loop_of(raw: apsw.Connection, numbers: Numbers, operation: str, seconds: float) -> Callable[[], Awaitable[float]]:
    async def loop() -> float:
        return apsw_loop(raw, numbers, operation, seconds)

    return loop


async def duel(
    operation: str, tasks: int, ours: Calls, theirs: Calls, loop: Callable[[], Awaitable[float]], options: Any
) -> list[Figure]:
    calls = {"polymem": ours[operation], "aiosqlite": theirs[operation]}
    calls["aiosqlite, one hop"] = theirs[f"{operation} at once"]
    sides: dict[str, Callable[[], Awaitable[float]]] = {
        side: partial(throughput, call, tasks=tasks, seconds=options.seconds) for side, call in calls.items()
    }
    if tasks == 1:
        sides["apsw loop"] = loop
    found = await interleaved(sides, options.rounds)
    name, bar = f"{operation}, {tasks} task{'s' * (tasks > 1)}", BARS.get((operation, tasks))
    rates = [Figure(f"{name}: {side}", spread(measured), "calls/s") for side, measured in found.items()]
    ratio = [
        Figure(
            f"{name}: polymem / {side}", ratios(found["polymem"], measured), "x",
            at_least=bar if side == "aiosqlite" else None,
        )
        for side, measured in found.items() if side != "polymem"
    ]  # fmt: skip
    return rates + ratio


async def count_syncs(folder: Path, calls: int = 2000, tasks: int = 64) -> list[Figure]:
    """fsyncs of the same puts: grouped by polymem, and one transaction each."""
    numbers = Numbers()
    ours, single = SyncCounter("polymem-syncs"), SyncCounter("single-syncs")
    async with Store(Session(SqliteEngine(folder / "counted.db", vfs=ours.name), sweep_every=None)) as store:
        before, left = ours.syncs, itertools.count()

        async def work() -> None:
            while (number := next(left)) < calls:
                await store.kv.put(*numbers.pair(number))

        await asyncio.gather(*(work() for _ in range(tasks)))
        grouped = ours.syncs - before
    connection = apsw_open(folder / "single.db", single.name)
    before = single.syncs
    for number in range(calls):
        key, content = numbers.pair(number)
        connection.execute(PUT, (key, encode(content).decode()))
    connection.close()
    return [
        Figure(f"fsyncs of {calls} puts by {tasks} tasks: polymem", grouped),
        Figure(f"fsyncs of {calls} puts, a transaction each", single.syncs - before),
    ]


async def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each side in each round (%(default)s)")
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 16, 64, 256])
    options = parser.parse_args()
    with TemporaryDirectory(dir=options.folder) as name:
        figures = [*await compare(Path(name), options), *await count_syncs(Path(name))]
    finish("SQLite key-value, durable", figures, options)


if __name__ == "__main__":
    asyncio.run(main())
