"""What each of Supabase's roles may do, as plain functions: test_rls.py runs them, test_rls_mutations.py sees them fail."""

from collections.abc import Callable

from psycopg.errors import InsufficientPrivilege

from tests.contract.people import ADMIN, DONE, STRANGER, A, B, Connection, World, each, read, refusals

Check = Callable[[Connection, World], None]

TABLES = "select relname from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace order by 1"
VIEWS = "select relname from pg_class where relkind = 'v' and relnamespace = 'public'::regnamespace order by 1"
FUNCTIONS = """
    select format('select %I.%I(%s)', n.nspname, p.proname, (
      select string_agg(format('null::%s', format_type(t, null)), ', ' order by place)
      from unnest(p.proargtypes) with ordinality as a (t, place)))
    from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname in ('public', 'espalier') order by 1
"""
THEIRS = [f"select espalier.my_{what}()" for what in ("admin_projects", "admin_runs", "nodes", "projects", "runs")]
SECRET = ("tokens", "report_spools", "log_tails")
NOBODY = "00000000-0000-4000-8000-00000000ffff"
COLUMNS = """
    select c.relname || ' ' || a.attname from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum = 1
    where c.relkind = 'r' and c.relnamespace = 'public'::regnamespace order by 1
"""

# Relation -> what says whose a row is, and what the admin and a participant of project p and a stranger see of it.
# A participant's other self is b: what is a's here is b's there.
SEEN: dict[str, tuple[str, str, str, str]] = {
    "projects": ("slug", "p", "p", "other"),
    "nodes": ("external_id", "a, b, coordinator-p", "a", "x"),
    "node_sessions": ("runtime_config ->> 'of'", "a, b", "a", "x"),
    "members": ("user_id::text", "admin, user-a, user-b", "user-a", "stranger"),
    "coordinators": ("host", "host-p", "", ""),
    "invitations": ("label", "for a, for b", "", ""),
    "audit_log": ("action", "looked at p", "", ""),
    "federated_runs": ("app", "app-p", "app-p", "app-other"),
    "run_causes": ("cause ->> 'message'", "a patient; b patient", "", ""),
    "run_attempts": ("flower_run_id", "77", "77", "88"),
    "rounds": ("attempt", "77", "77", "88"),
    "node_updates": ("flower_node_id", "5, 6", "5", "7"),
    "metrics": (
        "concat(scope, flower_node_id, ' ', value)",
        "clients 77, node5 77, node6 77",
        "clients 77, node5 77",
        "clients 88, node7 88",
    ),
    "artifacts": ("uri", "of-77", "of-77", "of-88"),
    "models": ("why", "p", "p", "other"),
    "model_sources": ("flower_node_id", "5, 6", "5", "7"),
    "model_promotions": ("why", "p", "p", "other"),
    "events": ("coalesce(node_id, project_id)::text", "a, b, p", "a, p", "other, x"),
    "log_lines": ("text", "a printed, b printed, server of p", "a printed", "x printed"),
    "project_list": ("concat(slug, ' ', host)", "p host-p", "p ", "other "),
    "node_list": (
        "concat(external_id, ' ', session_status)",
        "a starting, b starting, coordinator-p ",
        "a starting",
        "x starting",
    ),
    "session_list": ("node_name", "Hospital a, Hospital b", "Hospital a", "Hospital x"),
    "run_list": ("concat(app, ' ', cause ->> 'message')", "app-p a patient; b patient", "app-p ", "app-other "),
    "attempt_list": ("flower_run_id", "77", "77", "88"),
    "round_list": ("attempt", "77", "77", "88"),
    "update_list": ("node_name", "Hospital a, Hospital b", "Hospital a", "Hospital x"),
    "metric_list": (
        "concat(scope, ' ', node_name)",
        "clients , node Hospital a, node Hospital b",
        "clients , node Hospital a",
        "clients , node Hospital x",
    ),
    "event_list": ("coalesce(node_name, project_id::text)", "Hospital a, Hospital b, p", "Hospital a, p", "Hospital x, other"),
    "log_list": ("text", "a printed, b printed, server of p", "a printed", "x printed"),
    "artifact_list": ("uri", "of-77", "of-77", "of-88"),
    "model_list": ("why", "p", "p", "other"),
    "model_source_list": ("node_name", "Hospital a, Hospital b", "Hospital a", "Hospital x"),
    "promotion_list": ("why", "p", "p", "other"),
    "audit_list": ("action", "looked at p", "", ""),
    "invitation_list": ("label", "for a, for b", "", ""),
    "run_overview": ("concat(app, ' ', reason)", "app-p KeyError", "app-p KeyError", "app-other stop asked"),
    "round_table": ("concat(run_id, ' ', loss)", "run-p 77", "run-p 77", "run-other 88"),
    "node_overview": ("concat(external_id, ' ', failed)", "a 1, b 1, coordinator-p ", "a 1", "x 1"),
    "run_timeline": (
        "coalesce(node_name, run_id::text)",
        "Hospital a, Hospital b, run-p",
        "Hospital a, run-p",
        "Hospital x, run-other",
    ),
    "run_size": ("concat(run_id, ' ', updates, ' ', log_lines)", "run-p 4 3", "run-p 2 1", "run-other 2 1"),
}
# Where the names alone do not say what b sees where a sees its own.
SEEN_BY_B = {
    "node_updates": "6",
    "model_sources": "6",
    "metrics": "clients 77, node6 77",
    "events": "b, p",
    "members": "user-b",
}


