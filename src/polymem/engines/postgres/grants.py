"""The least privileges of a role that uses the tables and makes none (PG-1)."""

from typing import Final

from polymem.contracts.sql import Sql
from polymem.core.text import check_key

# what everybody may do by default is granted by name only where the database has taken it back
_STATEMENTS: Final = """
-- one is only locked, the others are never updated
with less(name, verbs) as (values ('pm_gate', 'select, delete'), ('pm_changes', 'select, insert, delete'),
    ('pm_kv_changes', 'select, insert, delete'), ('pm_told', 'select, insert, delete')),
here as (select c.oid, c.relname, c.relkind, format('%I.%I', n.nspname, c.relname) as name
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = current_schema() and c.relkind in ('r', 'v')
    and (c.relname ~ '^pm_' or c.relname in (
        'active_context', 'working_memory', 'v_active_context_stats', 'v_working_memory_stats'))),
statements(part, name, statement) as (
    select 1, '', format('grant connect on database %I to %I', current_database(), $1::text)
    union all
    select 2, nspname, format('grant usage on schema %I to %I', nspname, $1::text) from pg_namespace
    where nspname = current_schema() or oid in (select extnamespace from pg_extension where extname = 'vector')
    union all
    select 3, here.name, format('grant %s on %s to %I', case when here.relkind = 'v' then 'select'
        else coalesce(less.verbs, 'select, insert, update, delete') end, here.name, $1::text)
    from here left join less on less.name = here.relname
    union all
    select 4, p.oid::regprocedure::text, format('grant execute on function %s to %I', p.oid::regprocedure, $1::text)
    from pg_proc p where p.pronamespace = current_schema()::regnamespace and p.prorettype <> 'trigger'::regtype
    and (p.proname ~ '^pm_' or p.proname ~ '^cleanup_expired_')
    and not has_function_privilege('public', p.oid, 'execute'))
select statement from statements order by part, name"""


async def grants(sql: Sql, role: str) -> list[str]:
    """The statements that let a role do all that a store does with the tables that are there.

    An owner of the tables runs them. What needs an owner stays out of the role's reach: indexes, `purge`, and the first
    `watch` of a database.
    """
    return [statement for (statement,) in await sql.query(_STATEMENTS, [check_key(role, field="role")])]
