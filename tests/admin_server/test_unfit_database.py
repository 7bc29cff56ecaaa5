"""A database that is read-only, or of another schema, at start and under a running server."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import psycopg
import pytest
from admin_server.app import create_app
from admin_server.settings import Settings
from control_plane.files import read_json

from db import migrate
from db.errors import DatabaseReadOnly, SchemaMismatch
from tests.admin_server.admin_app import Server, client_of
from tests.admin_server.quick_looks import assert_told_once, eventually, look_often

BEAT = {"reported_at": "2026-11-22T08:00:00Z", "supernode_state": "running"}
NEWER = """create or replace function public.schema_version() returns jsonb language sql as
  $$ select to_jsonb('99991231000000'::text) $$"""
FIRST = migrate.migrations()[0].version
AT = "2026-11-22T08:00:00Z"
TABLES = ("log_lines", "invitations", "report_spools", "audit_log", "events")
LINE = {"source": "supernode", "lines": [{"at": AT, "level": "info", "text": "one"}]}
REPORTS = {"spool_id": "s", "lines": [{"seq": 1, "kind": "log", "at": AT, "data": LINE}]}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    look_often(monkeypatch)


@pytest.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[Server]:
    """A server with a Postgres of its own."""
    app = create_app(Settings(espalier_home=tmp_path / "home", apps_dir=tmp_path))
    async with app.router.lifespan_context(app) as state:
        token = (tmp_path / "home" / "admin.token").read_text().strip()
        async with client_of(app, dict(state or {}), token) as admin:
            yield Server(app, dict(state or {}), admin, tmp_path / "home")


def by_hand(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement)


def go_back(dsn: str) -> None:
    """Bring a database back to the oldest schema, as who restores an old backup does."""
    by_hand(dsn, "drop schema public, espalier, supabase_migrations cascade; create schema public")
    asyncio.run(migrate.apply(dsn, up_to=FIRST))


def assert_refused(answer: httpx.Response, slug: str, words: str) -> None:
    problem = answer.json()
    assert (answer.status_code, problem["type"].rpartition("#")[2]) == (503, slug), problem
    assert words in problem["detail"]
    assert "\n" not in problem["detail"]
    assert int(answer.headers["retry-after"]) > 0


async def start(settings: Settings) -> None:
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        raise AssertionError("it started")


async def test_a_start_on_a_read_only_database_is_one_sentence(settings: Settings, database_url: str) -> None:
    by_hand(
        database_url,
        "do $$ begin execute format('alter database %I set default_transaction_read_only = on', current_database()); end $$",
    )
    with pytest.raises(DatabaseReadOnly, match="takes no writes"):
        await start(settings)


@pytest.mark.parametrize(("newer", "words"), [(True, "update Espalier"), (False, "run `python -m db migrate`")])
async def test_a_start_on_another_schema_is_one_sentence_and_changes_nothing(
    settings: Settings, database_url: str, newer: bool, words: str
) -> None:
    await asyncio.to_thread(by_hand, database_url, NEWER) if newer else await asyncio.to_thread(go_back, database_url)
    with pytest.raises(SchemaMismatch, match=words):
        await start(settings)
    with psycopg.connect(database_url) as connection:
        assert connection.execute("select count(*) from public.projects").fetchone() == (0,)


async def test_a_database_that_becomes_a_standby_refuses_writes_and_is_read(
    embedded: Server, caplog: pytest.LogCaptureFixture
) -> None:
    node_id, site = await embedded.node()
    home = embedded.home / "postgres"
    (home / "data" / "standby.signal").touch()
    record = read_json(home / "proc.json")
    assert record is not None
    os.kill(record["pid"], signal.SIGINT)  # the server starts it again, as a hot standby that follows nobody

    async def refused() -> httpx.Response | None:
        answer = await site.post(f"/nodes/{node_id}/reports", json=REPORTS)
        assert answer.status_code == 503
        return answer if answer.json()["type"].endswith("#database-read-only") else None

    assert_refused(await eventually(refused), "database-read-only", "name its primary")
    assert (await embedded.admin.get("/nodes")).status_code == 200

    async def degraded() -> bool:  # a look at the database may still hold that it was shutting down
        health = (await embedded.admin.get("/health")).json()
        return (health["status"], health["database_problem"]) == ("degraded", DatabaseReadOnly.__doc__)

    await eventually(degraded)
    assert (await embedded.admin.post("/nodes/invitations")).status_code == 503
    await asyncio.sleep(0.5)  # ten looks, of which each could log
    by_hand(embedded.state["server"].database._dsn, "select pg_promote()")

    async def taken() -> bool:
        return (await site.post(f"/nodes/{node_id}/reports", json=REPORTS)).status_code == 200

    await eventually(taken)
    assert embedded.state["server"].lease.held
    invitations = (await embedded.admin.get("/nodes/invitations")).json()["items"]
    assert [one["status"] for one in invitations] == ["used"], "what was refused left an invitation"
    assert_told_once(caplog)


@pytest.mark.parametrize(("newer", "words"), [(True, "update Espalier"), (False, "run `python -m db migrate`")])
async def test_another_schema_under_a_running_server_shuts_it_until_it_fits_again(
    server: Server, database_url: str, caplog: pytest.LogCaptureFixture, newer: bool, words: str
) -> None:
    node_id, site = await server.node()
    await asyncio.to_thread(by_hand, database_url, NEWER) if newer else await asyncio.to_thread(go_back, database_url)

    async def shut() -> httpx.Response | None:
        answer = await server.admin.get("/nodes")
        return answer if answer.status_code == 503 else None

    assert_refused(await eventually(shut), "schema-unfit", words)
    before = written(database_url)
    for answer in (await site.post(f"/nodes/{node_id}/reports", json=REPORTS), await server.admin.post("/nodes/invitations")):
        assert_refused(answer, "schema-unfit", words)
    assert (await server.client(None).get("/health")).json()["status"] == "degraded"
    assert written(database_url) == before
    assert_told_once(caplog)
    if newer:
        await asyncio.to_thread(by_hand, database_url, NEWER.replace("99991231000000", migrate.latest_version()))
    else:
        await migrate.apply(database_url)

    async def reads() -> bool:
        return (await server.admin.get("/nodes")).status_code == 200

    await eventually(reads)


def written(dsn: str) -> list[int]:
    """Count the rows of what a request would write to."""
    with psycopg.connect(dsn) as connection:
        counts = [connection.execute(f"select count(*) from public.{table}").fetchone() for table in TABLES]
    return [count for row in counts if row for count in row]
