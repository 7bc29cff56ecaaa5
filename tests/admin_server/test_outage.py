"""Postgres killed in the middle of what comes in: senders are told to come again, and every line is there once, in order."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from admin_server.app import create_app
from admin_server.settings import Settings
from client_server.coordinator import Coordinator
from client_server.folder import SiteFolder
from client_server.identity import Identity, IdentityStore
from client_server.patience import Patience
from client_server.reporter import Reporter
from control_plane.files import write_atomic
from starlette.types import Message, Receive, Scope, Send

from db.postmaster import Postmaster
from tests.admin_server.admin_app import CLOSED, OPENED, Server, client_of, record, started_run, update
from tests.admin_server.quick_looks import eventually

LINES, KILLS = 1200, (300, 800)
ROUNDS, KILLED_AFTER = 12, (3, 7)
Answer = tuple[int, dict[bytes, bytes]]


@asynccontextmanager
async def serving(home: Path) -> AsyncIterator[Server]:
    """Have a server with a Postgres of its own."""
    app = create_app(Settings(espalier_home=home, apps_dir=home.parent))
    async with app.router.lifespan_context(app) as state:
        token = (home / "admin.token").read_text().strip()
        async with client_of(app, dict(state or {}), token) as admin:
            yield Server(app, dict(state or {}), admin, home)


@asynccontextmanager
async def listening(server: Server, answers: list[Answer]) -> AsyncIterator[str]:
    """Serve it on a real port, and note the answers to reports."""

    async def noting(scope: Scope, receive: Receive, send: Send) -> None:
        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start" and scope["path"].endswith("/reports"):
                answers.append((message["status"], dict(message["headers"])))
            await send(message)

        await server.app({**scope, "state": dict(server.state)}, receive, noted)

    listener = uvicorn.Server(uvicorn.Config(noting, port=0, lifespan="off", log_config=None, ws="none"))
    task = asyncio.create_task(listener.serve())

    async def started() -> bool:
        assert not task.done()
        return listener.started

    await eventually(started)
    yield f"http://127.0.0.1:{listener.servers[0].sockets[0].getsockname()[1]}"
    listener.should_exit = True
    await task


@pytest.fixture
def folder(tmp_path: Path) -> SiteFolder:
    folder = SiteFolder(tmp_path / "site")
    folder.prepare()
    return folder


@asynccontextmanager
async def reporting(folder: SiteFolder, address: str, node_id: str, token: str) -> AsyncIterator[Reporter]:
    """Have the client server's own spool and reporter, of a site that is enrolled at an address."""
    facts = {"external_id": "site-a", "display_name": "Site A", "project_slug": "fed-project", "superlink_address": "-"}
    identity = Identity.model_validate(
        {**facts, "node_id": node_id, "flower_node_id": None, "admin_address": address, "admin_ca": None, "insecure": True}
        | {"enrolled_at": "2026-11-22T08:00:00Z"}
    )
    write_atomic(folder.identity, identity.model_dump_json())
    write_atomic(folder.node_token, token)
    coordinator = Coordinator(IdentityStore(folder))
    await coordinator.connect()
    reporter = Reporter(folder.spool, 10**9, coordinator, Patience(first_retry_s=0.02, longest_retry_s=0.1))
    sending = asyncio.create_task(reporter.run())
    yield reporter
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    await coordinator.close()
    reporter.close()


async def kill_postgres(home: Path) -> None:
    """KILL the one that runs now, when it is there."""
    proc = home / "postgres" / "proc.json"

    async def alive() -> Postmaster | None:
        found = Postmaster.read(proc)
        return found if found is not None and found.is_alive() else None

    os.kill((await eventually(alive)).pid, signal.SIGKILL)


def log_line(number: int) -> dict[str, Any]:
    lines = [{"at": "2026-11-22T08:00:00Z", "level": "info", "text": f"line {number}"}]
    return {"flower_run_id": "77", "source": "clientapp", "message_id": "m1", "lines": lines}


