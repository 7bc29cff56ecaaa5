"""The role checks prove something: loosen any policy, or widen any grant, and at least one of them fails."""

import re
from collections.abc import Sequence

import pytest

from tests.contract.people import Connection, World, each
from tests.contract.role_checks import (
    CHECKS,
    SEEN,
    Check,
    an_admin_reads_the_project,
    anon_calls_nothing,
    anon_touches_nothing,
    nobody_holds_another_right,
    who_logs_in_calls_nothing,
    who_logs_in_writes_nothing,
)

TRIED_OUT = tuple(check for check in CHECKS if check is not nobody_holds_another_right)

POLICIES = """
    select format('alter policy %I on %s using (true)', polname, polrelid::regclass) from pg_policy
    union all
    select format('alter policy %I on %s using (%s)', polname, polrelid::regclass,
      replace(pg_get_expr(polqual, polrelid), 'my_admin_', 'my_'))
    from pg_policy where pg_get_expr(polqual, polrelid) ~ 'my_admin_'
    union all
    select format('drop policy %I on %s', polname, polrelid::regclass) from pg_policy
    order by 1
"""
HELPERS = [
    f"create or replace function espalier.my_{what}() returns setof uuid language sql stable security definer"
    f" set search_path = '' as 'select id from public.{table}'"
    for what, table in (
        ("projects", "projects"),
        ("admin_projects", "projects"),
        ("nodes", "nodes"),
        ("runs", "federated_runs"),
        ("admin_runs", "federated_runs"),
    )
]
ROW_SECURITY = """
    select format('alter table %s disable row level security', oid::regclass) from pg_class
    where relkind = 'r' and relnamespace = 'public'::regnamespace and relname = any (array['{}'])
    union all
    select format('alter view %s set (security_invoker = false)', oid::regclass) from pg_class
    where relkind = 'v' and relnamespace = 'public'::regnamespace
"""
# What can be tried out: reading and writing a table, reading a view, calling a function.
GRANTS = """
    select format('grant %s on %s to %s', privilege, c.oid::regclass, role)
    from pg_class c, unnest(array['anon', 'authenticated', 'public']) role,
      unnest(case relkind when 'v' then array['select']
        else array['select', 'insert', 'update', 'delete', 'truncate'] end) privilege
    where relkind in ('r', 'v') and relnamespace = 'public'::regnamespace
      and not (role <> 'anon' and has_table_privilege('authenticated', c.oid, privilege))
    union all
    select format('grant execute on function %s to %s', p.oid::regprocedure, role)
    from pg_proc p, unnest(array['anon', 'authenticated', 'public']) role
    where p.pronamespace in ('public'::regnamespace, 'espalier'::regnamespace)
      and (role = 'authenticated' or p.pronamespace = 'public'::regnamespace)
      and not has_function_privilege('authenticated', p.oid, 'execute')
"""
# What cannot: the right is there and, as things are, does nothing.
QUIET_GRANTS = """
    select format('grant %s on %s to %s', privilege, c.oid::regclass, role)
    from pg_class c, unnest(array['anon', 'authenticated', 'public']) role,
      unnest(case relkind when 'S' then array['usage', 'update'] when 'v' then array['insert', 'update', 'delete']
        else array['references', 'trigger'] end) privilege
    where relkind in ('r', 'v', 'S') and relnamespace = 'public'::regnamespace
    union all
    select format('grant execute on function %s to %s', p.oid::regprocedure, role)
    from pg_proc p, unnest(array['anon', 'public']) role where p.pronamespace = 'espalier'::regnamespace
    union all
    select format('grant select (%I) on %s to %s', a.attname, a.attrelid::regclass, role)
    from pg_attribute a, unnest(array['anon', 'authenticated']) role
    where a.attrelid = any (array['public.tokens', 'public.report_spools', 'public.log_tails']::regclass[]) and a.attnum > 0
    union all
    select format('grant usage on schema espalier to %s', role) from unnest(array['anon', 'public']) role
"""


def unnoticed(connection: Connection, world: World, mutations: Sequence[str], checks: Sequence[Check]) -> list[str]:
    """Make each change alone, and give those that no check noticed."""
    passed = []
    for mutation in mutations:
        with connection.transaction(force_rollback=True):
            connection.execute(mutation.encode())
            if not any(fails(connection, world, check) for check in checks):
                passed.append(mutation)
    return passed


def fails(connection: Connection, world: World, check: Check) -> bool:
    try:
        check(connection, world)
    except AssertionError:
        return True
    return False


def test_each_loosened_policy_is_noticed(overlaid: Connection, world: World) -> None:
    mutations = each(overlaid, POLICIES)
    assert len(mutations) > 40
    assert unnoticed(overlaid, world, mutations, TRIED_OUT) == []


def test_each_loosened_helper_of_the_policies_is_noticed(overlaid: Connection, world: World) -> None:
    assert unnoticed(overlaid, world, HELPERS, TRIED_OUT) == []


def test_row_security_switched_off_anywhere_is_noticed(overlaid: Connection, world: World) -> None:
    mutations = each(overlaid, ROW_SECURITY.replace("{}", "','".join(SEEN)))
    assert len(mutations) >= 36
    # These two stand on run_list and node_list, which hold the reader themselves: they show the same with it and without.
    held = [f"alter view {name} set (security_invoker = false)" for name in ("node_overview", "run_overview")]
    assert sorted(unnoticed(overlaid, world, mutations, TRIED_OUT)) == held


@pytest.mark.parametrize(
    ("what", "checks"),
    [
        ("grant execute ", (who_logs_in_calls_nothing, anon_calls_nothing)),
        ("grant select ", (an_admin_reads_the_project, anon_touches_nothing)),
        ("grant (insert|update|delete|truncate) ", (who_logs_in_writes_nothing, anon_touches_nothing)),
    ],
)
def test_each_widened_grant_is_noticed(overlaid: Connection, world: World, what: str, checks: tuple[Check, Check]) -> None:
    mutations = [grant for grant in each(overlaid, GRANTS) if re.match(what, grant)]
    assert len(mutations) > 40
    for_people = [grant for grant in mutations if grant.endswith("to authenticated")]
    assert unnoticed(overlaid, world, for_people, checks[:1]) == []
    assert unnoticed(overlaid, world, [grant for grant in mutations if grant not in for_people], checks[1:]) == []


def test_each_grant_that_cannot_be_tried_out_is_noticed(overlaid: Connection, world: World) -> None:
    mutations = each(overlaid, QUIET_GRANTS)
    assert len(mutations) > 400
    assert unnoticed(overlaid, world, mutations, [nobody_holds_another_right]) == []


def test_a_change_that_loosens_nothing_is_no_failure(overlaid: Connection, world: World) -> None:
    harmless = "comment on table public.nodes is 'Sites'"
    assert unnoticed(overlaid, world, [harmless], CHECKS) == [harmless]
