"""Approximate indexes of single collections of vectors: which there are, and searching by one.

Each is a partial index of the one table, so thousands of small tenants cost no relation of their own. Numbers of collections
are never given twice: an index whose collection is gone is empty, and the sweeper drops it.
"""

from collections.abc import Sequence
from math import isqrt
from typing import Final, NamedTuple

from polymem.contracts.vectors import VectorSpace
from polymem.engines.postgres._runner import Fetch, Runner

_CLASSES: Final = {"cosine": "cosine_ops", "dot": "ip_ops", "l2": "l2_ops"}
_FLOATS, _HALVES = 2000, 4000
"""Up to how many dimensions pgvector indexes float32 and float16."""
_LEAST_WIDTH, _MOST_WIDTH = 120, 1000
"""How many candidates the scan keeps (`hnsw.ef_search`)."""
_TUPLES: Final = 200_000
"""How many rows a filtered scan looks at, at most."""
_MEMORY: Final = 32
"""How many times `work_mem` (4 MB by default) a filtered scan may take; where that is used up it ends."""
_LEAST_PROBES: Final = 10
"""How many lists of IVFFlat are read at least; of many lists more than the square root of their number, which
pgvector's manual begins with: that finds nine of ten.
"""
_ROWS_A_LIST: Final = 1000
_FEW: Final = 1_000_000
"""Rows up to which pgvector's manual advises one list for 1,000 of them, and beyond it as many as their square root."""
_FOUND: Final = """
select c.relname, i.indisvalid from pg_index i join pg_class c on c.oid = i.indexrelid
where i.indrelid = to_regclass('pm_vectors') and starts_with(c.relname, $1) order by c.relname"""
_ORPHANS: Final = r"""
select c.relname from pg_index i join pg_class c on c.oid = i.indexrelid
where i.indrelid = to_regclass('pm_vectors') and c.relname ~ '^pm_vectors_\d+_' and not exists(select from pm_collections
    where collection = substring(c.relname from '^pm_vectors_(\d+)_')::bigint)
and not exists(select from pg_stat_progress_create_index p where p.relid = i.indrelid)"""


class VectorIndexInfo(NamedTuple):
    """An index that the database has."""

    name: str
    valid: bool
    """False while it is being made, and for what a failed attempt left behind."""

    @property
    def kind(self) -> str:
        return self.name.split("_")[3]

    @property
    def lists(self) -> int:
        """Into how many lists an IVFFlat index has parted the vectors."""
        return int(self.name.split("_")[4]) if self.kind == "ivfflat" else 0


async def indexes_of(fetch: Fetch, number: int) -> list[VectorIndexInfo]:
    return [VectorIndexInfo(*row) for row in await fetch(_FOUND, f"pm_vectors_{int(number)}_")]


def lists_for(rows: int) -> int:
    """How many lists an IVFFlat index of so many rows should have."""
    return max(1, rows // _ROWS_A_LIST if rows <= _FEW else isqrt(rows))


def index_name(number: int, kind: str, rows: int) -> str:
    return f"pm_vectors_{int(number)}_{kind}" + (f"_{lists_for(rows)}" if kind == "ivfflat" else "")


def creation(number: int, kind: str, rows: int, space: VectorSpace, schema: str) -> str:
    """The statement that makes an index while others go on writing. It can't run within a transaction."""
    indexed = indexed_type(space) or ""
    classes = f"{indexed.partition('(')[0]}_{_CLASSES[space.metric]}"
    options = f" with (lists = {lists_for(rows)})" if kind == "ivfflat" else ""
    return (
        f"create index concurrently if not exists {index_name(number, kind, rows)} on {schema}.pm_vectors "
        f"using {kind} ((embedding::{indexed}) {classes}){options} where collection = {int(number)}"
    )


def index_scan(number: int, condition: str, distance: str, limit: int, indexes: Sequence[VectorIndexInfo]) -> str:
    """The ids of the nearest by one of the indexes. Number and limit are written out, for the planner to see that it fits.

    The scan goes on until enough rows satisfy the condition. It is set up in the same statement, before the first row
    is asked for, and for this transaction only.
    """
    settings = {
        name: value
        for index in indexes
        for name, value in (_hnsw(condition, limit) if index.kind == "hnsw" else _ivfflat(index.lists)).items()
    }
    tuned = " || ".join(f"set_config('{name}', '{value}', true)" for name, value in settings.items())
    return (
        f"select s.id from (select {tuned} as done offset 0) t cross join lateral (select id from pm_vectors "
        f"where collection = {int(number)} and t.done is not null and {condition} "
        f"order by {distance} limit {int(limit)}) s"
    )


def _hnsw(condition: str, limit: int) -> dict[str, object]:
    width = min(max(_LEAST_WIDTH, 2 * limit), _MOST_WIDTH) if condition == "true" else _MOST_WIDTH
    return {
        "hnsw.iterative_scan": "relaxed_order", "hnsw.ef_search": width, "hnsw.max_scan_tuples": _TUPLES,
        "hnsw.scan_mem_multiplier": _MEMORY,
    }  # fmt: skip


def probes_for(lists: int) -> int:
    """How many of them a search reads."""
    return max(_LEAST_PROBES, isqrt(9 * lists // 4))


def _ivfflat(lists: int) -> dict[str, object]:
    return {"ivfflat.iterative_scan": "relaxed_order", "ivfflat.probes": probes_for(lists)}


def indexed_type(space: VectorSpace) -> str | None:
    """The type that is indexed, None where there are too many dimensions for an index."""
    kind = "vector" if space.dimensions <= _FLOATS else "halfvec"
    return f"{kind}({space.dimensions})" if space.dimensions <= _HALVES else None


async def drop_orphans(runner: Runner) -> Sequence[str]:
    """Drop the indexes of collections that are gone, with nobody waiting for it; their names."""
    names = [name for (name,) in await runner.fetch(_ORPHANS)]
    for name in names:
        await runner.fetch(f"drop index concurrently if exists {name}")
    return names
