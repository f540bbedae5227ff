"""The tables of format 1. `pm_` marks what belongs to the engine; instants are microseconds since the epoch."""

from typing import Final

APPLICATION_ID: Final = 0x504D454D
"""ASCII "PMEM": tells our files from other SQLite databases."""
FORMAT: Final = 1
UPLOAD_LIFETIME: Final = 86_400_000_000
"""Microseconds after which an upload that was not committed is given up."""

TABLES: Final = """
-- with a rowid, unlike the others: to find a key without one, SQLite reads the whole of every record on the way whose
-- value is longer than a kilobyte. Older files have none; every statement works on both.
create table pm_kv(
    namespace text not null, key text not null, value text not null, type text not null,
    created_at integer not null, updated_at integer not null, expires_at integer, version integer not null,
    primary key(namespace, key));
create index pm_kv_expires on pm_kv(expires_at) where expires_at is not null;

create table pm_turns(
    namespace text not null, session_id text not null, turn_id integer not null, id text not null,
    role text not null, content text not null, metadata text not null,
    created_at integer not null, expires_at integer,
    primary key(namespace, session_id, turn_id)) without rowid;
create index pm_turns_expires on pm_turns(expires_at) where expires_at is not null;

-- one row per named collection of vectors or texts; its number keeps the big tables narrow
create table pm_collections(
    collection integer primary key autoincrement, namespace text not null, contract text not null, name text not null,
    options text not null, unique(namespace, contract, name));

create table pm_vectors(
    collection integer not null, id text not null, vector blob not null, payload text not null,
    primary key(collection, id));

create table pm_texts(
    collection integer not null, id text not null, fields text not null, payload text not null, tokens blob not null,
    primary key(collection, id));
create table pm_nodes(
    namespace text not null, graph text not null, label text not null, id text not null, properties text not null,
    primary key(namespace, graph, label, id)) without rowid;
create table pm_edges(
    namespace text not null, graph text not null, id text not null,
    source_label text not null, source_id text not null, target_label text not null, target_id text not null,
    type text not null, properties text not null, valid_from integer, valid_to integer,
    primary key(namespace, graph, id)) without rowid;
create index pm_edges_source on pm_edges(namespace, graph, source_label, source_id, type);
create index pm_edges_target on pm_edges(namespace, graph, target_label, target_id, type);

-- a blob row names its current upload; parts of 256 kB belong to the upload
create table pm_blobs(
    namespace text not null, container text not null, key text not null, upload text not null, size integer not null,
    checksum text not null, content_type text not null, metadata text not null, created_at integer not null,
    primary key(namespace, container, key)) without rowid;
create table pm_uploads(
    upload text primary key, namespace text not null, container text not null, started_at integer not null,
    committed integer not null default 0) without rowid;
create index pm_uploads_place on pm_uploads(namespace, container);
create index pm_uploads_open on pm_uploads(started_at) where not committed;
create table pm_blob_parts(
    upload text not null, number integer not null, data blob not null, primary key(upload, number));

-- the change log: written with every change of an indexed collection, read by other connections
create table pm_changes(
    seq integer primary key autoincrement, collection integer not null, ids text not null);
create index pm_changes_collection on pm_changes(collection, seq);

create table pm_meta(name text primary key, value text not null) without rowid;
"""

_LOGGED: Final = """
create trigger pm_kv_{name} after {event} on pm_kv
when exists(select 1 from pm_watched where namespace = {row}.namespace) begin
    insert into pm_kv_changes(namespace, key, op) values({row}.namespace, {row}.key, '{op}'); end;
"""

WATCH: Final = """
-- who is watched: from which change on, and when somebody last read
create table pm_watched(
    namespace text primary key, since integer not null, read_at integer not null) without rowid;
-- the changes of key-value records of namespaces that are watched; key is null where all were removed
create table pm_kv_changes(
    seq integer primary key autoincrement, namespace text not null, key text, op text not null);
""" + "".join((
    _LOGGED.format(name="inserted", event="insert", row="new", op="put"),
    _LOGGED.format(name="updated", event="update", row="new", op="put"),
    _LOGGED.format(name="deleted", event="delete", row="old", op="delete"),
))  # fmt: skip
"""Made when somebody first watches a namespace, dropped when nobody has for a day: a file that nobody watches pays
nothing. Triggers, so that every writer logs, plain SQL and versions that know nothing of this included.
"""
UNWATCH: Final = "drop table pm_watched; drop table pm_kv_changes;" + "".join(
    f"drop trigger pm_kv_{event};" for event in ("inserted", "updated", "deleted")
)
