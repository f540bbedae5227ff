"""The table of vectors, made where the server has pgvector."""

import logging
from typing import Final

import asyncpg  # type: ignore[import-untyped]

from polymem.engines.postgres._pool import Link

_log = logging.getLogger("polymem.engines.postgres")
_LOCK: Final = 0x504D5645
"""ASCII "PMVE": the advisory lock under which the table is made."""
_STATE: Final = "select to_regtype('vector') is not null, to_regclass('pm_vectors') is not null"
_TABLE: Final = """
create table if not exists pm_vectors(
    collection bigint not null, id text collate "C" not null, embedding vector not null, payload text not null,
    payload_jsonb jsonb not null generated always as (payload::jsonb) stored, primary key(collection, id));
create index if not exists pm_vectors_payload on pm_vectors using gin (payload_jsonb jsonb_path_ops)
"""


async def create_vectors(link: Link) -> bool:
    """Make the table where it is missing, and the extension where this role may; whether there are vectors now."""
    extension, table = (await link.fetch(_STATE))[0]
    if table:
        return True
    try:
        await _create(link, extension)
    except (asyncpg.PostgresError, OSError) as error:
        if extension and not isinstance(error, asyncpg.InsufficientPrivilegeError):
            raise
        _log.info("no vectors: the extension vector (pgvector) or its table can't be made: %s", type(error).__name__)
        return False
    return True


async def _create(link: Link, extension: bool) -> None:
    await link.run(f"begin; select pg_advisory_xact_lock({_LOCK})")
    try:
        if not extension:
            await link.run("create extension if not exists vector schema public")
        await link.run(_TABLE)
    except BaseException:
        if not link.closed:
            await link.run("rollback")
        raise
    await link.run("commit")
