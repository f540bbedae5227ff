"""The table of conversation turns, `active_context`, which people and other programs may read and write too (PG-1)."""

from typing import Final

TURNS: Final = """
create table active_context(
    id bigint generated always as identity primary key,
    tenant text collate "C" not null default 'default',
    session_id text collate "C" not null check (octet_length(session_id) between 1 and 512),
    turn_id bigint not null check (turn_id >= 0),
    uid text collate "C" not null default gen_random_uuid()::text,
    role text not null default 'user',
    content text not null,
    encoded boolean not null default false,
    metadata jsonb not null default '{}',
    metadata_text text,
    created_at timestamptz not null default now(),
    ttl_expires_at timestamptz default now() + interval '24 hours',
    unique (tenant, session_id, turn_id));
create index active_context_ttl on active_context(ttl_expires_at) where ttl_expires_at is not null;
create index active_context_created on active_context(created_at desc);
comment on index active_context_ttl is 'What expires, for the sweeper';
comment on index active_context_created is 'The latest turns of all sessions';
comment on table active_context is 'Recent turns of conversations';
comment on column active_context.id is 'The row';
comment on column active_context.tenant is 'Whose it is: the namespace, its segments joined by /';
comment on column active_context.session_id is 'The conversation';
comment on column active_context.turn_id is 'Its place in the session: higher is later';
comment on column active_context.uid is 'The id by which the library knows the turn';
comment on column active_context.role is 'Who speaks';
comment on column active_context.content is 'What was said';
comment on column active_context.encoded is 'Content is JSON (a list of parts) or a layer''s, not plain text';
comment on column active_context.metadata is 'Anything else, as an object';
comment on column active_context.metadata_text is 'Metadata exactly as given; ignored where metadata was changed since';
comment on column active_context.created_at is 'When it was said';
comment on column active_context.ttl_expires_at is 'From then on it is invisible; null is never';

-- the exact text is of no use once the metadata is another
create function pm_metadata_changed() returns trigger language plpgsql as $$
begin
    if new.metadata is distinct from old.metadata and new.metadata_text is not distinct from old.metadata_text then
        new.metadata_text := null;
    end if;
    return new;
end $$;
comment on function pm_metadata_changed() is 'Forget the exact text of metadata that was changed';
create trigger active_context_metadata before update of metadata on active_context
    for each row execute function pm_metadata_changed();

-- A number that somebody else is about to take makes an insert wait for the end of his transaction, and try the next
-- one after it: so numbers have no gaps and those of one call are neighbours.
create function pm_append_turns(
    of_tenant text, sessions text[], turn_ids bigint[], uids text[], roles text[], contents text[], encodings boolean[],
    metadatas text[], instants timestamptz[], expiries timestamptz[], replacing boolean, at timestamptz)
returns bigint[] language plpgsql as $$
declare
    session text;
    highest bigint;
    given bigint;
    done bigint[] := '{}';
begin
    for n in 1 .. cardinality(sessions) loop
        if session is distinct from sessions[n] then
            session := sessions[n];
            select max(turn_id) into highest from {schema}.active_context
                where tenant = of_tenant and session_id = session;
        end if;
        loop
            given := coalesce(turn_ids[n], coalesce(highest, 0) + 1);
            insert into {schema}.active_context as kept (tenant, session_id, turn_id, uid, role, content, encoded,
                metadata, metadata_text, created_at, ttl_expires_at)
            values (of_tenant, session, given, uids[n], roles[n], contents[n], encodings[n],
                metadatas[n]::jsonb, nullif(metadatas[n], '{}'), instants[n], expiries[n])
            on conflict (tenant, session_id, turn_id) do update set uid = excluded.uid, role = excluded.role,
                content = excluded.content, encoded = excluded.encoded, metadata = excluded.metadata,
                metadata_text = excluded.metadata_text, created_at = excluded.created_at,
                ttl_expires_at = excluded.ttl_expires_at
            where turn_ids[n] is not null and (replacing or kept.ttl_expires_at <= at);
            exit when found;
            if turn_ids[n] is not null then
                raise unique_violation;
            end if;
            select max(turn_id) into highest from {schema}.active_context
                where tenant = of_tenant and session_id = session;
        end loop;
        highest := greatest(highest, given);
        done := done || given;
    end loop;
    return done;
end $$;
comment on function pm_append_turns is 'Store turns of sessions, all or nothing; their turn ids';

create function cleanup_expired_active_context() returns integer language sql as $$
    with gone as (delete from {schema}.active_context where ttl_expires_at <= now() returning 1)
    select count(*)::integer from gone $$;
comment on function cleanup_expired_active_context() is 'Delete expired turns; how many there were';

create view v_active_context_stats as select session_id, count(*) as turn_count,
    min(created_at) as first_turn_at, max(created_at) as last_turn_at,
    count(*) filter (where ttl_expires_at <= now()) as expired_count,
    count(*) filter (where ttl_expires_at is null or ttl_expires_at > now()) as active_count, tenant
    from active_context group by tenant, session_id;
comment on view v_active_context_stats is 'Figures for each session';
comment on column v_active_context_stats.session_id is 'The conversation';
comment on column v_active_context_stats.turn_count is 'Its turns, expired ones that were not removed yet included';
comment on column v_active_context_stats.first_turn_at is 'When the first was said';
comment on column v_active_context_stats.last_turn_at is 'When the last was said';
comment on column v_active_context_stats.expired_count is 'Turns that have expired';
comment on column v_active_context_stats.active_count is 'Turns that have not';
comment on column v_active_context_stats.tenant is 'Whose it is';
"""
