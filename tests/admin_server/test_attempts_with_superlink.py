"""The next attempt at a real SuperLink: with the FAB of ours, with the one that a shell brought, and after it lost its state."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from control_plane.files import read_json
from psycopg.conninfo import make_conninfo

from db import migrate
from tests.admin_server.admin_app import write_app
from tests.admin_server.test_with_superlink import Process, cmdline, wait_for

pytestmark = pytest.mark.timeout(300)
JOURNAL = Path(__file__).with_name("journalling_server.py")


class Journalling(Process):
    """A server with an app that writes a journal: one round an attempt, then it waits to be killed; done after two."""

    def journalled(self, app: str = "journals") -> str:
        folder = self.home / "apps-dir" / app
        if not folder.exists():
            write_app(folder, config='current-run-id = ""', more="[tool.espalier]\njournal = true\n")
            (folder / "server.py").write_text(JOURNAL.read_text())
        return app

    def rounds(self, run_id: str) -> list[tuple[int, str]]:
        items = self.http.get(f"/runs/{run_id}/rounds").json()["items"]
        return [(item["round"], item["status"]) for item in items if item["status"] == "closed"]

    def kill_server_app(self, run_id: str) -> None:
        shown = self.shown(run_id)
        record = read_json(Path(shown["run_dir"]) / "attempts" / shown["flower_run_id"] / "proc.json")
        assert record is not None
        os.kill(record["pid"], signal.SIGKILL)

    def journal(self, run_id: str) -> list[dict[str, Any]]:
        path = Path(self.shown(run_id)["run_dir"]) / "journal.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def real(postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journalling]:
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("create database attempts_with_superlink")
    dsn = make_conninfo(postgres_server, dbname="attempts_with_superlink")
    asyncio.run(migrate.apply(dsn))
    server = Journalling(tmp_path_factory.mktemp("real"), dsn)
    try:
        server.start()
        assert server.http.post("/superlink/start", json={}).status_code == 202
        wait_for("the SuperLink to run", lambda: server.superlink()["state"] == "running")
        yield server
    finally:
        server.http.close()
        server.child.terminate()
        code = server.child.wait(60)
        left = [p.pid for p in psutil.process_iter() if str(server.home) in " ".join(cmdline(p))]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert (code, left) == (0, []), "a graceful stop leaves nothing behind"


def assert_went_on(real: Journalling, run_id: str) -> dict[str, Any]:
    run = real.ended(run_id)
    assert run["status"] == "completed", run
    assert [each["status"] for each in run["attempts"]] == ["lost", "completed"]
    assert real.rounds(run_id) == [(1, "closed"), (2, "closed")]
    assert [line["seq"] for line in real.journal(run_id)] == list(range(1, len(real.journal(run_id)) + 1))
    return run


def test_a_run_goes_on_in_its_series(real: Journalling) -> None:
    run_id = real.run(real.journalled())
    wait_for("the first round", lambda: real.rounds(run_id))
    real.kill_server_app(run_id)
    run = assert_went_on(real, run_id)
    assert {attempt["series_id"] for attempt in run["attempts"]} == {run["series_id"]}
    assert run["config"]["current-run-id"] == ""


def test_a_run_from_a_shell_goes_on_with_the_fab_that_the_superlink_keeps(real: Journalling) -> None:
    folder = real.home / "apps-dir" / real.journalled("brought")
    env = {**os.environ, "FLWR_HOME": str(real.home / "flwr"), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    command = [str(Path(sys.executable).parent / "flwr"), "run", str(folder), "espalier", "--format", "json"]
    said = json.loads(subprocess.run(command, env=env, capture_output=True, check=True, text=True).stdout)
    run_id = str(real.shown(said["run-id"])["id"])
    assert not list((real.home / "apps").glob(f"{real.shown(run_id)['fab_hash']}*"))
    wait_for("the first round", lambda: real.rounds(run_id))
    real.kill_server_app(run_id)
    assert assert_went_on(real, run_id)["origin"] == "shell"


def test_a_stopped_run_goes_on_by_hand(real: Journalling) -> None:
    run_id = real.run(real.journalled())
    wait_for("the first round", lambda: real.rounds(run_id))
    assert real.http.post(f"/runs/{run_id}/stop").status_code == 202
    assert real.ended(run_id)["status"] == "stopped"
    wait_for("the run to be let go of", lambda: real.http.post(f"/runs/{run_id}/resume").status_code == 202)
    run = real.ended(run_id)
    assert [each["status"] for each in run["attempts"]] == ["stopped", "completed"]
    assert real.rounds(run_id) == [(1, "closed"), (2, "closed")]
    control = read_json(Path(run["run_dir"]) / "control.json")
    assert control is not None
    assert (control["want"], control["nodes"]) == ("run", "same")


def test_a_superlink_that_lost_its_state_gets_a_new_series_that_leads_to_the_old_directory(real: Journalling) -> None:
    run_id = real.run(real.journalled())
    wait_for("the first round", lambda: real.rounds(run_id))
    before = real.shown(run_id)
    record = read_json(real.home / "superlink" / "proc.json")
    assert record is not None
    for file in (real.home / "superlink").glob("*.db*"):
        file.unlink()
    os.kill(record["pid"], signal.SIGKILL)
    real.kill_server_app(run_id)
    run = assert_went_on(real, run_id)
    assert run["series_id"] != before["series_id"]
    assert Path(run["run_dir"]).is_symlink()
    assert Path(run["run_dir"]).resolve() == Path(before["run_dir"])
    assert not list((real.home / "runs").glob(".hold-*"))
