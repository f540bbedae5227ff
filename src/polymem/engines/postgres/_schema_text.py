"""Collections of texts and vectors, the texts, and the log that search indexes in memory follow."""

from typing import Final

_SEARCHED: Final = 200_000
"""Characters of a document that full-text search sees, shared by its fields: their words fit the 1 MB of a tsvector."""
COLLECTIONS: Final = """
-- one row per named collection of vectors or texts; its number keeps the big tables narrow
create table pm_collections(
    collection bigint generated always as identity primary key,
    namespace text collate "C" not null, contract text collate "C" not null, name text collate "C" not null,
    options text not null, full_text text, unique(namespace, contract, name));
comment on column pm_collections.full_text is 'The text search configuration of those whose words are indexed';
-- which rows a transaction changed, for indexes in memory: what a reader's last snapshot did not show is news to it
create table pm_changes(
    collection bigint not null, xid xid8 not null default pg_current_xact_id(),
    at bigint not null default extract(epoch from clock_timestamp()) * 1000000, ids text[] not null);
create index pm_changes_collection on pm_changes(collection, xid);
create index pm_changes_at on pm_changes(at);
"""
TEXT: Final = """
create function pm_words(fields text) returns json language sql immutable strict parallel safe as $$
    select json_agg(left(value, {searched} / total::int)) from (
        select value, count(*) over () as total from json_each_text(fields::json)) as f(value, total) $$;
create table pm_texts(
    collection bigint not null, id text collate "C" not null, fields text not null, payload text not null,
    tokens bytea not null, payload_jsonb jsonb not null generated always as (payload::jsonb) stored,
    words tsvector, primary key(collection, id));
alter table pm_texts alter tokens set storage external;
-- filters ask it for what equals a value; whatever jsonb would not tell apart is asked of the text
create index pm_texts_payload on pm_texts using gin (payload_jsonb jsonb_path_ops);
-- words are there where full-text search was asked for
create index pm_texts_words on pm_texts using gin (words);
""".replace("{searched}", str(_SEARCHED))
