"""Kill -9 what you like during a run: training goes on, the rest catches up, and the rows are as if nothing had happened."""

from __future__ import annotations

import os
import signal

import pytest

from tests.federation.rows import assert_log_equals_file, assert_rows_equal_journal
from tests.federation.stack import Json, Stack, is_alive, kill_recorded, process_record, wait_for

ROUNDS = 4


@pytest.fixture
def running(stack: Stack) -> str:
    """A run of slow rounds with the first behind it."""
    run_id = stack.start_run("trouble", train_s=1.5, num_rounds=ROUNDS, min_available=2)
    stack.wait_rounds(run_id, 1)
    return run_id


def assert_as_if_nothing_had_happened(stack: Stack, run_id: str) -> Json:
    run = stack.wait_end(run_id)
    assert run["status"] == "completed", run
    assert run["rounds_done"] == ROUNDS
    assert len(run["attempts"]) == 1
    assert all(r["counted"] == 2 for r in stack.admin.items(f"/runs/{run_id}/rounds"))
    assert_rows_equal_journal(stack, run_id)
    assert_log_equals_file(stack, run_id)
    return run


def test_a_killed_admin_server_finds_everything_again(stack: Stack, running: str) -> None:
    superlink = process_record(stack.home / "superlink")
    stack.admin.kill()
    committed = (stack.home / "runs").glob("*/journal.jsonl")
    sizes = {path: path.stat().st_size for path in committed}
    wait_for("training to go on without the admin server", lambda: any(p.stat().st_size > s for p, s in sizes.items()), 30)
    stack.admin.start()
    assert process_record(stack.home / "superlink") == superlink
    assert_as_if_nothing_had_happened(stack, running)


def test_a_killed_executor_comes_back_and_its_server_app_never_noticed(stack: Stack, running: str) -> None:
    old = kill_recorded(stack.home / "executor")
    wait_for("a new executor", lambda: (r := process_record(stack.home / "executor")) and r["pid"] != old, 20)
    assert_as_if_nothing_had_happened(stack, running)


def test_a_killed_postgres_comes_back_and_nothing_is_lost(stack: Stack, running: str) -> None:
    old = kill_recorded(stack.home / "postgres")
    wait_for("a new Postgres", lambda: (r := process_record(stack.home / "postgres")) and r["pid"] != old, 30)
    wait_for("the admin server to read again", lambda: stack.admin.request("GET", "/runs").status_code == 200, 30)
    assert_as_if_nothing_had_happened(stack, running)


def test_a_killed_client_server_adopts_its_super_node(stack: Stack, running: str) -> None:
    supernode = process_record(stack.site_folder(0) / "supernode")
    stack.sites[0].kill()
    stack.sites[0].start()
    assert process_record(stack.site_folder(0) / "supernode") == supernode
    assert stack.sites[0].get("/supernode")["state"] == "running"
    assert_as_if_nothing_had_happened(stack, running)


def test_a_silent_client_server_is_shown_as_lost_and_its_node_trains_on(stack: Stack) -> None:
    run_id = stack.start_run("trouble", train_s=4.0, num_rounds=ROUNDS, min_available=2)
    stack.wait_rounds(run_id, 1)
    stack.sites[1].kill()
    wait_for("site-1 shown as lost", lambda: stack.nodes()["site-1"]["status"] == "lost", 25)
    stack.sites[1].start()
    wait_for("site-1 back", lambda: stack.nodes()["site-1"]["status"] == "online", 20)
    assert_as_if_nothing_had_happened(stack, run_id)


def test_a_killed_super_node_is_restarted_under_its_id_and_its_sessions_tell(stack: Stack) -> None:
    before = stack.sites[0].get("/supernode")
    old = kill_recorded(stack.site_folder(0) / "supernode")
    wait_for("a new SuperNode", lambda: (r := process_record(stack.site_folder(0) / "supernode")) and r["pid"] != old, 30)
    wait_for("it runs", lambda: stack.sites[0].get("/supernode")["state"] == "running", 40)
    stack.wait_online(2)
    assert stack.sites[0].get("/supernode")["flower_node_id"] == before["flower_node_id"]
    node = stack.nodes()["site-0"]
    statuses = [s["status"] for s in stack.admin.items(f"/nodes/{node['id']}/sessions")]
    assert "running" in statuses
    assert {"failed", "exited", "lost"} & set(statuses)


def test_a_killed_server_app_fails_its_run_at_once_with_the_signal(stack: Stack, running: str) -> None:
    folder = next((stack.run_folder(running) / "attempts").iterdir())
    record = process_record(folder)
    assert record is not None
    assert is_alive(record["pid"])
    os.kill(record["pid"], signal.SIGKILL)
    run = stack.wait_end(running, 30)
    assert run["status"] == "failed"
    assert "SIGKILL" in run["cause"]["message"]
    assert run["cause"]["last_lines"]


def test_reports_are_spooled_while_the_admin_server_is_away(stack: Stack, running: str) -> None:
    stack.admin.kill()
    site = stack.sites[0]
    site.post("/supernode/stop")
    wait_for("the SuperNode to stop", lambda: site.get("/supernode")["state"] == "stopped", 20)
    stack.start_node(0)
    wait_for("the SuperNode to run", lambda: site.get("/supernode")["state"] == "running", 40)
    stack.admin.start()
    node = wait_for("the admin server to list nodes", lambda: stack.nodes().get("site-0"), 20)

    def told() -> bool:
        sessions = sorted(stack.admin.items(f"/nodes/{node['id']}/sessions"), key=lambda s: s["started_at"])
        return [s["status"] for s in sessions[-2:]] == ["stopped", "running"]

    wait_for("both sessions, in order, once", told, 30)
    stack.wait_end(running)
