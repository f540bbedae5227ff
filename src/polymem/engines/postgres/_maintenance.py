"""Work on the whole database: namespaces, expiry, figures, compaction."""

import logging
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]

from polymem.core.engine import Health
from polymem.core.namespace import subtree_end
from polymem.core.page import Page
from polymem.engines.postgres import _collections, _kv_changes, _query_indexes, _telling, blobs
from polymem.engines.postgres._pool import Link
from polymem.engines.postgres._runner import PoolRunner
from polymem.engines.postgres._schema import FORMAT
from polymem.engines.postgres._schema_events import CLEARED
from polymem.engines.postgres._vector_index import drop_orphans

_log = logging.getLogger("polymem.engines.postgres")

SPACED: Final = ("pm_kv", "pm_nodes", "pm_edges", "pm_blobs")
"""Tables with a column `namespace` that an index begins with. `active_context` has a column `tenant` instead."""
EXPIRING: Final = {
    "pm_kv": "expires_at <= $1",
    "active_context": "ttl_expires_at <= timestamptz 'epoch' + $1 * interval '1 microsecond'",
}
"""Tables of records with an expiry, and what tells that it has passed at $1, a bigint."""
TABLES: Final = (
    "pm_kv",
    "active_context",
    "pm_meta",
    "pm_collections",
    "pm_texts",
    "pm_changes",
    "pm_nodes",
    "pm_edges",
    "pm_blobs",
    "pm_uploads",
    "pm_blob_parts",
    "pm_kv_changes",
    "pm_told",
)
"""Everything that deleted bytes may be left in."""

# each step jumps to the next name, so the cost grows with the names, not with the records
_NAMES: Final = """
with recursive names(name) as (
    (select namespace from {table} where namespace {sign} $1 and ($2 = '' or namespace < $2) order by namespace limit 1)
    union all
    select (select namespace from {table} where namespace > names.name and ($2 = '' or namespace < $2)
            order by namespace limit 1) from names where name is not null)
select name from names where name is not null limit $3"""
_TENANTS: Final = """
with recursive names(name) as (
    (select tenant from active_context order by tenant limit 1)
    union all
    select (select tenant from active_context where tenant > name order by tenant limit 1) from names
    where name is not null),
spaces(space) as (select case name when '' then '' else name || '/' end from names where name is not null)
select space from spaces where space {sign} $1 and ($2 = '' or space < $2) order by space limit $3"""
_SPAN: Final = "namespace >= $1 and ($2 = '' or namespace < $2)"
_TENANT_SPAN: Final = "tenant = rtrim($1, '/') or (tenant >= $1 and ($2 = '' or tenant < $2))"
_DELETE_EXPIRED: Final = """
with gone as (delete from {table} where ctid in (
    select ctid from {table} where {expired} limit $2 for update skip locked) returning 1)
select count(*) from gone"""

_LEASE: Final = """
insert into pm_meta values ($1, $4) on conflict (name) do update set value = excluded.value
where starts_with(pm_meta.value, $2 || ' ') or split_part(pm_meta.value, ' ', 2)::bigint <= $3 returning 1"""


async def namespaces(runner: PoolRunner, prefix: str, after: str | None, limit: int) -> Page[str]:
    start, sign = (prefix, ">=") if after is None else (after, ">")
    queries = [
        *(_NAMES.format(table=table, sign=sign) for table in (*SPACED, "pm_collections")),
        _TENANTS.format(sign=sign),
    ]
    found: set[str] = set()
    for query in queries:
        found.update(name for (name,) in await runner.fetch(query, start, subtree_end(prefix), limit))
    page = sorted(found)[:limit]
    return Page(page, page[-1] if len(page) == limit else None)


async def drop_namespace(runner: PoolRunner, prefix: str) -> int:
    """Every record at or below `prefix`; how many there were. The gate is locked before anything is looked at."""
    async with runner.unit() as link:
        await link.run("lock table pm_gate in access exclusive mode")
        await _query_indexes.drop_namespace(link, prefix)
        # uploads first: one that is being committed is waited for, and then its blob is seen
        await _deleted(link, "pm_uploads", _SPAN, prefix)
        await link.run(CLEARED)
        removed = [await _deleted(link, table, _SPAN, prefix) for table in SPACED]
        await _kv_changes.forget_keys(link, prefix)
        removed.append(await _collections.drop_namespace(link, prefix))
        return sum(removed) + await _deleted(link, "active_context", _TENANT_SPAN, prefix)


async def _deleted(link: Link, table: str, span: str, prefix: str) -> int:
    statement = f"with gone as (delete from {table} where {span} returning 1) select count(*) from gone"
    return int((await link.fetch(statement, prefix, subtree_end(prefix)))[0][0])


async def delete_expired(runner: PoolRunner, now: int, limit: int) -> int:
    removed = 0
    for table, expired in EXPIRING.items():
        rows = await runner.fetch(_DELETE_EXPIRED.format(table=table, expired=expired), now, limit - removed)
        removed += int(rows[0][0])
    await _collections.trim(runner)
    await _drop_orphans(runner)
    await _kv_changes.trim(runner, now)
    await _telling.end_unread(runner)
    await runner.fetch(blobs.SWEEP, now - blobs.LIFETIME)
    return removed


async def _drop_orphans(runner: PoolRunner) -> None:
    try:
        await drop_orphans(runner)
    except asyncpg.PostgresError as error:  # they are empty: nothing is lost but their name
        _log.debug("indexes of collections that are gone stay: %s", type(error).__name__)


async def lease(runner: PoolRunner, name: str, holder: str, now: int, until: int) -> bool:
    """Whether the claim was free, the holder's or has run out; it is then the holder's up to an instant."""
    return bool(await runner.fetch(_LEASE, f"lease {name}", holder, now, f"{holder} {until}"))


async def purge(runner: PoolRunner) -> None:
    await _kv_changes.trim(runner, 0, kept=0)  # it names deleted records; readers that are behind are told
    await _telling.forget(runner)
    there = "select name from unnest($1::text[]) as name where to_regclass(name) is not null"
    for (table,) in await runner.fetch(there, [*TABLES, "pm_vectors"]):
        async with runner.pool.lease() as link:
            await link.run(f"vacuum (full) {table}")


async def check(runner: PoolRunner, version: str, pooled: bool) -> Health:
    details: dict[str, Any] = {"format": FORMAT, "pooled": pooled, "pool": runner.pool.figures()}
    counted = (*SPACED, "active_context")
    details["records"] = {table: (await runner.fetch(f"select count(*) from {table}"))[0][0] for table in counted}
    return Health("postgres", version, ok=True, details=details)
