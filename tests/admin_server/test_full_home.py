"""The server as a process whose database has no room: what it starts, what it stores, and how it comes back."""

import asyncio
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psycopg
import pytest
from admin_server.flower import Flower
from control_plane.tokens import new_token, sha256_of

from db import migrate
from db.postgres_door import PostgresDoor
from db.postmaster import Postmaster
from db.store import Store
from tests.admin_server.test_full_disk import assert_full, lines, stored
from tests.admin_server.test_with_superlink import Process, wait_for
from tests.db import small_disk
from tests.db.small_disk import SmallDisk

pytestmark = pytest.mark.skipif(not small_disk.is_possible(), reason="no user namespace is to be had here")
LOGGED = 40  # lines of an outage of some seconds: most are one a request


@contextmanager
def serving(server: Process) -> Iterator[Process]:
    try:
        server.start()
        yield server
    finally:
        server.http.close()
        server.child.terminate()
        assert server.child.wait(60) == 0


@pytest.fixture
def home(memory_path: Path) -> Path:
    return memory_path / "home"


@pytest.fixture
def disk(home: Path) -> Iterator[SmallDisk]:
    """The disk of the embedded Postgres alone: tokens and logs lie elsewhere."""
    with small_disk.small_disk(home / "postgres", megabytes=96) as disk:
        yield disk


@pytest.fixture
def server(home: Path, disk: SmallDisk) -> Process:
    """Not started yet, and with the small disk under its embedded Postgres."""
    server = Process(home, "")
    del server.env["DATABASE_URL"]
    server.command = disk.command(*server.command)
    return server


def enrolled(dsn: str) -> tuple[str, str]:
    """Enrol a node in the database; give its id and its token."""

    async def enrol() -> tuple[str, str]:
        door, token, secret = PostgresDoor(dsn), new_token(), new_token()
        await door.open()
        store = Store(door)
        (project,) = await store.rows("project_list")
        await store.create_invitation(project["id"], sha256_of(secret), None, 60)
        node = await store.redeem_invitation(sha256_of(secret), "site-a", "Site A", "key", "7", sha256_of(token))
        await door.close()
        return str(node["id"]), token

    return asyncio.run(enrol())


def test_a_postgres_that_the_full_disk_ends_comes_back_with_all_that_was_acknowledged(server: Process, disk: SmallDisk) -> None:
    with serving(server):
        dsn = disk.dsn
        node_id, token = enrolled(dsn)
        site = httpx.Client(
            base_url=server.url, headers={"Authorization": f"Bearer {token}"}, verify=server.trusted(), timeout=30
        )
        applied = 0

        def send() -> httpx.Response:
            return site.post(f"/nodes/{node_id}/reports", json={"spool_id": "s", "lines": lines(applied + 1)})

        applied = send().json()["applied_seq"]
        before = (server.home / "out.log").read_text()
        disk.fill()
        first = Postmaster.read(disk.seen_from_here / "proc.json")
        assert first is not None
        with suppress(psycopg.Error), psycopg.connect(dsn, autocommit=True) as connection:
            for _ in range(10):  # until it needs a new file for its log of changes, which there is no room for
                connection.execute("select pg_switch_wal()")
                connection.execute("create temporary table t (n integer); drop table t")

        def away() -> httpx.Response | None:
            answer = send()
            return answer if answer.status_code == 503 else None

        answer = wait_for("a 503", away)
        assert answer.json()["type"].rpartition("#")[2] in ("database-away", "database-full")
        wait_for("Postgres to end", lambda: not first.is_alive())
        told = f"The disk of {disk.folder} is full: make room on it"
        wait_for("the sentence", lambda: told in (server.home / "out.log").read_text())
        logged = (server.home / "out.log").read_text().removeprefix(before).splitlines()
        assert [line for line in logged if "Traceback" in line] == []
        assert len([line for line in logged if "admin_server" in line]) < LOGGED, "\n".join(logged)
        disk.make_room()
        answer = wait_for("the database to be back", lambda: answer if (answer := send()).status_code == 200 else None)
        assert stored(dsn) == list(range(1, answer.json()["applied_seq"] + 1))
        assert answer.json()["applied_seq"] > applied
        site.close()


def test_a_first_start_without_room_is_one_sentence_and_code_1(server: Process, disk: SmallDisk) -> None:
    disk.fill()
    done = subprocess.run(server.command, env=server.env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if not line.startswith("at=")]
    assert said == [f"The disk of {disk.folder} is full: make room on it for the embedded Postgres."]
    assert "Traceback" not in done.stderr
    disk.make_room()
    with serving(server):
        assert server.http.get("/health").json()["database"] == "up"


def test_a_run_that_a_full_database_refuses_is_neither_at_flower_nor_a_row(disk: SmallDisk, tmp_path: Path) -> None:
    with disk.postgres() as dsn:
        asyncio.run(migrate.apply(dsn))
        with serving(Process(tmp_path / "server", dsn)) as server:
            assert server.http.post("/superlink/start", json={}).status_code == 202
            wait_for("the SuperLink to run", lambda: server.superlink()["state"] == "running")
            disk.fill()
            bulky = {"app": "hello", "run_config": {"name": secrets.token_hex(8000)}}  # no page of its table has room for it
            assert_full(server.http.post("/runs/start", json=bulky))
            disk.make_room()
            assert (at_flower(server), rows(dsn)) == ([], [])
            answer = server.http.post("/runs/start", json=bulky)
            assert answer.status_code == 202, answer.text
            assert server.ended(answer.json()["id"])["status"] == "completed"
            assert (len(at_flower(server)), len(rows(dsn))) == (1, 1)


def at_flower(server: Process) -> list[str]:
    """List Flower's own runs."""

    async def listed() -> list[str]:
        flower = Flower(server.superlink()["address"], (server.home / "tls" / "ca.crt").read_bytes())
        try:
            return [run.flower_run_id for run in await flower.runs()]
        finally:
            await flower.close()

    return asyncio.run(listed())


def rows(dsn: str) -> list[str]:
    with psycopg.connect(dsn) as connection:
        return [str(run_id) for (run_id,) in connection.execute("select id from public.federated_runs order by key")]
