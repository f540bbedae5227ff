"""Reads of PostgreSQL with a replica and without: gets and a mix of 90 gets to 10 puts, by 1 and 64 tasks.

"alone" is a store that knows the primary only; "replica" reads from a replica too, but not before it shows the store's own
last write (`read_your_writes`, the default); "replica, older reads" may see a state before that one. Every commit is synced.
The two servers and this process share the processors of one machine, so this says what choosing a replica costs and how
often one answers, not what a second machine would bring. Starts the servers itself.
"""

import asyncio
from contextlib import AsyncExitStack
from itertools import product
from typing import Any

from postgres_kv import KEYS, polymem_calls
from report import Figure, arguments, finish
from server_kv import Calls, measure, own_replicated

import polymem
from polymem.jobs.measure import ratios, spread
from polymem.store import Store

TASKS = (1, 64)
SETTINGS = ("fsync=on", "synchronous_commit=on", "autovacuum=off", "max_standby_streaming_delay=0")


def calls(store: Store, asked: list[int]) -> Calls:
    """`asked` has one number for each get."""
    simple = polymem_calls(store)

    def get(number: int) -> Any:
        asked.append(number)
        return simple["get"](number)

    return {"get": get, "mix": lambda number: simple["put"](number) if number % 10 == 0 else get(number)}


def answered(store: Store) -> int:
    """Reads that replicas have answered."""
    return sum(one["reads"] for one in store.engine.replica_status())


async def compare(primary: str, replica: str, options: Any) -> list[Figure]:
    figures: list[Figure] = []
    split: dict[str, dict[str, Any]] = {
        "alone": {},
        "replica": {"replicas": [replica]},
        "replica, older reads": {"replicas": [replica], "read_your_writes": False},
    }
    async with AsyncExitStack() as opened:
        stores = {
            side: await opened.enter_async_context(polymem.open(primary, sweep_every=None, **how))
            for side, how in split.items()
        }
        await asyncio.gather(*map(polymem_calls(stores["alone"])["put"], range(KEYS)))
        for operation, tasks in product(("get", "mix"), TASKS):
            figures += await beside(stores, operation, tasks, options)
    return figures


async def beside(stores: dict[str, Store], operation: str, tasks: int, options: Any) -> list[Figure]:
    asked: dict[str, list[int]] = {side: [] for side in stores}
    before = {side: answered(store) for side, store in stores.items()}
    sides = {side: calls(store, asked[side]) for side, store in stores.items()}
    found = await measure(sides, operation, tasks, options)
    what = f"{operation}, {tasks} task{'s' * (tasks > 1)}"
    others = list(stores)[1:]
    return [
        *(Figure(f"{what}: {side}", spread(rates), "calls/s") for side, rates in found.items()),
        *(Figure(f"{what}: {side} / alone", ratios(found[side], found["alone"]), "x") for side in others),
        *(
            Figure(
                f"{what}: {side}, gets it answered",
                100 * (answered(stores[side]) - before[side]) / len(asked[side]),
                "%",
            )
            for side in others
        ),
    ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each side in each round (%(default)s)")
    options = parser.parse_args()
    with own_replicated("bench-replicas", *SETTINGS) as (primary, replica):
        figures = asyncio.run(compare(primary, replica, options))
    finish("PostgreSQL with a replica", figures, options)


if __name__ == "__main__":
    main()
