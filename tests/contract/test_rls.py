"""Who may read and write what, asked of a real Postgres as each of Supabase's roles."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from db import migrate
from db.postgres_door import PostgresDoor
from db.store import Store

STUB = Path(migrate.__file__).parent / "supabase" / "local_stub.sql"
RELATIONS = "select relname from pg_class where relkind in ('r', 'v') and relnamespace = 'public'::regnamespace order by 1"
TABLES = "select relname from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace order by 1"
FUNCTIONS = """
    select format('%I.%I(%s)', n.nspname, p.proname, (
      select string_agg(format('null::%s', format_type(t, null)), ', ' order by place)
      from unnest(p.proargtypes) with ordinality as a (t, place)))
    from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname in ('public', 'espalier') order by 1
"""


def each(connection: psycopg.Connection[Any], query: str) -> list[str]:
    return [row[0] for row in connection.execute(query.encode()).fetchall()]


def state_of(connection: psycopg.Connection[Any], statement: str, role: str, user: str | None = None) -> str:
    """Run a statement as a role and give its SQLSTATE; nothing that it did stays."""
    with connection.transaction(force_rollback=True):
        connection.execute(f"set local role {role}".encode())
        if user:
            connection.execute("select set_config('request.jwt.claims', %s, true)", [json.dumps({"sub": user})])
        try:
            connection.execute(statement.encode())
        except psycopg.Error as error:
            return str(error.sqlstate)
    return "00000"


@pytest.fixture
def plain(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """Give the base schema on a Postgres that has Supabase's roles."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(STUB.read_bytes())
        connection.execute("select espalier.set_rights()")
        yield connection


@pytest.fixture
def overlaid(plain: psycopg.Connection[Any], database_url: str) -> psycopg.Connection[Any]:
    """Give it with the overlay."""
    asyncio.run(migrate.apply(database_url, supabase=True))
    return plain


def test_row_security_is_on_for_every_table(plain: psycopg.Connection[Any]) -> None:
    query = "select relname from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace and not relrowsecurity"
    assert len(each(plain, TABLES)) >= 20
    assert each(plain, query) == []


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_the_api_roles_can_touch_no_table_and_no_view(plain: psycopg.Connection[Any], role: str) -> None:
    for name in each(plain, RELATIONS):
        assert state_of(plain, f"select * from public.{name}", role) == "42501", name
    for name in each(plain, TABLES):
        for statement in (f"insert into public.{name} default values", f"delete from public.{name}", f"truncate public.{name}"):
            assert state_of(plain, statement, role) == "42501", statement


@pytest.mark.parametrize("role", ["anon", "authenticated"])
@pytest.mark.parametrize("with_overlay", [False, True])
def test_the_api_roles_can_call_no_function(
    plain: psycopg.Connection[Any], database_url: str, role: str, with_overlay: bool
) -> None:
    if with_overlay:
        asyncio.run(migrate.apply(database_url, supabase=True))
    calls = each(plain, FUNCTIONS)
    assert len(calls) > 50
    theirs = {
        "espalier.my_projects()",
        "espalier.my_admin_projects()",
        "espalier.my_nodes()",
        "espalier.my_runs()",
        "espalier.my_admin_runs()",
    }
    open_to_them = theirs if with_overlay and role == "authenticated" else set()
    for call in calls:
        expected = "00000" if call in open_to_them else "42501"
        assert state_of(plain, f"select {call}", role) == expected, call


def test_nobody_else_has_rights_either(overlaid: psycopg.Connection[Any]) -> None:
    public = """
        select p.proname from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
        where p.pronamespace in ('public'::regnamespace, 'espalier'::regnamespace) and a.grantee = 0
        union all
        select c.relname from pg_class c, aclexplode(c.relacl) a
        where c.relnamespace = 'public'::regnamespace and (a.grantee = 0 or a.grantee = 'anon'::regrole)
    """
    assert each(overlaid, public) == []


def test_the_service_role_can_do_what_the_store_does(plain: psycopg.Connection[Any]) -> None:
    for name in each(plain, RELATIONS):
        assert state_of(plain, f"select * from public.{name}", "service_role") == "00000", name
    (project,) = plain.execute("select open_project('p', 'P', 'c', 'C') ->> 'id'").fetchone() or (None,)
    for call in (
        "open_project('q', 'Q', 'c', 'C')",
        f"begin_run('{project}', 'app', null, '{{}}', null, 'rest')",
        f"audit('{project}', 'a', 'b', null, '{{}}')",
        'append_log_lines(null, \'s\', 0, 1, \'[{"source": "superlink", "text": "x"}]\', 10)',
        "schema_version()",
    ):
        assert state_of(plain, f"select public.{call}", "service_role") == "00000", call


