"""Collections of texts and vectors, the texts, and the log that search indexes in memory follow."""

from typing import Final

COLLECTIONS: Final = """
-- one row per named collection of vectors or texts; its number keeps the big tables narrow
create table pm_collections(
    collection bigint generated always as identity primary key,
    namespace text collate "C" not null, contract text collate "C" not null, name text collate "C" not null,
    options text not null, unique(namespace, contract, name));
-- which rows a transaction changed, for indexes in memory: what a reader's last snapshot did not show is news to it
create table pm_changes(
    collection bigint not null, xid xid8 not null default pg_current_xact_id(),
    at bigint not null default extract(epoch from clock_timestamp()) * 1000000, ids text[] not null);
create index pm_changes_collection on pm_changes(collection, xid);
create index pm_changes_at on pm_changes(at);
"""
TEXT: Final = """
create table pm_texts(
    collection bigint not null, id text collate "C" not null, fields text not null, payload text not null,
    tokens bytea not null, primary key(collection, id));
alter table pm_texts alter tokens set storage external;
"""
