"""Runs between two attempts, without a SuperLink to start the next one: what the rows say, and what may be asked."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from admin_server.app import create_app
from admin_server.settings import Settings

from db.store import Store
from tests.admin_server.admin_app import RECORDS, Server, client_of, update
from tests.admin_server.kept_models import assert_can_be_promoted, committed
from tests.admin_server.test_watch import ended, soon, write_exit, write_journal

Boot = Callable[[], AbstractAsyncContextManager[Server]]
KILLED = "ServerApp died: killed by signal 9 (SIGKILL)"


@pytest.fixture
def boot(settings: Settings) -> Boot:
    @asynccontextmanager
    async def booted() -> AsyncIterator[Server]:
        app = create_app(settings)
        async with app.router.lifespan_context(app) as state:
            token = (settings.espalier_home / "admin.token").read_text().strip()
            async with client_of(app, dict(state or {}), token) as admin:
                yield Server(app, dict(state or {}), admin, settings.espalier_home)

    return booted


@pytest.fixture
async def run(store: Store, settings: Settings) -> dict[str, Any]:
    """A run whose first attempt an earlier server had begun."""
    project = await store.open_project(settings.project_slug, settings.project_name, "coordinator", "Coordinator")
    made = await store.begin_run(project["id"], "flower-app", "f" * 64, {}, None, "rest")
    await store.begin_attempt(made["id"], "77", "900")
    (settings.espalier_home / "runs" / "900" / "attempts" / "77").mkdir(parents=True)
    return made


@pytest.fixture
def folder(settings: Settings, run: dict[str, Any]) -> Path:
    return settings.espalier_home / "runs" / "900"


async def lost(server: Server, run_id: str) -> dict[str, Any]:
    """Wait until the run has lost its attempt."""

    async def look() -> bool:
        shown = (await server.admin.get(f"/runs/{run_id}")).json()
        return [attempt["status"] for attempt in shown["attempts"]] == ["lost"]

    await soon(look)
    return dict((await server.admin.get(f"/runs/{run_id}")).json())


def slug(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].rpartition("#")[2]


async def test_a_run_that_is_given_up_keeps_its_last_model(
    settings: Settings, boot: Boot, store: Store, run: dict[str, Any], folder: Path
) -> None:
    settings.max_attempts = 1
    write_journal(folder, *committed(folder))
    write_exit(folder, None, 9)
    (folder / "attempts" / "77").rename(folder / "attempts" / "78")
    await store.begin_attempt(run["id"], "78", "900")  # it dies before it commits a round
    async with boot() as server:
        assert (await ended(server, run["id"]))["status"] == "failed"
        await assert_can_be_promoted(server, run["id"])


@pytest.mark.parametrize("all_of_them", [False, True], ids=["this run", "with the SuperLink"])
async def test_a_run_that_is_stopped_between_two_attempts_keeps_its_last_model(
    boot: Boot, run: dict[str, Any], folder: Path, all_of_them: bool
) -> None:
    write_journal(folder, *committed(folder))
    write_exit(folder, None, 9)
    async with boot() as server:
        await lost(server, run["id"])

        async def waits() -> bool:
            return (await server.admin.post(f"/runs/{run['id']}/pause")).status_code == 202

        await soon(waits)
        if all_of_them:
            await server.state["server"].runs.end_all("stop asked: the SuperLink is stopped")
        else:
            assert (await server.admin.post(f"/runs/{run['id']}/stop")).status_code == 202
        assert (await ended(server, run["id"]))["status"] == "stopped"
        await assert_can_be_promoted(server, run["id"])


async def test_a_run_that_lost_its_server_app_goes_on_and_the_rows_say_why(boot: Boot, run: dict[str, Any], folder: Path) -> None:
    write_journal(folder, *RECORDS[:5])
    write_exit(folder, None, 9)
    async with boot() as server:
        shown = await lost(server, run["id"])
        assert (shown["status"], shown["cause"], shown["attempts"][0]["reason"]) == ("running", None, KILLED)
    async with boot() as server:  # another server waits on
        assert (await lost(server, run["id"]))["status"] == "running"
        assert (await server.admin.post(f"/runs/{run['id']}/stop")).status_code == 202
        assert (await ended(server, run["id"]))["status"] == "stopped"


async def test_a_run_that_waits_for_its_next_attempt_can_be_paused_and_stopped(
    boot: Boot, run: dict[str, Any], folder: Path
) -> None:
    write_journal(folder, *RECORDS[:5])
    write_exit(folder, None, 9)
    async with boot() as server:
        await lost(server, run["id"])

        async def waits() -> bool:
            return (await server.admin.post(f"/runs/{run['id']}/pause")).status_code == 202

        await soon(waits)
        assert json.loads((folder / "control.json").read_text())["want"] == "pause"
        assert (await server.admin.post(f"/runs/{run['id']}/stop")).status_code == 202
        assert (await ended(server, run["id"]))["status"] == "stopped"


async def test_a_run_without_a_journal_fails_with_its_server_app(boot: Boot, run: dict[str, Any], folder: Path) -> None:
    write_exit(folder, None, 9)
    async with boot() as server:
        shown = await ended(server, run["id"])
        assert (shown["status"], shown["cause"]["message"]) == ("failed", KILLED)
        assert slug(await server.admin.post(f"/runs/{run['id']}/resume")) == (409, "run-not-resumable")


@pytest.mark.parametrize(
    ("records", "status", "why"),
    [
        (RECORDS, "completed", "it is completed"),
        (RECORDS[:5], "stopped", "no round of it is committed"),
    ],
)
async def test_what_cannot_go_on_is_told(
    boot: Boot, store: Store, run: dict[str, Any], folder: Path, records: list[dict[str, Any]], status: str, why: str
) -> None:
    write_journal(folder, *records)
    write_exit(folder, 0, None)
    if status == "stopped":
        await store.move_run(run["id"], "running")
        await store.move_run(run["id"], "stopped")
    async with boot() as server:
        assert (await ended(server, run["id"]))["status"] == status

        async def told() -> bool:
            answer = await server.admin.post(f"/runs/{run['id']}/resume", json={"nodes": "any"})
            assert slug(answer) == (409, "run-not-resumable")
            return why in answer.json()["detail"]

        await soon(told)


async def test_nodes_are_chosen_only_for_a_run_that_has_ended(boot: Boot, run: dict[str, Any], folder: Path) -> None:
    write_journal(folder, *RECORDS[:5])
    async with boot() as server:
        answer = await server.admin.post(f"/runs/{run['id']}/resume", json={"nodes": "any"})
        assert slug(answer) == (409, "run-not-resumable")
        assert slug(await server.admin.post(f"/runs/{run['id']}/resume", json={"nodes": "few"})) == (422, "invalid")


async def test_lines_that_a_power_cut_took_back_are_forgotten(boot: Boot, run: dict[str, Any], folder: Path) -> None:
    write_journal(folder, *RECORDS[:6])
    async with boot() as server:

        async def read() -> bool:
            items = (await server.admin.get(f"/runs/{run['id']}/updates")).json()["items"]
            return [item["status"] for item in items] == ["counted", "failed"]

        await soon(read)
        path = folder / "journal.jsonl"
        path.write_bytes(b"".join(line + b"\n" for line in path.read_bytes().splitlines()[:4]))

        async def forgotten() -> bool:
            items = (await server.admin.get(f"/runs/{run['id']}/updates")).json()["items"]
            return [item["status"] for item in items] == ["sent", "sent"]

        await soon(forgotten)
        write_journal(folder, update(5, 1, "5"), update(6, 1, "4"))

        async def told_anew() -> bool:
            items = (await server.admin.get(f"/runs/{run['id']}/updates")).json()["items"]
            return [item["status"] for item in items] == ["counted", "counted"]

        await soon(told_anew)