async def test_every_report_is_a_row_once_and_in_order_though_postgres_is_killed(tmp_path: Path, folder: SiteFolder) -> None:
    answers: list[Answer] = []
    async with serving(tmp_path / "home") as server:
        run = await started_run(server)
        node_id, site = await server.node()
        token = site.headers["authorization"].removeprefix("Bearer ")
        async with listening(server, answers) as address, reporting(folder, address, node_id, token) as reporter:
            for number in range(1, LINES + 1):
                reporter.report("log", log_line(number), droppable=True)
                if number in KILLS:
                    await eventually(has_seen(answers, 200))
                    await kill_postgres(server.home)
                    answers.clear()
                    reporter.report("log", log_line(LINES + number))
                    await eventually(has_seen(answers, 503))
                    assert all(int(headers[b"retry-after"]) > 0 for status, headers in answers if status == 503)
                await asyncio.sleep(0)

            async def all_sent() -> bool:
                return not reporter.waiting(1)

            await eventually(all_sent)
        assert {status for status, _ in answers} <= {200, 503}
        texts = await walked(server, f"/runs/{run['id']}/logs")
        said: list[int] = []
        for number in range(1, LINES + 1):
            said += [number, *([LINES + number] if number in KILLS else [])]
        assert texts == [f"line {number}" for number in said]


def has_seen(answers: list[Answer], status: int) -> Callable[[], Awaitable[bool]]:
    async def seen() -> bool:
        return status in [found for found, _ in answers]

    return seen


async def walked(server: Server, path: str) -> list[str]:
    texts: list[str] = []
    after = ""
    while True:
        page = (await server.admin.get(f"{path}?limit=1000{after}")).json()
        texts += [line["text"] for line in page["items"]]
        if page["next"] is None:
            return texts
        after = f"&after={page['next']}"


async def test_a_journal_written_while_postgres_is_killed_becomes_rows_once(tmp_path: Path) -> None:
    home = tmp_path / "home"
    async with serving(home) as server:
        run = await started_run(server)
    journal = home / "runs" / "900" / "journal.jsonl"
    journal.parent.mkdir(parents=True)
    async with serving(home) as server:  # finds the run in its rows, and watches it
        add(journal, record(1, "run.opened", **OPENED | {"num_rounds": ROUNDS}, model=MODEL, config={}))
        for server_round in range(1, ROUNDS + 1):
            if server_round in KILLED_AFTER:
                await eventually(has_rounds(server, run["id"], server_round - 1))
                await kill_postgres(home)
            first = 4 * server_round - 2
            add(journal, record(first, "round.opened", round=server_round, nodes=["4", "5"], needed=2))
            add(journal, update(first + 1, server_round, "4"), update(first + 2, server_round, "5"))
            commit = {"file": f"commit/round-{server_round}.safetensors", "sha256": "a" * 64, "size_bytes": 9}
            add(journal, record(first + 3, "round.closed", round=server_round, **CLOSED, commit=commit))
        last = 4 * ROUNDS + 2
        add(journal, record(last, "run.closed", status="completed", last_round=ROUNDS, cause=None))
        await eventually(has_ended(server, run["id"]))
        rounds = await server.store.rows("round_list", {"run_id": run["id"]}, limit=1000)
        updates = await server.store.rows("update_list", {"run_id": run["id"]}, limit=1000)
        events = await server.store.rows("event_list", {"run_id": run["id"]}, limit=1000)
        expected = list(range(1, ROUNDS + 1))
        assert [(row["round"], row["status"]) for row in rounds] == [(number, "closed") for number in expected]
        assert [row["message_id"] for row in updates] == [f"m{4 * number - 2 + n}" for number in expected for n in (1, 2)]
        assert [event["round"] for event in events if event["name"] == "fl.round.completed"] == expected
        assert len([event for event in events if event["name"] == "fl.federation.completed"]) == 1
        (row,) = await server.store.rows("run_list", {"id": run["id"]})
        assert (row["journal_seq"], row["journal_offset"]) == (last, journal.stat().st_size)


MODEL = {"parameters": 10, "size_bytes": 40}


def add(journal: Path, *records: dict[str, Any]) -> None:
    with journal.open("a") as file:
        file.writelines(json.dumps(one) + "\n" for one in records)


def has_rounds(server: Server, run_id: str, number: int) -> Callable[[], Awaitable[bool]]:
    async def there() -> bool:
        answer = await server.admin.get(f"/runs/{run_id}")
        return answer.status_code == 200 and answer.json()["rounds_done"] >= number

    return there


def has_ended(server: Server, run_id: str) -> Callable[[], Awaitable[bool]]:
    async def ended() -> bool:
        answer = await server.admin.get(f"/runs/{run_id}")
        return answer.status_code == 200 and answer.json()["status"] == "completed"

    return ended
