"""schema.sql is the whole truth: its parts, the migrations and the databases that they make are the same."""

import asyncio
import difflib
import os
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from db import migrate
from db.binaries import binaries
from tests.contract.people import fill
from tests.contract.role_checks import TABLES


@pytest.fixture
def schema_url(postgres_server: str) -> Iterator[str]:
    """Give a database made from schema.sql alone."""
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("create database from_schema")
        url = make_conninfo(postgres_server, dbname="from_schema")
        with psycopg.connect(url) as fresh:
            fresh.execute(migrate.schema_file().read_bytes())
        yield url
        connection.execute("drop database from_schema with (force)")


@pytest.fixture
async def migrated_url(postgres_server: str) -> AsyncIterator[str]:
    """Give a database made by the migrations now, since what they grant depends on the roles that the server has now."""
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("create database from_migrations")
        url = make_conninfo(postgres_server, dbname="from_migrations")
        await migrate.apply(url)
        yield url
        connection.execute("drop database from_migrations with (force)")


def dump(url: str) -> list[str]:
    """Dump a schema, without the history of migrations and without what pg_dump makes up anew each time."""
    facts = conninfo_to_dict(url)
    target = make_conninfo(**{name: str(value) for name, value in facts.items() if name != "password"})
    done = subprocess.run(
        [binaries() / "pg_dump", "--schema-only", "--exclude-schema=supabase_migrations", target],
        capture_output=True,
        text=True,
        env={"PGPASSWORD": str(facts["password"]), "PATH": os.environ["PATH"]},
    )
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))]


def test_schema_sql_and_the_migrations_make_the_same_database(schema_url: str, migrated_url: str) -> None:
    ours, theirs = dump(schema_url), dump(migrated_url)
    assert len(ours) > 1000
    assert "\n".join(difflib.unified_diff(ours, theirs, "schema.sql", "migrations", lineterm="")) == ""


def test_the_diff_sees_a_changed_comment(schema_url: str, migrated_url: str) -> None:
    with psycopg.connect(schema_url) as connection:
        connection.execute("comment on column rounds.status is 'something else'")
    assert dump(schema_url) != dump(migrated_url)


def test_schema_sql_is_put_together_from_its_parts() -> None:
    assert migrate.schema_file().read_text() == migrate.assembled(), "run `python -m db assemble`"


