"""The log of changes of key-value records, and the triggers that write it once a namespace is watched."""

from typing import Final

EVENTS: Final = """
-- who is watched: from which transaction on, and when somebody last read
create table pm_watched(
    namespace text collate "C" primary key, since xid8 not null, read_at bigint not null);
-- the changes of key-value records of namespaces that are watched; key is null where all were removed
create table pm_kv_changes(
    xid xid8 not null default pg_current_xact_id(), seq bigint generated always as identity,
    namespace text collate "C" not null, key text collate "C", op text not null, expires_at bigint,
    at bigint not null default extract(epoch from clock_timestamp()) * 1000000, primary key(xid, seq));
create index pm_kv_changes_namespace on pm_kv_changes(namespace, xid, seq);

create function pm_log_put() returns trigger language plpgsql as $$
declare name text;
begin
    for name in
        with logged as (
            insert into {schema}.pm_kv_changes(namespace, key, op)
            select f.namespace, f.key, 'put' from fresh f join {schema}.pm_watched using(namespace) returning namespace)
        select distinct namespace from logged
    loop
        perform pg_notify('pm_kv_changes', md5(name));
    end loop;
    return null;
end $$;

create function pm_log_removal() returns trigger language plpgsql as $$
declare
    name text;
    cleared boolean := coalesce(current_setting('polymem.removal', true), '') = 'clear';
begin
    for name in
        with logged as (
            insert into {schema}.pm_kv_changes(namespace, key, op, expires_at)
            select distinct g.namespace, case when not cleared then g.key end,
                case when cleared then 'clear' else 'delete' end, case when not cleared then g.expires_at end
            from gone g join {schema}.pm_watched using(namespace) returning namespace)
        select distinct namespace from logged
    loop
        perform pg_notify('pm_kv_changes', md5(name));
    end loop;
    if cleared then
        perform set_config('polymem.removal', '', true);
    end if;
    return null;
end $$;
"""
TRIGGERS: Final = """
create or replace trigger pm_inserted after insert on pm_kv referencing new table as fresh
    for each statement execute function pm_log_put();
create or replace trigger pm_updated after update on pm_kv referencing new table as fresh
    for each statement execute function pm_log_put();
create or replace trigger pm_removed after delete on pm_kv referencing old table as gone
    for each statement execute function pm_log_removal();
"""
CLEARED: Final = "select set_config('polymem.removal', 'clear', true)"
"""The next removal of this transaction is that of whole namespaces."""
