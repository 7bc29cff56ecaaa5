"""The doctor finds nothing wrong with a good database, and names what is wrong with a bad one."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from db import doctor
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
    ("row_security", "drop view run_size", "run_size is gone"),
    ("policies", "alter policy read_own on rounds using (true)", "read_own lets authenticated select more than theirs on rounds"),
    ("policies", "alter policy read_own on rounds to anon", "read_own lets anon select more"),
    ("policies", "create policy all_of_it on nodes for update to authenticated using (true)", "lets authenticated update more"),
    ("policies", "drop policy read_own on rounds", "no policy lets people read rounds"),
    ("realtime", "alter publication supabase_realtime drop table rounds", "rounds is not followed"),
    ("realtime", "alter publication supabase_realtime add table log_lines", "log_lines is followed"),
    ("realtime", "drop publication supabase_realtime", "there is no publication supabase_realtime"),
    (
        "schema",
        "delete from supabase_migrations.schema_migrations where version = '20261122090200'",
        "not applied is 20261122090200_realtime: run `python -m db migrate --supabase`",
    ),
    (
        "schema",
        "create or replace function schema_version() returns jsonb language sql as $$ select to_jsonb('29990101000000'::text) $$",
        "newer than this code's",
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


def called(url: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "db", "doctor"], capture_output=True, text=True, env=os.environ | {"DATABASE_URL": url}, timeout=60
    )
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
async def test_what_is_broken_is_named_alone_and_with_its_cure(supabase_url: str, about: str, statement: str, words: str) -> None:
    with psycopg.connect(supabase_url) as connection:
        connection.execute(statement.encode())
    wrong = [one for one in await doctor.examine(supabase_url) if one.wrong]
    assert [one.about for one in wrong] == [about]
    assert words in f"{wrong[0].wrong}: {wrong[0].advice}"
    assert wrong[0].advice


async def test_the_cure_for_grants_cures(supabase_url: str) -> None:
    with psycopg.connect(supabase_url) as connection:
        for about, statement, _ in BREAKS:
            if about == "grants":
                connection.execute(statement.encode())
    assert [one.about for one in await doctor.examine(supabase_url) if one.wrong] == ["grants"]
    with psycopg.connect(supabase_url) as connection:
        connection.execute("select espalier.set_rights()")
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
