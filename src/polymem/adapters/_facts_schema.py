"""The table of facts, `working_memory`, in PostgreSQL (PG-1)."""

from typing import Final

from polymem.store import Store

_LOCK: Final = 0x504D464D
"""ASCII "PMFM": the advisory lock under which the table is made."""
_COMMENTS: Final = {
    "id": "The fact",
    "tenant": "Whose it is",
    "session_id": "The conversation it was learnt in",
    "fact_type": "entity, preference, constraint, goal or another kind",
    "content": "What is known",
    "confidence": "How sure that is, from 0 to 1",
    "source_turn_ids": "The turns of the session it was learnt from",
    "metadata": "Anything else, as an object",
    "metadata_text": "Metadata exactly as given; ignored where metadata was changed since",
    "created_at": "When it was first stored",
    "updated_at": "When it was last changed",
    "ttl_expires_at": "From then on it is invisible; null is never",
}
_FIGURES: Final = {
    "session_id": "The conversation",
    "fact_count": "Its facts, expired ones that were not removed yet included",
    "fact_type_count": "How many kinds of them there are",
    "avg_confidence": "The mean of how sure they are",
    "first_fact_at": "When the first was stored",
    "last_updated_at": "When one was last changed",
    "expired_count": "Facts that have expired",
    "active_count": "Facts that have not",
    "tenant": "Whose they are",
}
_INDEXES: Final = {
    "ttl": ("(ttl_expires_at) where ttl_expires_at is not null", "What expires, for the sweeper"),
    "created": ("(created_at desc)", "The latest facts"),
    "session": ("(session_id, fact_type)", "The facts of a session, by kind"),
    "type": ("(fact_type)", "The facts of a kind"),
    "confidence": ("(confidence desc)", "The surest facts"),
    "updated": ("(updated_at desc)", "The facts changed last"),
}
_TABLE: Final = """
create table working_memory(
    id bigint generated always as identity primary key,
    tenant text collate "C" not null default 'default',
    session_id text collate "C" not null check (octet_length(session_id) between 1 and 512),
    fact_type text collate "C" not null check (char_length(fact_type) between 1 and 50),
    content text not null,
    confidence double precision not null default 1.0 check (confidence between 0 and 1),
    source_turn_ids integer[] not null default '{}',
    metadata jsonb not null default '{}',
    metadata_text text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    ttl_expires_at timestamptz default now() + interval '7 days')"""
_CLEANUP: Final = """
create or replace function cleanup_expired_working_memory() returns integer language sql as $$
    with gone as (delete from {schema}.working_memory where ttl_expires_at <= now() returning 1)
    select count(*)::integer from gone $$"""
_CLEANUP_ALL: Final = """
create or replace function cleanup_expired_records(
    out active_context_deleted integer, out working_memory_deleted integer, out total_deleted integer)
language plpgsql as $$
begin
    active_context_deleted := {schema}.cleanup_expired_active_context();
    working_memory_deleted := {schema}.cleanup_expired_working_memory();
    total_deleted := active_context_deleted + working_memory_deleted;
end $$"""
_TOUCH: Final = """
create or replace function update_updated_at_column() returns trigger language plpgsql as $$
begin
    new.updated_at := now();
    return new;
end $$"""
_TRIGGER: Final = """
create trigger working_memory_touch before update on working_memory
for each row execute function update_updated_at_column()"""
_STATS: Final = """
create or replace view v_working_memory_stats as select session_id, count(*) as fact_count,
    count(distinct fact_type) as fact_type_count, avg(confidence) as avg_confidence,
    min(created_at) as first_fact_at, max(updated_at) as last_updated_at,
    count(*) filter (where ttl_expires_at <= now()) as expired_count,
    count(*) filter (where ttl_expires_at is null or ttl_expires_at > now()) as active_count, tenant
    from working_memory group by tenant, session_id"""
_STATEMENTS: Final = (
    _TABLE,
    *(f"create index working_memory_{name} on working_memory{of}" for name, (of, _) in _INDEXES.items()),
    *(f"comment on index working_memory_{name} is '{words}'" for name, (_, words) in _INDEXES.items()),
    _CLEANUP,
    _CLEANUP_ALL,
    _TOUCH,
    _TRIGGER,
    _STATS,
    "comment on table working_memory is 'Facts learnt in conversations'",
    *(f"comment on column working_memory.{name} is '{words}'" for name, words in _COMMENTS.items()),
    "comment on function cleanup_expired_working_memory() is 'Delete expired facts; how many there were'",
    "comment on function cleanup_expired_records() is 'Delete expired turns and facts; how many there were'",
    "comment on function update_updated_at_column() is 'Note when a row is changed'",
    "comment on view v_working_memory_stats is 'Figures for each session'",
    *(f"comment on column v_working_memory_stats.{name} is '{words}'" for name, words in _FIGURES.items()),
)
_GIN: Final = (
    "create index if not exists active_context_metadata on active_context using gin (metadata)",
    "create index if not exists working_memory_metadata on working_memory using gin (metadata)",
    "create index if not exists working_memory_sources on working_memory using gin (source_turn_ids)",
)
# a query of the catalogue: to_regclass may answer from what this connection has cached while it waited for the lock
_THERE: Final = "select from pg_tables where schemaname = current_schema() and tablename = 'working_memory'"


async def create_facts_table(store: Store) -> None:
    """Make what is not there; harmless if it is, and if two processes do it at once."""
    if await store.sql.query(_THERE):
        return
    async with store.transaction(isolation="read_committed") as tx:
        await tx.sql.execute(f"select pg_advisory_xact_lock({_LOCK})")
        if await tx.sql.query(_THERE):
            return
        schema = (await tx.sql.query("select quote_ident(current_schema())"))[0][0]
        for statement in _STATEMENTS:
            await tx.sql.execute(statement.replace("{schema}", schema))


async def create_gin_indexes(store: Store) -> None:
    """Make those that are not there."""
    for statement in _GIN:
        await store.sql.execute(statement)
