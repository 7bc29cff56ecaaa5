"""Who may read and write what, asked of a real Postgres as each of Supabase's roles."""

import asyncio
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from db import doctor, migrate
from tests.contract.conftest import STUB
from tests.contract.people import DONE, STRANGER, A, Connection, World, each, fill, read, refusals
from tests.contract.role_checks import CHECKS, FUNCTIONS, SECRET, SEEN, TABLES, VIEWS, Check


@pytest.fixture
def empty_url(postgres_server: str) -> Iterator[str]:
    """Give a database without a schema."""
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("create database unprepared")
        yield make_conninfo(postgres_server, dbname="unprepared")
        connection.execute("drop database unprepared with (force)")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_each_role_does_what_it_may(overlaid: Connection, world: World, check: Check) -> None:
    check(overlaid, world)


def test_every_table_has_a_row_and_every_relation_its_line(overlaid: Connection, world: World) -> None:
    for name in each(overlaid, TABLES):
        assert each(overlaid, f"select count(*)::text from public.{name}") != ["0"], name
    assert sorted({*SEEN, *SECRET}) == sorted(each(overlaid, TABLES) + each(overlaid, VIEWS))
    listed = each(overlaid, "select name || ' ' || is_shown from espalier.relations()")
    assert sorted(listed) == sorted(f"{name} {str(name in SEEN).lower()}" for name in (*SEEN, *SECRET))


def test_row_security_is_on_for_every_table(plain: Connection) -> None:
    query = "select relname from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace and not relrowsecurity"
    assert len(each(plain, TABLES)) >= 20
    assert each(plain, query) == []


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_without_the_overlay_the_api_roles_can_do_nothing(plain: Connection, role: str) -> None:
    tries = [f"select * from public.{name}" for name in each(plain, TABLES) + each(plain, VIEWS)] + each(plain, FUNCTIONS)
    assert len(tries) > 110
    assert {said[:5] for said in refusals(plain, tries, role)} == {"42501"}


def test_what_an_older_supabase_project_grants_by_default_is_taken_back(empty_url: str) -> None:
    """Projects made before October 2026 grant all on what is made in public to their roles, sequences too."""
    with psycopg.connect(empty_url, autocommit=True) as connection:
        connection.execute(STUB.read_bytes())
        for what in ("tables", "sequences", "functions"):
            connection.execute(
                f"alter default privileges in schema public grant all on {what} to anon, authenticated, service_role".encode()
            )
        asyncio.run(migrate.apply(empty_url, supabase=True))
        world = fill(empty_url)
        for check in CHECKS:
            check(connection, world)


@pytest.mark.parametrize("first_supabase", ["20261122090200", None], ids=["as first released", "without the overlay"])
def test_an_older_project_is_upgraded_to_the_same_rights(empty_url: str, first_supabase: str | None) -> None:
    with psycopg.connect(empty_url, autocommit=True) as connection:
        connection.execute(STUB.read_bytes())
        asyncio.run(migrate.apply(empty_url, supabase=first_supabase is not None, up_to=first_supabase))
        world = fill(empty_url)
        connection.execute("insert into auth.users (id) select user_id from members on conflict do nothing")
        asyncio.run(migrate.apply(empty_url, supabase=True))
        for check in CHECKS:
            check(connection, world)
        assert [one for one in asyncio.run(doctor.examine(empty_url)) if one.wrong] == []


def test_a_function_that_a_migration_forgot_to_guard_would_be_seen(plain: Connection) -> None:
    plain.execute("create function public.forgotten() returns int language sql as 'select 1'")
    assert refusals(plain, ["select public.forgotten()"], "anon") == [DONE]
    assert "select public.forgotten()" in each(plain, FUNCTIONS)


def test_rights_set_again_keep_what_participants_have(overlaid: Connection, world: World) -> None:
    overlaid.execute("select espalier.set_rights()")
    for check in CHECKS:
        check(overlaid, world)


def test_a_participant_pages_by_key(overlaid: Connection, world: World) -> None:
    for name in ("run_overview", "round_table", "node_overview", "run_timeline"):
        every = f"select string_agg(key::text, ' ' order by key) from public.{name}"
        (keys,) = read(overlaid, [every], "authenticated", A)
        first, *others = keys.split(" ")
        (after,) = read(overlaid, [f"{every} where key > {first}"], "authenticated", A)
        assert after == " ".join(others), name
        (of_stranger,) = read(overlaid, [every], "authenticated", STRANGER)
        assert not {first, *others} & set(of_stranger.split(" ")), name


def test_realtime_follows_what_changes_slowly(overlaid: Connection) -> None:
    published = each(overlaid, "select tablename from pg_publication_tables where pubname = 'supabase_realtime' order by 1")
    assert published == sorted(each(overlaid, "select name from espalier.relations() where is_followed"))
    assert not {"log_lines", "metrics", "node_updates", "nodes"} & set(published)
