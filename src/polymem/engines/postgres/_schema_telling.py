"""Which records were written, for caches to hear of: triggers note it as long as there are caches (CCH-2).

The tables are unlogged: noting costs no log of the server's, and a crash, which empties them, ends what anybody has heard.
"""

from typing import Final

TELLING: Final = """
-- one row while writes are noted: which beginning this is, how often and when last notes were removed, and what was
-- committed then
create unlogged table pm_telling(
    id uuid primary key default gen_random_uuid(), trims bigint not null default 0,
    snapshot pg_snapshot not null default pg_current_snapshot(), at timestamptz not null default clock_timestamp());
-- what one statement wrote in a namespace; keys is null where that was too much to name
create unlogged table pm_told(
    xid xid8 not null default pg_current_xact_id(), namespace text collate "C" not null, keys text[]);
create index pm_told_xid on pm_told(xid);

create function pm_tell_keys() returns trigger language plpgsql as $$
begin
    insert into {schema}.pm_told(namespace, keys)
    select namespace, case when count(*) <= 1000 then array_agg(key) end from written group by namespace;
    return null;
end $$;

create function pm_tell_truncation() returns trigger language plpgsql as $$
begin
    delete from {schema}.pm_telling;
    return null;
end $$;

-- both are the owner's work, on behalf of whoever has a cache; making a trigger waits for transactions that have written
create function pm_tell() returns void language plpgsql security definer set search_path = {schema}, pg_temp as $$
begin
    lock table pm_kv in share row exclusive mode;
    if exists(select from pm_telling) then
        return;
    end if;
    create or replace trigger pm_told_insert after insert on pm_kv referencing new table as written
        for each statement execute function pm_tell_keys();
    create or replace trigger pm_told_update after update on pm_kv referencing new table as written
        for each statement execute function pm_tell_keys();
    create or replace trigger pm_told_delete after delete on pm_kv referencing old table as written
        for each statement execute function pm_tell_keys();
    create or replace trigger pm_told_truncate after truncate on pm_kv
        for each statement execute function pm_tell_truncation();
    insert into pm_telling default values;
end $$;

create function pm_untell(idle interval) returns void language plpgsql security definer
    set search_path = {schema}, pg_temp set lock_timeout = '100ms' as $$
begin
    if exists(select from pm_telling where at > clock_timestamp() - idle)
        or not exists(select from pg_trigger where tgrelid = 'pm_kv'::regclass and tgname = 'pm_told_insert') then
        return;
    end if;
    lock table pm_kv in access exclusive mode;
    if exists(select from pm_telling where at > clock_timestamp() - idle) then
        return;
    end if;
    drop trigger if exists pm_told_insert on pm_kv;
    drop trigger if exists pm_told_update on pm_kv;
    drop trigger if exists pm_told_delete on pm_kv;
    drop trigger if exists pm_told_truncate on pm_kv;
    delete from pm_telling;
    delete from pm_told;
exception when lock_not_available then
    return;  -- another time
end $$;
"""
