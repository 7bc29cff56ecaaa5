"""What a server finds when it comes back: its runs' files, processes and rows, and what it makes of them without a SuperLink."""

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from admin_server.app import create_app
from admin_server.settings import Settings
from admin_server.watch import run_watch
from control_plane.identity import ProcessRecord

from db.store import Store
from tests.admin_server.admin_app import CAUSE, RECORDS, Server, client_of, record, update
from tests.admin_server.kept_models import assert_can_be_promoted, committed, sha256
from tests.admin_server.s3_server import BUCKET, S3Server

Boot = Callable[[], AbstractAsyncContextManager[Server]]


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
    """A run that an earlier server had started by REST."""
    project = await store.open_project(settings.project_slug, settings.project_name, "coordinator", "Coordinator")
    made = await store.begin_run(project["id"], "flower-app", "f" * 64, {}, None, "rest")
    await store.begin_attempt(made["id"], "77", "900")
    (settings.espalier_home / "runs" / "900" / "attempts" / "77").mkdir(parents=True)
    return made


@pytest.fixture
def folder(settings: Settings, run: dict[str, Any]) -> Path:
    return settings.espalier_home / "runs" / "900"


def write_journal(folder: Path, *records: dict[str, Any]) -> None:
    with (folder / "journal.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in records)


def write_exit(folder: Path, rc: int | None, number: int | None) -> None:
    told: dict[str, object] = {"rc": rc, "signal": number, "ended_at": "2026-11-22T08:00:00Z", "last_lines": []}
    (folder / "attempts" / "77" / "exit.json").write_text(json.dumps(told))


def server_app(folder: Path) -> subprocess.Popen[bytes]:
    """Start what stands for a ServerApp, known by its proc.json."""
    app = subprocess.Popen(["sleep", "60"], start_new_session=True)
    found = ProcessRecord.of(app.pid, "serverapp")
    assert found is not None
    found.write(folder / "attempts" / "77" / "proc.json")
    return app


async def soon(look: Callable[[], Awaitable[bool]], seconds: float = 30) -> None:
    for _ in range(int(seconds * 20)):
        if await look():
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"not within {seconds} s")


async def ended(server: Server, run_id: str) -> dict[str, Any]:
    async def over() -> bool:
        return (await server.admin.get(f"/runs/{run_id}")).json()["status"] in ("completed", "failed", "stopped")

    await soon(over)
    return dict((await server.admin.get(f"/runs/{run_id}")).json())


async def test_what_was_written_meanwhile_is_caught_up_with(boot: Boot, run: dict[str, Any], folder: Path) -> None:
    write_journal(folder, *RECORDS)
    write_exit(folder, 0, None)
    async with boot() as server:
        shown = await ended(server, run["id"])
        assert (shown["status"], shown["rounds_done"]) == ("completed", 1)


async def test_the_journals_end_outweighs_the_process(boot: Boot, run: dict[str, Any], folder: Path) -> None:
    write_journal(folder, *RECORDS)
    write_exit(folder, None, 9)
    async with boot() as server:
        assert (await ended(server, run["id"]))["status"] == "completed"


async def test_a_server_app_that_was_killed_meanwhile_fails_its_run_with_the_signal(
    settings: Settings, boot: Boot, run: dict[str, Any], folder: Path
) -> None:
    settings.max_attempts = 1
    write_journal(folder, *RECORDS[:5])
    (folder / "attempts" / "77" / "server.log").write_text("INFO :      about to aggregate\n")
    write_exit(folder, None, 9)
    async with boot() as server:
        shown = await ended(server, run["id"])
        assert (shown["status"], shown["reason"]) == ("failed", "ServerApp died: killed by signal 9 (SIGKILL)")
        assert shown["cause"]["last_lines"] == ["INFO :      about to aggregate"]
        assert shown["cause"]["node_name"] == "Coordinator"
        (open_round,) = (await server.admin.get(f"/runs/{run['id']}/rounds")).json()["items"]
        assert open_round["status"] == "failed"
        node_id, site = await server.node()
        assert (await site.get(f"/nodes/{node_id}/wanted")).json()["over_runs"] == ["77"]


async def test_exit_code_0_alone_is_no_end_and_a_stop_makes_one(boot: Boot, run: dict[str, Any], folder: Path) -> None:
    write_journal(folder, *RECORDS[:4])
    write_exit(folder, 0, None)
    async with boot() as server:
        await asyncio.sleep(0.8)  # three looks of the watch
        assert (await server.admin.get(f"/runs/{run['id']}")).json()["status"] == "running"
        assert (await server.admin.post("/runs/stop")).status_code == 202
        shown = await ended(server, run["id"])
        assert (shown["status"], shown["reason"], shown["cause"]) == ("stopped", "stop asked", None)