def test_a_function_that_a_migration_forgot_to_guard_would_be_seen(plain: psycopg.Connection[Any]) -> None:
    plain.execute("create function public.forgotten() returns int language sql as 'select 1'")
    assert state_of(plain, "select public.forgotten()", "anon") == "00000"
    assert "public.forgotten()" in each(plain, FUNCTIONS)


class People:
    """An admin and two participants of a project, a stranger of another, and what is in both."""

    def __init__(self, url: str) -> None:
        self.admin, self.a, self.b, self.stranger = (str(uuid4()) for _ in range(4))
        asyncio.run(self._fill(url))
        with psycopg.connect(url) as connection:
            for user, project, role, node in (
                (self.admin, self.project, "admin", None),
                (self.a, self.project, "participant", self.node_a),
                (self.b, self.project, "participant", self.node_b),
                (self.stranger, self.other, "participant", None),
            ):
                connection.execute("insert into auth.users (id) values (%s)", [user])
                connection.execute(
                    "insert into members (user_id, project_id, role, node_id) values (%s, %s, %s, %s)",
                    [user, project, role, node],
                )

    async def _fill(self, url: str) -> None:
        door = PostgresDoor(url)
        store = Store(door)
        self.project = (await store.open_project("p", "P", "c", "C"))["id"]
        self.other = (await store.open_project("other", "O", "c", "C"))["id"]
        self.node_a, self.node_b = [await self._enrol(store, name, flower) for name, flower in (("a", "5"), ("b", "6"))]
        run = await store.begin_run(self.project, "app", None, {}, None, "rest")
        await store.begin_attempt(run["id"], "77", "9")
        cause = {"node_id": "5", "node_name": "a", "type": "KeyError", "message": "patient 7", "last_lines": ["patient 7"]}
        at = {"at": "2026-11-22T08:00:00Z", "attempt": "77"}
        update = at | {"kind": "update", "round": 1, "metrics": {"loss": 1}, "status": "failed"}
        await store.apply_journal(
            run["id"],
            [
                at | {"seq": 1, "kind": "round.opened", "round": 1, "nodes": ["5", "6"], "needed": 2},
                update | {"seq": 2, "node_id": "5", "cause": cause},
                update | {"seq": 3, "node_id": "6"},
                at
                | {"seq": 4, "kind": "round.closed", "round": 1, "counted": 0, "metrics": {"loss": 1}, "commit": {"file": "f"}},
                at | {"seq": 5, "kind": "run.closed", "status": "failed", "cause": cause},
            ],
            1,
        )
        lines = [
            {"source": "clientapp", "text": "patient 7", "node_id": self.node_a},
            {"source": "clientapp", "text": "b's", "node_id": self.node_b},
            {"source": "serverapp", "text": "KeyError: patient 7"},
        ]
        await store.append_log_lines(run["id"], "server.log", 0, 1, lines)
        await store.add_token("0" * 64, "admin", None, self.project)
        await store.audit(self.project, "admin", "looked")
        await store.hold_lease(self.project, "s", "h")
        await door.close()

    async def _enrol(self, store: Store, name: str, flower_node_id: str) -> str:
        await store.create_invitation(self.project, name * 64, None, 60)
        node = await store.redeem_invitation(name * 64, name, name, "key", flower_node_id, ("1" if name == "a" else "2") * 64)
        return str(node["id"])

    def sees(self, connection: psycopg.Connection[Any], user: str, query: str) -> list[Any]:
        """Give the first column of what a user's query gives."""
        with connection.transaction(force_rollback=True):
            connection.execute("set local role authenticated")
            connection.execute("select set_config('request.jwt.claims', %s, true)", [json.dumps({"sub": user})])
            return each(connection, query)


@pytest.fixture
def people(overlaid: psycopg.Connection[Any], database_url: str) -> People:
    """Fill the database with two projects."""
    return People(database_url)