def anon_touches_nothing(connection: Connection, world: World) -> None:
    """Anon reads no table and no view, and writes none."""
    for kind, names in (("table", each(connection, TABLES)), ("view", each(connection, VIEWS))):
        denied(connection, {f"select * from public.{name}": f"{kind} {name}" for name in names}, "anon")
    denied(connection, writes(connection), "anon")


def anon_calls_nothing(connection: Connection, world: World) -> None:
    """Anon calls no function, ours or a helper; the helpers' schema is shut before their own right is asked."""
    calls = each(connection, FUNCTIONS)
    denied(connection, {call: "schema espalier" if "espalier." in call else function(call) for call in calls}, "anon")


def an_admin_reads_the_project(connection: Connection, world: World) -> None:
    """An admin reads all of the own project, and no token."""
    sees(connection, world, ADMIN, {name: of_admin for name, (_, of_admin, _, _) in SEEN.items()})


def a_participant_reads_the_course_and_its_own(connection: Connection, world: World) -> None:
    """A participant reads the course of the project's runs and, of its sites, its own alone."""
    sees(connection, world, A, {name: of_a for name, (_, _, of_a, _) in SEEN.items()})


def the_other_participant_reads_no_less_and_no_more(connection: Connection, world: World) -> None:
    """The other site reads the same of itself."""
    sees(connection, world, B, {name: SEEN_BY_B.get(name, swapped(of_a)) for name, (_, _, of_a, _) in SEEN.items()})


def nobody_reads_what_another_site_sent(connection: Connection, world: World) -> None:
    """No column of any row repeats to a participant a value, a name or an id of another site; its own is there."""
    ids = {name: key for key, name in world.names.items()}
    queries = [f"select string_agg(to_jsonb(x)::text, '') from public.{name} x" for name in SEEN]
    for user, own, other in ((A, "a", "b"), (B, "b", "a")):
        texts = read(connection, queries, "authenticated", user)
        for name, text in zip(SEEN, texts, strict=True):
            told = [word for word in (f"{other} patient", f"Hospital {other}", ids[other]) if word in text]
            assert told == [], f"{user} reads {told} in {name}"
        for word in (f"{own} patient", f"Hospital {own}", "journal.refused", "report.refused"):
            assert word in "".join(texts), word


def a_stranger_reads_the_other_project_alone(connection: Connection, world: World) -> None:
    """A participant of another project reads nothing of this one; who is of none reads nothing at all."""
    sees(connection, world, STRANGER, {name: of_stranger for name, (_, _, _, of_stranger) in SEEN.items()})
    for nobody in (NOBODY, None):
        counts = read(connection, [f"select count(*) from public.{name}" for name in SEEN], "authenticated", nobody)
        assert dict(zip(SEEN, counts, strict=True)) == dict.fromkeys(SEEN, "0")


def who_logs_in_writes_nothing(connection: Connection, world: World) -> None:
    """Neither an admin nor a participant writes, whosever rows they are."""
    for user in (ADMIN, A):
        denied(connection, writes(connection), "authenticated", user)


def who_logs_in_calls_nothing(connection: Connection, world: World) -> None:
    """Of all functions, those that the policies stand on alone can be called by who logs in."""
    calls = each(connection, FUNCTIONS)
    assert set(THEIRS) <= set(calls)
    for user in (ADMIN, A):
        assert refusals(connection, THEIRS, "authenticated", user) == [DONE] * len(THEIRS)
        denied(connection, {call: function(call) for call in calls if call not in THEIRS}, "authenticated", user)


