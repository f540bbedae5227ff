"""The tables, created and upgraded by the engine. `pm_` marks what belongs to it.

Names, keys and texts compare by code point (collation "C"), the order of every other engine. Instants of `pm_` tables
are microseconds since the epoch. Scripts may use `{schema}`, the quoted schema the tables are in, which the bodies of
functions need because they run with whatever search path their caller has.
"""

from itertools import chain
from typing import Final

from polymem.engines.postgres._pool import Link
from polymem.engines.postgres._schema_blobs import BLOBS
from polymem.engines.postgres._schema_events import EVENTS
from polymem.engines.postgres._schema_graph import GRAPH
from polymem.engines.postgres._schema_query import QUERY
from polymem.engines.postgres._schema_telling import TELLING
from polymem.engines.postgres._schema_text import COLLECTIONS, TEXT
from polymem.engines.postgres._schema_turns import TURNS
from polymem.errors import StorageCorruptError, StorageQueryError

_LOCK: Final = 0x504D454D
"""ASCII "PMEM": the advisory lock under which tables are made."""

KV: Final = """
-- body is the JSON text of a document, exactly as it was written; data holds what is no document: one of the two is null,
-- unchecked, because a check is compiled for each statement, a twentieth of the time of a put
create table pm_kv(
    namespace text collate "C" not null, key text collate "C" not null, body text, data bytea, codec text not null,
    version bigint not null, created_at bigint not null, updated_at bigint not null, expires_at bigint,
    primary key(namespace, key));
create index pm_kv_expires on pm_kv(expires_at) where expires_at is not null;
-- a large document is written in half the time of the default method; a server may have been built without this one
do $$ begin
    alter table pm_kv alter body set compression lz4;
exception when feature_not_supported then null;
end $$;
"""
GATE: Final = """
-- every transaction locks it in passing, and what must wait for all transactions locks it for itself
create table pm_gate();
"""
FORMATS: Final = ((KV, GATE, TURNS, QUERY, COLLECTIONS, TEXT, GRAPH, BLOBS, EVENTS), (TELLING,))
"""What format 1 consists of, a script per contract, and what each later one added."""
FORMAT: Final = len(FORMATS)

# asked of the catalogue itself: `to_regclass` may answer from before another connection made the tables
_FOUND: Final = """
select exists(select from pg_tables where schemaname = current_schema() and tablename = 'pm_meta'),
quote_ident(current_schema())"""
_META: Final = 'create table pm_meta(name text collate "C" primary key, value text not null)'
_FORMAT_OF: Final = "select value::int from pm_meta where name = 'format'"
_NOTE: Final = (
    f"insert into pm_meta values ('format', '{FORMAT}') on conflict (name) do update set value = excluded.value"
)


async def create_tables(link: Link, wanted: str | None) -> None:
    """Make what is not there, in the schema wanted; harmless if it is, and if two processes do it at once."""
    if await _format(link, wanted) == FORMAT:
        return
    await link.run("begin")
    try:
        await link.run(f"select pg_advisory_xact_lock({_LOCK})")
        if wanted is not None:
            await link.run(f'create schema if not exists "{wanted}"')
        await _upgrade(link, await _format(link, wanted))
    except Exception:
        await link.run("rollback")
        raise
    await link.run("commit")


async def _format(link: Link, wanted: str | None) -> int:
    """Of the tables that are there; 0: none are."""
    there, schema = (await link.fetch(_FOUND))[0]
    if wanted is not None and schema not in (wanted, f'"{wanted}"'):
        return 0  # it is yet to be made
    if schema is None:
        raise StorageQueryError("there is no schema to use: create it, or give the role a search_path")
    found = int((await link.fetch(_FORMAT_OF))[0][0]) if there else 0
    if found > FORMAT:
        raise StorageCorruptError(
            f"the tables have format {found}, written by a newer version; this one reads up to {FORMAT}: "
            "upgrade polymem. They were left untouched", field="url",
        )  # fmt: skip
    return found


async def _upgrade(link: Link, found: int) -> None:
    schema = (await link.fetch(_FOUND))[0][1]
    if not found:
        await link.run(_META)
    for script in chain.from_iterable(FORMATS[found:]):
        await link.run(script.replace("{schema}", schema))
    await link.run(_NOTE)
