"""The whole server over Supabase's REST interface, which @supabase/lite stands in for, on a real Postgres."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import psycopg
import pytest
from admin_server.app import create_app
from admin_server.settings import Settings

from db.errors import DatabaseReadOnly, KeyRefused
from tests.admin_server.admin_app import RECORDS, Server, client_of, started_run
from tests.admin_server.quick_looks import assert_told_once, eventually, look_often
from tests.admin_server.test_reports import log_line
from tests.admin_server.test_streams import parsed
from tests.contract.fuzzing import routes_of
from tests.db import lite
from tests.db.lite import Lite

NAME = "over_supabase"
BEAT = {"reported_at": "2026-11-22T08:00:00Z", "supernode_state": "running"}
READ_ONLY = f"alter database {NAME} set default_transaction_read_only = "


@pytest.fixture(scope="module")
def owner_dsn(postgres_server: str, lite_server: Lite) -> str:
    """Make the database of a Supabase project, with our schema."""
    return lite.prepare(postgres_server, NAME)


@asynccontextmanager
async def serving(at: Lite, home: Path) -> AsyncIterator[Server]:
    settings = Settings(espalier_home=home, apps_dir=home.parent, supabase_url=at.url_of(NAME), supabase_key=at.secret_key)
    app = create_app(settings)
    async with app.router.lifespan_context(app) as state:
        token = (home / "admin.token").read_text().strip()
        async with client_of(app, dict(state or {}), token) as admin:
            yield Server(app, dict(state or {}), admin, home)


@pytest.fixture
def empty(owner_dsn: str) -> str:
    lite.empty(owner_dsn)
    return owner_dsn


async def test_a_run_is_begun_recorded_followed_and_listed(lite_server: Lite, empty: str, tmp_path: Path) -> None:
    async with serving(lite_server, tmp_path / "home") as server:
        assert (await server.admin.get("/health")).json()["lease"]["held"] is True
        node_id, site = await server.node()
        run = await started_run(server)
        assert (await site.post(f"/nodes/{node_id}/heartbeat", json=BEAT)).status_code == 200
        for _ in range(2):  # the second time nothing is added
            answer = await site.post(
                f"/nodes/{node_id}/reports", json={"spool_id": "s", "lines": [log_line(1, "one"), log_line(2, "two")]}
            )
            assert answer.json() == {"applied_seq": 2}
        await server.store.apply_journal(run["id"], RECORDS, 900)
        shown = (await server.admin.get(f"/runs/{run['id']}")).json()
        assert (shown["status"], shown["rounds_done"], shown["rows"]["log_lines"]) == ("completed", 1, 2)
        texts = [line["text"] for line in (await server.admin.get(f"/runs/{run['id']}/logs")).json()["items"]]
        assert texts == ["one", "two"]
        assert (await server.admin.get(f"/nodes/{node_id}")).json()["status"] == "online"
        stream = parsed((await server.admin.get(f"/runs/{run['id']}/events", params={"follow": "true"})).text)
        listed = (await server.admin.get(f"/runs/{run['id']}/events")).json()["items"]
        assert [event["data"]["key"] for event in stream[:-1]] == [row["key"] for row in listed]
        assert (stream[-1]["event"], len(listed) > 5) == ("end", True)
        assert (await server.admin.post("/nodes/invitations", json={"label": "b"})).status_code == 201
        await every_list(server, run["id"], node_id)


async def every_list(server: Server, run_id: str, node_id: str) -> None:
    """Ask all that can be read; /wanted is a site's, and no app lies in this server's folder."""
    named = {"{run_id}": run_id, "{node_id}": node_id, "{slug}": "fed-project", "{which}": "latest"}
    for method, path in routes_of(server.app.openapi()):
        if method != "GET" or path.endswith("/wanted") or path.startswith("/apps"):
            continue
        for placeholder, value in named.items():
            path = path.replace(placeholder, value)
        answer = await server.admin.get(path)
        assert answer.status_code == (404 if path.startswith("/models/latest") else 200), path  # none is promoted here
        if path in ("/runs", "/nodes", "/events", "/audit", "/artifacts", "/projects", "/nodes/invitations"):
            assert answer.json()["items"], path


def refusal(answer: httpx.Response) -> str:
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) > 0
    return str(answer.json()["type"].rpartition("#")[2])


async def test_a_wrong_key_ends_the_start_with_one_sentence(lite_server: Lite, empty: str, tmp_path: Path) -> None:
    other = Lite(lite_server.address, "sb_secret_of_another_project", "")
    with pytest.raises(KeyRefused, match="set the secret key of the project that SUPABASE_URL names"):
        async with serving(other, tmp_path / "home"):
            raise AssertionError("it started")


async def test_a_project_that_stops_or_changes_its_key_is_503_and_all_goes_on_after_it(
    postgres_server: str, empty: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    look_often(monkeypatch)
    async with AsyncExitStack() as ends:
        with lite.running(postgres_server) as first:
            server = await ends.enter_async_context(serving(first, tmp_path / "home"))
            node_id, site = await server.node()
            lines = {"spool_id": "s", "lines": [log_line(1, "one")]}
            assert (await site.post(f"/nodes/{node_id}/reports", json=lines)).json() == {"applied_seq": 1}
        lines["lines"] = [log_line(1, "one"), log_line(2, "two")]
        assert refusal(await site.post(f"/nodes/{node_id}/reports", json=lines)) == "database-away"
        assert (await server.client(None).get("/health")).status_code == 200
        with lite.running(postgres_server, Lite(first.address, "sb_secret_rotated", "sb_publishable_rotated")):

            async def key_refused() -> httpx.Response | None:
                answer = await site.post(f"/nodes/{node_id}/reports", json=lines)
                return answer if refusal(answer) == "database-key-refused" else None

            assert (await eventually(key_refused)).json()["detail"] == KeyRefused.__doc__

            async def degraded() -> bool:
                health = (await server.admin.get("/health")).json()
                return (health["status"], health["database_problem"]) == ("degraded", KeyRefused.__doc__)

            await eventually(degraded)
        with lite.running(postgres_server, again=first):

            async def taken() -> bool:
                return (await site.post(f"/nodes/{node_id}/reports", json=lines)).status_code == 200

            await eventually(taken)
            assert server.state["server"].lease.held
        assert_told_once(caplog)
    with psycopg.connect(empty) as connection:
        assert connection.execute("select text from public.log_lines order by key").fetchall() == [("one",), ("two",)]


async def test_a_project_that_takes_no_writes_says_so_and_is_read(postgres_server: str, empty: str, tmp_path: Path) -> None:
    async with AsyncExitStack() as ends:
        with lite.running(postgres_server) as first:
            server = await ends.enter_async_context(serving(first, tmp_path / "home"))
        by_hand(empty, READ_ONLY + "on")
        with lite.running(postgres_server, again=first):  # its sessions are new ones, which begin as the database says

            async def refused() -> httpx.Response | None:
                answer = await server.admin.post("/nodes/invitations")
                return answer if refusal(answer) == "database-read-only" else None

            assert (await eventually(refused)).json()["detail"] == DatabaseReadOnly.__doc__
            assert (await server.admin.get("/nodes/invitations")).json()["items"] == []
        by_hand(empty, "set default_transaction_read_only = off", READ_ONLY + "off")
        with lite.running(postgres_server, again=first):

            async def invited() -> bool:
                return (await server.admin.post("/nodes/invitations")).status_code == 201

            await eventually(invited)


def by_hand(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)
