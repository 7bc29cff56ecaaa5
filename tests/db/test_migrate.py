import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from db import migrate
from db.errors import DatabaseError, DatabaseUnavailable, SchemaMismatch
from db.postgres_door import PostgresDoor
from db.store import Store


@pytest.fixture
def empty_url(postgres_server: str) -> Iterator[str]:
    """Give a database without a schema."""
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("create database empty")
        yield make_conninfo(postgres_server, dbname="empty")
        connection.execute("drop database empty with (force)")


def set_version(url: str, version: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(
            f"create or replace function schema_version() returns jsonb language sql as $$ select '\"{version}\"'::jsonb $$"
        )


def cli(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"} | environment
    return subprocess.run([sys.executable, "-m", "db", *arguments], capture_output=True, text=True, env=env, timeout=60)


def test_migrations_are_named_as_supabase_names_them_and_are_in_order() -> None:
    names = [one.path.name for one in migrate.migrations(supabase=True)]
    assert all(re.fullmatch(r"\d{14}_[a-z0-9_]+\.sql", name) for name in names)
    assert len({name[:14] for name in names}) == len(names)
    assert names == sorted(names)


async def test_migrating_twice_applies_once(empty_url: str) -> None:
    first = await migrate.apply(empty_url)
    assert [one.version for one in first] == [one.version for one in migrate.migrations()]
    assert await migrate.apply(empty_url) == []
    with psycopg.connect(empty_url) as connection:
        history = connection.execute(
            "select version, name, cardinality(statements) from supabase_migrations.schema_migrations"
        ).fetchall()
    assert history == [(one.version, one.name, 1) for one in migrate.migrations()]


async def test_four_that_migrate_at_once_wait_for_each_other(empty_url: str) -> None:
    applied = await asyncio.gather(*(migrate.apply(empty_url) for _ in range(4)))
    assert sum(len(one) for one in applied) == len(migrate.migrations())


async def test_a_migration_that_fails_leaves_nothing(empty_url: str) -> None:
    with psycopg.connect(empty_url) as connection:
        connection.execute("create table public.events (something text)")
    with pytest.raises(DatabaseError, match="failed"):
        await migrate.apply(empty_url)
    with psycopg.connect(empty_url) as connection:
        assert connection.execute("select to_regclass('public.nodes')").fetchone() == (None,)
        assert connection.execute("select to_regclass('supabase_migrations.schema_migrations')").fetchone() == (None,)


async def test_a_store_on_a_database_without_schema_says_what_to_do(empty_url: str) -> None:
    door = PostgresDoor(empty_url)
    with pytest.raises(SchemaMismatch, match="no Espalier schema: run `python -m db migrate`"):
        await Store(door).check_schema()
    await door.close()


async def test_a_store_takes_only_the_schema_it_was_written_for(database_url: str, store: Store) -> None:
    assert await store.check_schema() == migrate.latest_version()
    for version, advice in (("20200101000000", "run `python -m db migrate`"), ("29990101000000", "update Espalier")):
        set_version(database_url, version)
        with pytest.raises(SchemaMismatch, match=advice) as mismatch:
            await store.check_schema()
        assert (mismatch.value.found, mismatch.value.expected) == (version, migrate.latest_version())


async def test_a_newer_database_is_not_touched(database_url: str) -> None:
    set_version(database_url, "29990101000000")
    with pytest.raises(SchemaMismatch, match="update Espalier"):
        await migrate.apply(database_url)


async def test_a_database_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(DatabaseUnavailable):
        await migrate.status("postgresql://nobody@127.0.0.1:1/none")


def test_the_command_line_migrates_and_says_what_it_applied(empty_url: str) -> None:
    done = cli("migrate", "--database-url", empty_url)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"applied {migrate.latest_version()}" in done.stdout


async def test_status_says_in_one_line_how_the_database_is_and_what_to_do(empty_url: str) -> None:
    first, *others = migrate.migrations()
    newest, all_of_them = migrate.latest_version(), [f"pending {one.version} {one.name}" for one in (first, *others)]

    def told() -> tuple[int, list[str], str]:
        done = cli("status", DATABASE_URL=empty_url)
        return done.returncode, done.stdout.splitlines(), done.stderr

    lacks = f"this code needs {newest}: run `python -m db migrate`."
    assert told() == (1, [*all_of_them, f"The database has no schema; {lacks}"], "")
    await migrate.apply(empty_url, up_to=first.version)
    assert told() == (1, [*all_of_them[1:], f"The database has schema {first.version}; {lacks}"], "")
    await migrate.apply(empty_url)
    assert told() == (0, [f"The database has schema {newest}; this code needs {newest}."], "")
    set_version(empty_url, "20200101000000")
    assert told() == (1, [f"The database has schema 20200101000000; this code needs {newest}: ask `python -m db doctor`."], "")
    set_version(empty_url, "29990101000000")
    newer = f"The database has schema 29990101000000, newer than this code's {newest}: update Espalier.\n"
    assert told() == (1, [], newer)


def test_the_command_line_fails_in_one_sentence(tmp_path: Path) -> None:
    nowhere = cli("migrate")
    assert (nowhere.returncode, nowhere.stderr.count("\n")) == (2, 1)
    assert "set DATABASE_URL" in nowhere.stderr
    gone = cli("migrate", "--database-url", "postgresql://nobody@127.0.0.1:1/none")
    assert (gone.returncode, gone.stdout) == (1, "")
    assert gone.stderr.startswith("The database cannot be reached: ")
    assert gone.stderr.count("\n") == 1
