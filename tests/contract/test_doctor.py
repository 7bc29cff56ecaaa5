"""The doctor finds nothing wrong with a good database, and names what is wrong with a bad one."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from db import doctor, migrate
from tests.contract.people import World

BREAKS = [
    ("grants", "grant select on tokens to anon", "anon may select tokens"),
    ("grants", "grant insert on events to authenticated", "authenticated may insert events"),
    ("grants", "grant select (sha256) on tokens to authenticated", "authenticated may select tokens.sha256"),
    ("grants", "grant update on sequence events_key_seq to anon", "anon may update events_key_seq"),
    ("grants", "grant execute on function beat to public", "everybody may execute beat(uuid,jsonb)"),
    ("grants", "revoke select on run_overview from authenticated", "authenticated may not select run_overview"),
    ("grants", "revoke insert on rounds from service_role", "service_role may not insert rounds"),
    ("grants", "revoke execute on function beat from service_role", "service_role may not call beat(uuid,jsonb)"),
    ("row_security", "alter table nodes disable row level security", "row security is off for nodes"),
    ("row_security", "alter view run_list set (security_invoker = false)", "run_list does not hold its reader"),
    ("schema", "drop view run_size", "public.run_size is gone: restore the database from its backup"),
    ("schema", "drop function beat", "public.beat is gone: restore"),
    ("schema", "drop function espalier.relations", "espalier.relations is gone: restore"),
    ("policies", "alter policy read_own on rounds using (true)", "read_own lets authenticated select more than theirs on rounds"),
    ("policies", "alter policy read_own on rounds to anon", "read_own lets anon select more"),
    (
        "policies",
        "create policy all_of_it on nodes for update to authenticated using (true)",
        "lets authenticated update more than theirs on nodes: run `drop policy all_of_it on public.nodes;`",
    ),
    ("policies", "drop policy read_own on rounds", "no policy lets people read rounds"),
    ("realtime", "alter publication supabase_realtime drop table rounds", "rounds is not followed"),
    ("realtime", "alter publication supabase_realtime add table log_lines", "log_lines is followed"),
    ("realtime", "drop publication supabase_realtime", "there is no publication supabase_realtime"),
    (
        "schema",
        "delete from supabase_migrations.schema_migrations where version = '20261122090200'",
        "lacks 20261122090200_realtime: run `python -m db migrate`",
    ),
    (
        "schema",
        "drop table supabase_migrations.schema_migrations",
        f"the database has schema {migrate.latest_version()}, and its history lacks 20261122090000_first, 2026",
    ),
    (
        "schema",
        "create or replace function schema_version() returns jsonb language sql as $$ select to_jsonb('29990101000000'::text) $$",
        f"the database has schema 29990101000000, newer than this code's {migrate.latest_version()}: update Espalier",
    ),
    (
        "schema",
        "create or replace function schema_version() returns jsonb language sql as $$ select to_jsonb('20260101000000'::text) $$",
        "changed by hand",
    ),
]


@pytest.fixture
def supabase_url(postgres_server: str, _people: tuple[str, World]) -> Iterator[str]:
    """Give a copy of the overlaid database that may be broken."""
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("create database patient template people")
        yield make_conninfo(postgres_server, dbname="patient")
        connection.execute("drop database patient with (force)")


def cli(url: str, verb: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"DATABASE_URL": url}
    return subprocess.run([sys.executable, "-m", "db", verb], capture_output=True, text=True, env=environment, timeout=60)


def called(url: str) -> tuple[int, str]:
    done = cli(url, "doctor")
    assert done.stderr == ""
    return done.returncode, done.stdout


async def test_nothing_is_wrong_with_a_good_database(database_url: str, supabase_url: str) -> None:
    plain = await doctor.examine(database_url)
    assert [one.about for one in plain] == ["schema", "clock", "grants", "row_security"]
    with_people = await doctor.examine(supabase_url)
    assert [one.about for one in with_people] == ["schema", "clock", "grants", "row_security", "policies", "realtime"]
    assert [one for one in plain + with_people if one.wrong] == []
    assert called(supabase_url) == (0, "".join(f"ok     {one.about}\n" for one in with_people))


@pytest.mark.parametrize(("about", "statement", "words"), BREAKS, ids=[statement for _, statement, _ in BREAKS])
async def test_what_is_broken_is_named_alone(supabase_url: str, about: str, statement: str, words: str) -> None:
    with psycopg.connect(supabase_url) as connection:
        connection.execute(statement.encode())
    wrong = [one for one in await doctor.examine(supabase_url) if one.wrong]
    assert [one.about for one in wrong] == [about]
    assert words in f"{wrong[0].wrong}: {wrong[0].advice}"


CURABLE = ("grants ", "row_security ", "realtime ", "policies create", "schema drop table")


@pytest.mark.parametrize("statement", [statement for about, statement, _ in BREAKS if f"{about} {statement}".startswith(CURABLE)])
async def test_the_cure_that_is_told_cures(supabase_url: str, statement: str) -> None:
    with psycopg.connect(supabase_url) as connection:
        connection.execute(statement.encode())
    (wrong,) = [one for one in await doctor.examine(supabase_url) if one.wrong]
    cures = re.findall("`(.*?)`", wrong.advice)
    assert cures
    with psycopg.connect(supabase_url) as connection:
        for cure in cures:
            connection.execute(cure.encode())
    assert [one for one in await doctor.examine(supabase_url) if one.wrong] == []


@pytest.mark.parametrize(("off_s", "words"), [(-60, "60.0 s ahead of"), (60, "60.0 s behind")])
async def test_a_clock_that_is_off_is_named(database_url: str, off_s: float, words: str) -> None:
    (wrong,) = [one for one in await doctor.examine(database_url, clock=lambda: time.time() + off_s) if one.wrong]
    assert (wrong.about, words in str(wrong.wrong)) == ("clock", True)


def test_the_command_line_fails_and_says_what_to_do(supabase_url: str) -> None:
    with psycopg.connect(supabase_url) as connection:
        connection.execute("grant select on tokens to anon")
    code, printed = called(supabase_url)
    assert code == 1
    assert "wrong  grants: anon may select tokens: run `select espalier.set_rights();` as the owner\n" in printed


def test_who_cannot_connect_or_may_not_look_is_told_in_one_sentence(supabase_url: str) -> None:
    with psycopg.connect(supabase_url) as connection:
        connection.execute("create role visitor login password 'x'")
    try:
        for url, words in (
            ("postgresql://nobody:hidden@127.0.0.1:1/none", "The database cannot be reached: .*refused.*"),
            (
                make_conninfo(supabase_url, dbname="nowhere"),
                'The database cannot be reached: .*database "nowhere" does not exist',
            ),
            (
                make_conninfo(supabase_url, password="hidden"),
                "The database cannot be reached: .*password authentication failed.*",
            ),
            ("hidden", "That is no connection string: postgresql://USER:PASSWORD@HOST:PORT/DATABASE is one."),
            ("postgresql://me:hidden@[", "That is no connection string: .* is one."),
            (
                make_conninfo(supabase_url, user="visitor", password="x"),
                "This user may not look .*: connect as the schema's owner.",
            ),
        ):
            for verb in ("doctor", "status"):
                done = cli(url, verb)
                assert (done.returncode, done.stdout) == (1, "")
                assert re.fullmatch(f"{words}\n", done.stderr), done.stderr
                assert "hidden" not in done.stderr
    finally:
        with psycopg.connect(supabase_url) as connection:
            connection.execute("drop role visitor")