def the_service_reads_and_writes_all(connection: Connection, world: World) -> None:
    """The service role passes row security, and can do what the Store does."""
    names = each(connection, TABLES) + each(connection, VIEWS)
    counts = [f"select count(*) from public.{name}" for name in names]
    assert read(connection, counts, "service_role") == read(connection, counts, "postgres")
    project = next(key for key, name in world.names.items() if name == "other")
    calls = [
        "select public.open_project('q', 'Q', 'c', 'C')",
        f"select public.begin_run('{project}', 'app', null, '{{}}', null, 'shell')",
        f"select public.audit('{project}', 'a', 'b', null, '{{}}')",
        'select public.append_log_lines(null, \'s\', 0, 1, \'[{"source": "superlink", "text": "x"}]\', 10)',
        f"select public.prune('{project}', 30, 10)",
        "select public.schema_version()",
    ]
    assert dict(zip(calls, refusals(connection, calls, "service_role"), strict=True)) == dict.fromkeys(calls, DONE)


def nobody_holds_another_right(connection: Connection, world: World) -> None:
    """What cannot be tried out (triggers, sequences, single columns, a schema): nobody holds it but owner and service."""
    held = """
        select concat_ws(' ', a.grantee::regrole, a.privilege_type, c.relname)
        from pg_class c, aclexplode(c.relacl) a where c.relnamespace = 'public'::regnamespace
        union all
        select concat_ws(' ', a.grantee::regrole, a.privilege_type, t.attrelid::regclass, t.attname)
        from pg_attribute t, aclexplode(t.attacl) a where t.attrelid::regclass::text !~ '^pg_'
        union all
        select concat_ws(' ', a.grantee::regrole, a.privilege_type, n.nspname)
        from pg_namespace n, aclexplode(n.nspacl) a where n.nspname = 'espalier'
        union all
        select concat_ws(' ', a.grantee::regrole, a.privilege_type, p.proname)
        from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
        where p.pronamespace in ('public'::regnamespace, 'espalier'::regnamespace)
    """
    theirs = {line for line in each(connection, held) if line.startswith(("anon", "authenticated", "-"))}
    expected = {f"authenticated SELECT {name}" for name in SEEN}
    expected |= {f"authenticated EXECUTE {call[16:-2]}" for call in THEIRS} | {"authenticated USAGE espalier"}
    assert theirs == expected


CHECKS: tuple[Check, ...] = (
    anon_touches_nothing,
    anon_calls_nothing,
    a_participant_reads_the_course_and_its_own,
    a_stranger_reads_the_other_project_alone,
    the_other_participant_reads_no_less_and_no_more,
    nobody_reads_what_another_site_sent,
    an_admin_reads_the_project,
    who_logs_in_writes_nothing,
    who_logs_in_calls_nothing,
    the_service_reads_and_writes_all,
    nobody_holds_another_right,
)


def sees(connection: Connection, world: World, user: str, expected: dict[str, str]) -> None:
    """Say whose rows of each relation a user sees, and that the secret ones are shut."""
    queries = [
        f"select string_agg(distinct coalesce(({label})::text, '-'), '|') from public.{name}"
        for name, (label, *_) in SEEN.items()
    ]
    try:
        rows = read(connection, queries, "authenticated", user)
    except InsufficientPrivilege as error:
        raise AssertionError(f"{user} sees less: {error}") from error
    found = [", ".join(sorted(world.named(row).split("|"))) for row in rows]
    apart = {name: (seen, expected[name]) for name, seen in zip(SEEN, found, strict=True) if seen != expected[name]}
    assert not apart, f"{user} sees (and should see): {apart}"
    denied(connection, {f"select * from public.{name}": f"table {name}" for name in SECRET}, "authenticated", user)


def writes(connection: Connection) -> dict[str, str]:
    """Give four ways to write each table, with what a refusal names."""
    columns = dict(line.split(" ") for line in each(connection, COLUMNS))
    ways = (
        "insert into public.{} default values",
        "update public.{} set {} = default",
        "delete from public.{}",
        "truncate public.{}",
    )
    return {way.format(name, column): f"table {name}" for name, column in columns.items() for way in ways}


def denied(connection: Connection, statements: dict[str, str], role: str, user: str | None = None) -> None:
    """See that the right itself is missing: row security's refusal of an insert is a 42501 too, with another message."""
    found = dict(zip(statements, refusals(connection, list(statements), role, user), strict=True))
    assert found == {statement: f"42501 permission denied for {what}" for statement, what in statements.items()}


def function(call: str) -> str:
    """Give what a refusal names: `select public.beat(null::uuid)` is function beat."""
    return f"function {call.partition('.')[2].partition('(')[0]}"


def swapped(label: str) -> str:
    """Give a's label with b's names."""
    words = {"a": "b", "nodea": "nodeb"}
    return ", ".join(" ".join(words.get(word, word) for word in part.split(" ")) for part in label.split(", "))
