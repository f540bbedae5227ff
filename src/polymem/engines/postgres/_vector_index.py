"""Approximate indexes (HNSW) of single collections of vectors.

Each is a partial index of the one table: thousands of small tenants cost no relation of their own, and only a collection
that is written with the option `vector_index=hnsw` gets an index.
"""

from collections.abc import Sequence
from typing import Final

from polymem.contracts.vectors import VectorSpace
from polymem.engines.postgres._pool import Link
from polymem.engines.postgres._runner import PoolRunner, Runner

_LOCK: Final = 0x504D4858
"""ASCII "PMHX": the advisory lock under which an index is made."""
_CLASSES: Final = {"cosine": "cosine_ops", "dot": "ip_ops", "l2": "l2_ops"}
_FLOATS, _HALVES = 2000, 4000
"""Up to how many dimensions pgvector indexes float32 and float16."""
_LEAST_WIDTH, _MOST_WIDTH = 120, 1000
"""How many candidates the scan keeps (`hnsw.ef_search`)."""
_TUPLES: Final = 200_000
"""How many rows a filtered scan looks at, at most."""
_MEMORY: Final = 32
"""How many times `work_mem` (4 MB by default) a filtered scan may take; where that is used up it ends."""
_HOURS: Final = 86_400.0


class Approximate:
    """Knows which collections of an engine have their index."""

    def __init__(self) -> None:
        self._indexed: set[int] = set()

    async def index(self, runner: Runner, number: int, space: VectorSpace) -> None:
        """Make the index of a collection that was written to; within a transaction the next write outside does."""
        if number not in self._indexed and isinstance(runner, PoolRunner):
            await create_index(runner, number, space)
            self._indexed.add(number)


def index_scan(number: int, condition: str, distance: str, limit: int) -> str:
    """The ids of the nearest by the index. Number and limit are written out, for the planner to see that it fits.

    The scan goes on until enough rows satisfy the condition. It is set up in the same statement, before the first row
    is asked for, and for this transaction only.
    """
    width = min(max(_LEAST_WIDTH, 2 * limit), _MOST_WIDTH) if condition == "true" else _MOST_WIDTH
    tuned = (
        "set_config('hnsw.iterative_scan', 'relaxed_order', true) as a, "
        f"set_config('hnsw.ef_search', '{width}', true) as b, set_config('hnsw.max_scan_tuples', '{_TUPLES}', true) as c, "
        f"set_config('hnsw.scan_mem_multiplier', '{_MEMORY}', true) as d"
    )
    return (
        f"select s.id from (select {tuned} offset 0) t cross join lateral (select id from pm_vectors "
        f"where collection = {int(number)} and t.a is not null and {condition} order by {distance} limit {int(limit)}) s"
    )


def indexed_type(space: VectorSpace) -> str | None:
    """The type that is indexed, None where there are too many dimensions for an index."""
    kind = "vector" if space.dimensions <= _FLOATS else "halfvec"
    return f"{kind}({space.dimensions})" if space.dimensions <= _HALVES else None


async def create_index(runner: PoolRunner, number: int, space: VectorSpace) -> None:
    """Make the index of a collection if it is not there; vectors are not written meanwhile."""
    kind = indexed_type(space)
    if kind is None:
        return
    async with runner.unit() as link:
        await link.run(f"select pg_advisory_xact_lock({_LOCK}), set_config('statement_timeout', '0', true)")
        if (await link.fetch("select to_regclass($1) is not null", _name(number)))[0][0]:
            return
        link.timeout = _HOURS
        classes = f"{kind.partition('(')[0]}_{_CLASSES[space.metric]}"
        await link.run(
            f"create index {_name(number)} on pm_vectors using hnsw ((embedding::{kind}) {classes}) "
            f"where collection = {int(number)}"
        )


async def drop_indexes(link: Link, numbers: Sequence[int]) -> None:
    names = [_name(number) for number in numbers]
    there = await link.fetch("select name from unnest($1::text[]) as name where to_regclass(name) is not null", names)
    for (name,) in there:
        await link.run(f"drop index {name}")


def _name(number: int) -> str:
    return f"pm_vectors_{int(number)}_hnsw"
