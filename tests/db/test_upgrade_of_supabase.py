"""A Supabase project is upgraded by the one command that every sentence names."""

import asyncio
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from db import migrate
from db.__main__ import main
from tests.db.lite import STUB

RIGHTS = {
    "policies": "select tablename, policyname, roles::text, cmd, qual from pg_policies where schemaname = 'public'",
    "tables": "select grantee, table_name, privilege_type from information_schema.table_privileges where table_schema = 'public'",
    "functions": "select p.oid::regprocedure::text, p.proacl::text from pg_proc p where pronamespace = 'public'::regnamespace",
    "realtime": "select tablename from pg_publication_tables where pubname = 'supabase_realtime'",
}


def rights(url: str) -> dict[str, list[Any]]:
    with psycopg.connect(url) as connection:
        return {name: sorted(connection.execute(query.encode()).fetchall(), key=str) for name, query in RIGHTS.items()}


@pytest.mark.one_door
async def test_an_upgraded_project_has_the_rights_of_a_new_one(postgres_server: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = {}
    for name, up_to in (("upgraded", "20261122090200"), ("new", None)):
        url = make_conninfo(postgres_server, dbname=f"supabase_{name}")
        with psycopg.connect(postgres_server, autocommit=True) as connection:
            connection.execute(f"create database supabase_{name}".encode())
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(STUB.read_bytes())
        await migrate.apply(url, supabase=True, up_to=up_to)
        if up_to is not None:
            assert await asyncio.to_thread(main, ["status", "--database-url", url]) == 1
            assert "pending 20261122140100" in capsys.readouterr().out
            assert await asyncio.to_thread(main, ["migrate", "--database-url", url]) == 0
        assert await asyncio.to_thread(main, ["status", "--database-url", url]) == 0
        found[name] = rights(url)
    assert len(found["new"]["policies"]) > 10
    assert found["upgraded"] == found["new"]