def test_everyone_sees_his_own_project_alone(overlaid: psycopg.Connection[Any], people: People) -> None:
    for user, seen in ((people.admin, ["p"]), (people.a, ["p"]), (people.stranger, ["other"]), (str(uuid4()), [])):
        assert people.sees(overlaid, user, "select slug from project_list") == seen
    for view in ("run_list", "round_list", "update_list", "metric_list", "log_list", "node_list", "event_list", "attempt_list"):
        assert people.sees(overlaid, people.stranger, f"select key from {view}") == []


def test_a_participant_sees_the_course_of_a_run_and_of_its_sites_only_its_own(
    overlaid: psycopg.Connection[Any], people: People
) -> None:
    for user, own, flower in ((people.a, "a", "5"), (people.b, "b", "6")):
        assert people.sees(overlaid, user, "select status from run_list") == ["failed"]
        assert people.sees(overlaid, user, "select status from round_list") == ["closed"]
        assert people.sees(overlaid, user, "select external_id from node_list") == [own]
        assert people.sees(overlaid, user, "select flower_node_id from update_list") == [flower]
        assert people.sees(
            overlaid, user, "select distinct scope || coalesce(flower_node_id, '') from metric_list order by 1"
        ) == ["clients", "node" + flower]
        assert people.sees(overlaid, user, "select distinct node_name from log_list") == [own]


def test_what_one_site_printed_reaches_no_other_site(overlaid: psycopg.Connection[Any], people: People) -> None:
    for name in each(overlaid, RELATIONS):
        text = f"select string_agg(to_jsonb(x)::text, '') from public.{name} x"
        if state_of(overlaid, text, "authenticated", people.b) == "00000":
            (seen,) = people.sees(overlaid, people.b, text)
            assert "patient 7" not in (seen or ""), name
    assert people.sees(overlaid, people.a, "select cause ->> 'message' from run_list") == ["patient 7"]
    assert people.sees(overlaid, people.b, "select cause from run_list") == [None]


def test_an_admin_sees_all_of_the_project_but_no_token(overlaid: psycopg.Connection[Any], people: People) -> None:
    assert people.sees(overlaid, people.admin, "select external_id from node_list order by 1") == ["a", "b", "c"]
    assert len(people.sees(overlaid, people.admin, "select text from log_list")) == 3
    assert people.sees(overlaid, people.admin, "select cause ->> 'message' from run_list") == ["patient 7"]
    assert people.sees(overlaid, people.admin, "select action from audit_list") == ["looked"]
    assert people.sees(overlaid, people.admin, "select host from project_list") == ["h"]
    for secret in ("tokens", "report_spools", "log_tails"):
        assert state_of(overlaid, f"select * from public.{secret}", "authenticated", people.admin) == "42501"


def test_a_participant_reads_no_audit_no_invitation_and_no_lease(overlaid: psycopg.Connection[Any], people: People) -> None:
    for name in ("audit_list", "invitation_list", "coordinators"):
        assert people.sees(overlaid, people.a, f"select to_jsonb(x) from public.{name} x") == []
    assert people.sees(overlaid, people.a, "select user_id::text from members") == [people.a]


def test_people_write_nothing(overlaid: psycopg.Connection[Any], people: People) -> None:
    for name in each(overlaid, TABLES):
        for statement in (f"insert into public.{name} default values", f"delete from public.{name}"):
            assert state_of(overlaid, statement, "authenticated", people.admin) == "42501", statement


def test_the_service_role_passes_row_security(overlaid: psycopg.Connection[Any], people: People) -> None:
    with overlaid.transaction(force_rollback=True):
        overlaid.execute("set local role service_role")
        assert each(overlaid, "select slug from project_list order by 1") == ["other", "p"]


def test_rights_set_again_keep_what_participants_have(overlaid: psycopg.Connection[Any], people: People) -> None:
    overlaid.execute("select espalier.set_rights()")
    assert people.sees(overlaid, people.a, "select status from run_list") == ["failed"]
    assert state_of(overlaid, "select * from public.run_list", "anon") == "42501"


def test_realtime_follows_the_small_tables_alone(overlaid: psycopg.Connection[Any]) -> None:
    published = each(overlaid, "select tablename from pg_publication_tables where pubname = 'supabase_realtime' order by 1")
    assert published == ["events", "federated_runs", "node_sessions", "nodes", "rounds", "run_attempts"]