async def test_a_live_server_app_is_found_again_and_its_death_seen(
    settings: Settings, boot: Boot, run: dict[str, Any], folder: Path
) -> None:
    settings.max_attempts = 1
    write_journal(folder, *RECORDS[:4])
    app = server_app(folder)
    async with boot() as server:
        await asyncio.sleep(0.5)
        assert (await server.admin.get(f"/runs/{run['id']}")).json()["status"] == "running"
        os.kill(app.pid, signal.SIGKILL)
        app.wait()

        async def failed() -> bool:
            return bool((await server.admin.get(f"/runs/{run['id']}")).json()["status"] == "failed")

        await soon(failed)
        assert "left no exit.json" in (await server.admin.get(f"/runs/{run['id']}")).json()["reason"]


async def test_a_stop_kills_a_server_app_that_does_not_listen(
    boot: Boot, run: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("admin_server.watch.run_watch.STOP_GRACE_S", 0.3)
    monkeypatch.setattr("admin_server.watch.run_watch.KILL_GRACE_S", 0.3)
    write_journal(folder, *committed(folder))
    app = server_app(folder)
    async with boot() as server:
        await server.admin.post(f"/runs/{run['id']}/stop")
        assert json.loads((folder / "control.json").read_text())["want"] == "stop"
        assert await asyncio.to_thread(app.wait, 5) == -signal.SIGKILL
        assert (await ended(server, run["id"]))["status"] == "stopped"
        await assert_can_be_promoted(server, run["id"])


@pytest.mark.parametrize("status", ["stopped", "failed"])
async def test_a_run_that_ended_without_its_final_model_gets_it_from_the_next_server(
    boot: Boot, store: Store, run: dict[str, Any], folder: Path, status: str
) -> None:
    write_journal(folder, *committed(folder))
    write_exit(folder, None, 9)
    await store.move_run(run["id"], status)
    async with boot() as server:

        async def kept() -> bool:
            return bool(await server.store.rows("artifact_list", {"run_id": run["id"]}))

        await soon(kept)
        await assert_can_be_promoted(server, run["id"])
        lines = (folder / "journal.jsonl").read_bytes()
    async with boot() as server:
        await asyncio.sleep(0.5)
        assert (folder / "journal.jsonl").read_bytes() == lines
        assert (await server.admin.get(f"/runs/{run['id']}")).json()["status"] == status


async def test_a_final_model_that_the_server_made_is_copied_to_the_bucket(
    boot: Boot, settings: Settings, store: Store, run: dict[str, Any], folder: Path, s3: S3Server
) -> None:
    settings.artifacts_url, settings.s3_endpoint_url = f"s3://{BUCKET}/federation", s3.url
    write_journal(folder, *committed(folder))
    write_exit(folder, None, 9)
    await store.move_run(run["id"], "stopped")
    async with boot():

        async def copied() -> bool:
            return [row["to_do"] for row in await store.rows("artifact_list", {"run_id": run["id"]})] == [None]

        await soon(copied)
        (row,) = await store.rows("artifact_list", {"run_id": run["id"]})
        assert row["stored_uri"] == f"s3://{BUCKET}/federation/runs/{run['id']}/models/final.safetensors"
        (key,) = s3.objects()
        assert sha256(s3.file(key).read_bytes()) == row["sha256"]


async def test_a_commit_that_is_gone_costs_the_final_model_and_not_the_end(
    boot: Boot, run: dict[str, Any], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_journal(folder, *RECORDS[:7])
    write_exit(folder, 0, None)
    async with boot() as server:
        await server.admin.post(f"/runs/{run['id']}/stop")
        assert (await ended(server, run["id"]))["status"] == "stopped"
        answer = await server.admin.post("/models", json={"run_id": run["id"], "why": "none"})
        assert (answer.status_code, answer.json()["type"].rpartition("#")[2]) == (404, "artifact-not-found")
    assert "round-1.safetensors is missing" in caplog.text


@pytest.mark.parametrize("is_told_by", ["the server that was asked", "the next one"])
async def test_a_stop_is_told_to_sites_and_engine_at_once(
    boot: Boot, store: Store, run: dict[str, Any], folder: Path, is_told_by: str
) -> None:
    """The ClientApps are to end whatever the engine does; it is to know of the stop before they do."""
    write_journal(folder, *RECORDS[:4])
    app = server_app(folder)
    if is_told_by == "the next one":
        await store.note_attempt("77", "stop asked")
        await store.move_run(run["id"], "stopping")
    async with boot() as server:
        node_id, site = await server.node()
        if is_told_by == "the server that was asked":
            assert (await server.admin.post(f"/runs/{run['id']}/stop")).json()["status"] == "stopping"

        async def told() -> bool:
            return bool((await site.get(f"/nodes/{node_id}/wanted")).json()["over_runs"] == ["77"])

        await soon(told, run_watch.STOP_GRACE_S / 2)
        assert json.loads((folder / "control.json").read_text())["want"] == "stop"
        assert (await server.admin.get(f"/runs/{run['id']}")).json()["status"] == "stopping"
        app.kill()
        app.wait()
        assert (await ended(server, run["id"]))["status"] == "stopped"


async def test_pause_and_resume_are_told_to_the_engine_and_shown_when_it_says_so(
    boot: Boot, run: dict[str, Any], folder: Path
) -> None:
    write_journal(folder, RECORDS[0])
    async with boot() as server:

        async def status_is(status: str) -> None:
            async def look() -> bool:
                return bool((await server.admin.get(f"/runs/{run['id']}")).json()["status"] == status)

            await soon(look)

        await status_is("running")
        assert (await server.admin.post(f"/runs/{run['id']}/pause")).json()["status"] == "running"
        assert json.loads((folder / "control.json").read_text())["want"] == "pause"
        write_journal(folder, record(2, "run.paused", after_round=0))
        await status_is("paused")
        await server.admin.post(f"/runs/{run['id']}/resume")
        assert json.loads((folder / "control.json").read_text())["want"] == "run"
        write_journal(folder, record(3, "run.resumed", after_round=0))
        await status_is("running")


async def test_an_app_without_a_journal_cannot_be_paused_nor_one_that_is_stopping_resumed(
    boot: Boot, store: Store, run: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_watch, "JOURNAL_GRACE_S", 0.0)
    await store.move_run(run["id"], "running")
    app = server_app(folder)
    async with boot() as server:
        answer = await server.admin.post(f"/runs/{run['id']}/pause")
        assert (answer.status_code, answer.json()["type"].rpartition("#")[2]) == (409, "run-not-steerable")
        assert not (folder / "control.json").exists()
        write_journal(folder, RECORDS[0])
        await server.admin.post(f"/runs/{run['id']}/stop")
        answer = await server.admin.post(f"/runs/{run['id']}/resume")
        assert (answer.status_code, answer.json()["type"].rpartition("#")[2]) == (409, "run-ended")
        assert json.loads((folder / "control.json").read_text())["want"] == "stop"
        app.kill()
        app.wait()


@pytest.mark.parametrize("lines", [4, 0], ids=["at work", "before its first line"])
async def test_a_dead_node_is_told_to_the_engine(boot: Boot, run: dict[str, Any], folder: Path, lines: int) -> None:
    if lines:
        write_journal(folder, *RECORDS[:lines])
    async with boot() as server:
        node_id, site = await server.node()
        flower_node_id = (await server.admin.get(f"/nodes/{node_id}")).json()["flower_node_id"]
        body = {"reported_at": "2026-11-22T08:00:00Z", "supernode_state": "failed", "flower_node_id": flower_node_id}
        await site.post(f"/nodes/{node_id}/heartbeat", json=body)

        async def told() -> bool:
            path = folder / "control.json"
            return path.exists() and flower_node_id in json.loads(path.read_text())["lost_nodes"]

        await soon(told)


async def test_a_message_that_was_given_up_before_we_began_is_cancelled(
    boot: Boot, run: dict[str, Any], folder: Path, store: Store
) -> None:
    given_up = update(5, 1, "4", "late", cause=CAUSE, num_examples=None, metrics={}, bytes_up=0, message_id="m4", awaited=False)
    write_journal(folder, *RECORDS[:4], given_up)
    journal = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    await store.apply_journal(run["id"], journal, (folder / "journal.jsonl").stat().st_size)
    async with boot() as server:
        wanted = server.state["server"].nodes._wanted

        async def told() -> bool:
            return bool(wanted.view("a node", "4")["cancelled_messages"] == ["m4"])

        await soon(told)


async def test_a_site_cannot_speak_of_anothers_node(boot: Boot, run: dict[str, Any], folder: Path) -> None:
    write_journal(folder, *RECORDS[:4])
    async with boot() as server:
        mine, site = await server.node("site-a")
        other, _ = await server.node("site-b")
        ids = {each: (await server.admin.get(f"/nodes/{each}")).json()["flower_node_id"] for each in (mine, other)}
        body = {"reported_at": "2026-11-22T08:00:00Z", "supernode_state": "failed", "flower_node_id": ids[other]}
        await site.post(f"/nodes/{mine}/heartbeat", json=body)

        async def told() -> bool:
            path = folder / "control.json"
            return path.exists() and ids[mine] in json.loads(path.read_text())["lost_nodes"]

        await soon(told)
        assert ids[other] not in json.loads((folder / "control.json").read_text())["lost_nodes"]


async def test_a_pending_intent_is_stopped_without_flower(boot: Boot, store: Store, settings: Settings) -> None:
    project = await store.open_project(settings.project_slug, settings.project_name, "coordinator", "Coordinator")
    made = await store.begin_run(project["id"], "flower-app", "f" * 64, {}, None, "rest")
    async with boot() as server:
        assert (await server.admin.get("/runs/active")).json()["items"][0]["id"] == made["id"]
        assert (await server.admin.post("/runs/stop")).json()["status"] == "stopped"
        assert (await server.admin.get("/runs/active")).json()["items"] == []
        again = await server.admin.post(f"/runs/{made['id']}/stop")
        assert (again.status_code, again.json()["type"].rpartition("#")[2]) == (409, "run-ended")
