"""The embedded Postgres killed under a running server: it comes back, writers wait and catch up, senders are told to."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from admin_server.app import create_app
from admin_server.settings import Settings
from admin_server.startup import Telling
from control_plane.files import read_json
from starlette.applications import Starlette
from starlette.types import Message

from db.errors import DatabaseUnavailable, SchemaMismatch
from tests.admin_server.admin_app import Server, client_of, started_run

BEAT = {"reported_at": "2026-11-22T08:00:00Z", "supernode_state": "running"}


@pytest.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[Server]:
    """A server with a Postgres of its own."""
    app = create_app(Settings(espalier_home=tmp_path / "home", apps_dir=tmp_path))
    async with app.router.lifespan_context(app) as state:
        token = (tmp_path / "home" / "admin.token").read_text().strip()
        async with client_of(app, dict(state or {}), token) as admin:
            yield Server(app, dict(state or {}), admin, tmp_path / "home")


async def test_a_killed_postgres_comes_back_and_nothing_is_lost(embedded: Server) -> None:
    run = await started_run(embedded)
    node_id, site = await embedded.node()
    assert (await site.post(f"/nodes/{node_id}/heartbeat", json=BEAT)).status_code == 200
    record = read_json(embedded.home / "postgres" / "proc.json")
    assert record is not None
    os.kill(record["pid"], signal.SIGKILL)
    for _ in range(300):  # its sessions live on until they notice
        away = await site.post(f"/nodes/{node_id}/reports", json={"spool_id": "s", "lines": []})
        if away.status_code != 200:
            break
        await asyncio.sleep(0.01)
    assert (away.status_code, away.json()["type"].rpartition("#")[2]) == (503, "database-away")
    assert int(away.headers["retry-after"]) > 0
    for _ in range(300):
        if (await site.post(f"/nodes/{node_id}/heartbeat", json=BEAT)).status_code == 200:
            break
        await asyncio.sleep(0.1)
    shown = await embedded.admin.get(f"/runs/{run['id']}")
    assert (shown.status_code, shown.json()["status"]) == (200, "starting")
    again = read_json(embedded.home / "postgres" / "proc.json")
    assert again is not None
    assert again["pid"] != record["pid"]
    assert (await embedded.client(None).get("/health")).json()["status"] in ("ok", "degraded")


async def test_a_start_that_fails_says_so_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    @asynccontextmanager
    async def failing(_: Starlette) -> AsyncIterator[None]:
        raise SchemaMismatch(None, "20260101000000")
        yield

    said: list[Message] = []

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        said.append(message)

    app = Telling(Starlette(lifespan=failing))
    with pytest.raises(SchemaMismatch):
        await app({"type": "lifespan", "state": {}}, receive, send)
    assert app.has_told
    sentence = "The database has no Espalier schema: run `python -m db migrate` (it installs 20260101000000)."
    assert said == [{"type": "lifespan.startup.failed", "message": sentence}]
    assert capsys.readouterr().err == sentence + "\n"


async def test_a_database_that_is_not_there_ends_the_start_with_a_sentence(tmp_path: Path) -> None:
    settings = Settings(espalier_home=tmp_path / "home", apps_dir=tmp_path, database_url="postgresql://nobody@127.0.0.1:9/none")
    app = create_app(settings)
    with pytest.raises(DatabaseUnavailable, match="refused"):
        async with app.router.lifespan_context(app):
            raise AssertionError("it started without a database")
