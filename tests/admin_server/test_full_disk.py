"""A database whose disk is really full: one sentence, nothing half, and all goes on by itself when there is room again."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from admin_server.app import create_app
from admin_server.settings import Settings

from db import migrate
from db.errors import DatabaseFull
from tests.admin_server.admin_app import Server, client_of
from tests.admin_server.quick_looks import assert_told_once, eventually, look_often
from tests.db import small_disk
from tests.db.small_disk import SmallDisk

pytestmark = pytest.mark.skipif(not small_disk.is_possible(), reason="no user namespace is to be had here")
BATCH = 50


@pytest.fixture
def disk(memory_path: Path) -> Iterator[SmallDisk]:
    with small_disk.small_disk(memory_path / "disk", megabytes=96) as disk:
        yield disk


@pytest.fixture
def small_database_url(disk: SmallDisk) -> Iterator[str]:
    with disk.postgres() as dsn:
        yield dsn


@pytest.fixture
async def server(
    disk: SmallDisk, small_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Server]:
    look_often(monkeypatch)
    await migrate.apply(small_database_url)
    app = create_app(Settings(espalier_home=tmp_path / "home", database_url=small_database_url, apps_dir=tmp_path))
    async with app.router.lifespan_context(app) as state:
        token = (tmp_path / "home" / "admin.token").read_text().strip()
        async with client_of(app, dict(state or {}), token) as admin:
            yield Server(app, dict(state or {}), admin, tmp_path / "home")
        disk.make_room()


def lines(first: int) -> list[dict[str, Any]]:
    at = "2026-11-22T08:00:00Z"
    return [
        {
            "seq": seq,
            "kind": "log",
            "at": at,
            "data": {"source": "supernode", "lines": [{"at": at, "level": "info", "text": f"line {seq} {'x' * 4000}"}]},
        }
        for seq in range(first, first + BATCH)
    ]


def stored(dsn: str) -> list[int]:
    """Give the numbers of the log lines that are rows, in their order."""
    with psycopg.connect(dsn) as connection:
        return [int(text.split()[1]) for (text,) in connection.execute("select text from public.log_lines order by key")]


def assert_full(answer: httpx.Response) -> None:
    problem = answer.json()
    assert (answer.status_code, problem["type"].rpartition("#")[2]) == (503, "database-full"), problem
    assert problem["detail"] == DatabaseFull.__doc__
    assert int(answer.headers["retry-after"]) > 0


async def test_intake_acknowledges_nothing_that_is_not_stored_and_goes_on_by_itself(
    server: Server, disk: SmallDisk, small_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    node_id, site = await server.node()
    applied = 0

    async def send() -> httpx.Response:
        return await site.post(f"/nodes/{node_id}/reports", json={"spool_id": "s", "lines": lines(applied + 1)})

    applied = (await send()).json()["applied_seq"]
    disk.fill()
    while (answer := await send()).status_code == 200:
        applied = answer.json()["applied_seq"]  # what fits into pages that are there already
    assert_full(answer)
    assert stored(small_database_url) == list(range(1, applied + 1))
    health = (await server.admin.get("/health")).json()
    assert (health["status"], health["database"], health["database_problem"]) == ("degraded", "up", DatabaseFull.__doc__)
    for _ in range(5):
        assert_full(await send())
    assert (await server.admin.get("/nodes")).status_code == 200, "a full database can still be read"
    disk.make_room()
    answer = await eventually(lambda: succeeded(send()))
    assert answer.json() == {"applied_seq": applied + BATCH}
    assert stored(small_database_url) == list(range(1, applied + BATCH + 1))
    assert server.state["server"].lease.held
    assert_told_once(caplog)


async def succeeded(asking: Any) -> httpx.Response | None:
    answer: httpx.Response = await asking
    return answer if answer.status_code == 200 else None


async def test_what_was_done_is_answered_so_and_its_audit_line_follows(server: Server, disk: SmallDisk) -> None:
    node_id, _ = await server.node()
    disk.fill()
    answer = await server.admin.post("/nodes/invitations", json={"label": "x" * 200})
    made = answer.status_code == 201  # its page may have had room; the audit log has none yet
    if not made:
        assert_full(answer)
    removed = await server.admin.delete(f"/nodes/{node_id}")
    assert removed.status_code in (204, 503)
    assert (await server.admin.get("/audit")).json()["items"] == []
    disk.make_room()
    await eventually(lambda: audited(server, made + (removed.status_code == 204)))


async def audited(server: Server, wanted: int) -> bool:
    items = (await server.admin.get("/audit")).json()["items"]
    return len(items) == wanted and all("done_at" in item["facts"] for item in items)


async def test_a_start_on_a_full_disk_is_one_sentence_and_leaves_nothing(
    disk: SmallDisk, small_database_url: str, tmp_path: Path
) -> None:
    disk.fill()
    with pytest.raises(DatabaseFull, match="make room"):
        await migrate.apply(small_database_url)
    disk.make_room()
    with psycopg.connect(small_database_url) as connection:
        assert connection.execute("select to_regclass('public.projects'), to_regnamespace('espalier')").fetchone() == (None, None)
    await migrate.apply(small_database_url)
    disk.fill()
    app = create_app(Settings(espalier_home=tmp_path / "home", database_url=small_database_url, apps_dir=tmp_path))
    with pytest.raises(DatabaseFull, match="make room"):
        async with app.router.lifespan_context(app):
            raise AssertionError("it started without a project")
    disk.make_room()
    with psycopg.connect(small_database_url) as connection:
        assert connection.execute("select count(*) from public.projects").fetchone() == (0,)
        assert connection.execute("select count(*) from public.nodes").fetchone() == (0,)