def test_the_schema_says_the_newest_migrations_version(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        assert connection.execute("select schema_version() #>> '{}'").fetchone() == (migrate.latest_version(),)


def test_there_are_no_enums_and_every_status_is_checked_and_drawn(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        assert connection.execute("select typname from pg_type where typtype = 'e'").fetchall() == []
        columns = connection.execute(
            """
            select c.relname, col_description(c.oid, a.attnum),
              exists (select 1 from pg_constraint k where k.conrelid = c.oid and k.contype = 'c' and k.conkey = array[a.attnum])
            from pg_attribute a join pg_class c on c.oid = a.attrelid
            where a.attname = 'status' and c.relkind = 'r' and c.relnamespace = 'public'::regnamespace
            """
        ).fetchall()
    assert len(columns) == 6
    for table, comment, checked in columns:
        assert checked, table
        assert "▶" in comment, table


def test_every_foreign_key_has_an_index_that_begins_with_its_columns(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        bare = connection.execute(
            """
            select k.conrelid::regclass::text, k.conname from pg_constraint k
            where k.contype = 'f' and not exists (
              select 1 from pg_index i where i.indrelid = k.conrelid
                and (string_to_array(i.indkey::text, ' ')::int2[])[1:cardinality(k.conkey)] @> k.conkey
                and k.conkey @> (string_to_array(i.indkey::text, ' ')::int2[])[1:cardinality(k.conkey)])
            """
        ).fetchall()
    assert bare == []


def test_every_view_has_a_key_to_page_by_and_holds_its_reader_to_row_security(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        views = connection.execute(
            """
            select c.relname, c.reloptions,
              (select format_type(a.atttypid, null) from pg_attribute a where a.attrelid = c.oid and a.attname = 'key')
            from pg_class c where c.relkind = 'v' and c.relnamespace = 'public'::regnamespace
            """
        ).fetchall()
    assert len(views) >= 18
    for name, options, key in views:
        assert name.endswith("_list") or name in ("run_overview", "round_table", "node_overview", "run_timeline", "run_size")
        assert key == "bigint", name
        assert options == ["security_invoker=true"], name


def test_every_function_has_its_own_search_path(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        loose = connection.execute(
            """
            select p.proname from pg_proc p
            where p.pronamespace in ('public'::regnamespace, 'espalier'::regnamespace)
              and p.proconfig is distinct from array['search_path=""']
            """
        ).fetchall()
    assert loose == [("is_plain_time",)], "the one that is inlined: it names its operator's schema and touches nothing else"


def test_the_schema_keeps_to_what_postgres_15_has() -> None:
    text = re.sub(r"--.*", "", migrate.schema_file().read_text()).lower()
    for newer in ("uuidv7", "virtual", "without overlaps", "json_table", "pg_input_is_valid", "any_value(", "merge into"):
        assert newer not in text


def test_every_transition_leads_from_a_status_to_a_status(database_url: str) -> None:
    tables = {"run": "federated_runs", "session": "node_sessions", "node": "nodes"}
    with psycopg.connect(database_url) as connection:
        for machine, table in tables.items():
            (check,) = connection.execute(
                "select pg_get_constraintdef(oid) from pg_constraint where conname = %s", [f"{table}_status_is_known"]
            ).fetchone() or ("",)
            known = set(re.findall(r"'(\w+)'::text", check))
            assert len(known) > 4
            reached = set()
            for target in known:
                (sources,) = connection.execute("select espalier.allowed_from(%s, %s)", [machine, target]).fetchone() or ([],)
                assert set(sources) <= known - {target}
                reached |= {target} if sources else set()
            first = {"run": {"pending"}, "session": {"starting"}, "node": set()}[machine]
            assert reached == known - first


@pytest.mark.parametrize("earlier", migrate.migrations()[:-1], ids=lambda migration: migration.version)
async def test_an_upgrade_keeps_every_row(postgres_server: str, earlier: migrate.Migration) -> None:
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("create database upgraded")
        try:
            url = make_conninfo(postgres_server, dbname="upgraded")
            await migrate.apply(url, up_to=earlier.version)
            await asyncio.to_thread(fill, url)
            before = rows(url)
            assert len(before) >= 20
            assert never_filled(before) == EMPTY & names(before)
            assert [one.version for one in await migrate.apply(url)][-1] == migrate.latest_version()
            after = rows(url)
            assert {table: len(found) for table, found in after.items() if table in before} == {
                table: len(found) for table, found in before.items()
            }
            for table, found in before.items():
                for old, new in zip(found, after[table], strict=True):
                    cleans = table == "events" and earlier.version < "20261122140000"
                    expected = upgraded(old) if cleans else old
                    assert {column: new[column] for column in old} == expected, table
        finally:
            connection.execute("drop database upgraded with (force)")


# What no row of people.py says: no node is removed, no SuperNode told its Flower id, no run waits or ends early; artifacts have
# no score, are neither copied nor let go, and the one model of a project follows no other.
EMPTY = {"nodes.removed_at", "node_sessions.flower_node_id", "federated_runs.waiting", "federated_runs.ended_early"}
EMPTY |= {"artifacts.score", "artifacts.stored_at", "artifacts.stored_uri", "artifacts.removed_at"}
EMPTY |= {"models.parent_version", "model_promotions.from_version"}


def never_filled(found: dict[str, list[dict[str, Any]]]) -> set[str]:
    """Name the columns that are null in every row, and the tables without one."""
    bare = {table for table, lines in found.items() if not lines}
    return bare | {
        f"{table}.{column}"
        for table, lines in found.items()
        if lines
        for column in lines[0]
        if all(line[column] is None for line in lines)
    }


def names(found: dict[str, list[dict[str, Any]]]) -> set[str]:
    """Name every table, and every column of those that have a row."""
    return found.keys() | {f"{table}.{column}" for table, lines in found.items() if lines for column in lines[0]}


def upgraded(event: dict[str, Any]) -> dict[str, Any]:
    """Give an event without what an earlier version let participants read of other sites."""
    data = dict(event["data"])
    if data.get("what") in ("journal.refused", "report.refused"):
        data["why"] = "It was refused by an earlier version."
        del data["kind"]
    elif data.get("what") == "dataset.duplicate":
        del data["nodes"]
        event = event | {"dedupe_key": None}
    elif data.get("cause"):
        data["cause"] = {name: value for name, value in data["cause"].items() if name != "node_name"}
    return event | {"data": data}


# What tells a table's rows apart and no upgrade changes.
KEY = "concat_ws(' ', to_jsonb(x) ->> 'key', to_jsonb(x) ->> 'id', to_jsonb(x) ->> 'run_id', to_jsonb(x) ->> 'stream')"


def rows(url: str) -> dict[str, list[dict[str, Any]]]:
    """Give every row of every table."""
    with psycopg.connect(url) as connection:
        tables = [name for (name,) in connection.execute(TABLES.encode())]
        return {
            name: [row[0] for row in connection.execute(f"select to_jsonb(x) from {name} x order by {KEY}".encode())]
            for name in tables
        }


DOCS = Path(__file__).parents[2] / "docs" / "schema.md"


def test_the_docs_name_every_table_view_function_and_status(database_url: str) -> None:
    text = DOCS.read_text()
    with psycopg.connect(database_url) as connection:
        names = connection.execute(
            """
            select relname from pg_class where relkind in ('r', 'v') and relnamespace = 'public'::regnamespace
            union select proname from pg_proc where pronamespace = 'public'::regnamespace
            """
        ).fetchall()
        statuses = connection.execute(
            "select pg_get_constraintdef(oid) from pg_constraint"
            " where conname like '%status_is_known' or conname = 'events_name_is_known'"
        ).fetchall()
    words = {name for (name,) in names} | {word for (check,) in statuses for word in re.findall(r"'([\w.]+)'::text", check)}
    assert len(words) > 60
    assert sorted(word for word in words if not re.search(rf"(?<![\w.]){re.escape(word)}(?![\w])", text)) == []


def test_the_docs_name_no_table_that_is_not_there(database_url: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \|", DOCS.read_text(), re.MULTILINE)
    with psycopg.connect(database_url) as connection:
        known = {
            name
            for (name,) in connection.execute(
                """
            select relname from pg_class where relkind in ('r', 'v') and relnamespace = 'public'::regnamespace
            union select proname from pg_proc where pronamespace = 'public'::regnamespace
            """
            ).fetchall()
        }
    assert len(rows) > 30
    assert set(rows) <= known
