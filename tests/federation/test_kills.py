"""Kill -9 what you like during a run: training goes on, the rest catches up, and the rows are as if nothing had happened."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.federation.rows import assert_log_equals_file, assert_rows_equal_journal
from tests.federation.stack import MAX_ATTEMPTS, Json, Server, Stack, is_alive, kill_recorded, process_record, wait_for
from tests.federation.undisturbed import assert_same_training

ROUNDS = 3


@pytest.fixture(scope="module")
def undisturbed(stack: Stack) -> str:
    """The same run as `running`, left alone."""
    run_id = stack.start_run("trouble", num_rounds=ROUNDS, min_available=2)
    assert stack.wait_end(run_id)["status"] == "completed"
    return run_id


@pytest.fixture
def running(stack: Stack, undisturbed: str) -> str:
    """A run of slow rounds with the first behind it."""
    run_id = stack.start_run("trouble", train_s=1.5, num_rounds=ROUNDS, min_available=2)
    stack.wait_rounds(run_id, 1)
    return run_id


def assert_recorded_once(stack: Stack, run_id: str) -> Json:
    run = stack.wait_end(run_id)
    assert run["status"] == "completed", run
    assert run["rounds_done"] == ROUNDS
    assert_rows_equal_journal(stack, run_id)
    assert_log_equals_file(stack, run_id)
    return run


def assert_as_if_nothing_had_happened(stack: Stack, run_id: str, undisturbed: str, attempts: int = 1) -> Json:
    run = assert_recorded_once(stack, run_id)
    assert len(run["attempts"]) == attempts
    assert [each["status"] for each in run["attempts"]] == [*["lost"] * (attempts - 1), "completed"]
    assert_same_training(stack, run_id, undisturbed)
    return run


def server_app_of(stack: Stack, run_id: str) -> Path:
    """The folder of the newest attempt, once its ServerApp is there."""
    folder = stack.run_folder(run_id) / "attempts" / str(stack.run(run_id)["flower_run_id"])
    wait_for("the ServerApp", lambda: process_record(folder), 20)
    return folder


class Subscriber:
    """One who follows the events of a list, and comes back with the id of the last one."""

    def __init__(self, server: Server, path: str) -> None:
        self._server, self._path = server, path
        self.ids = ["0"]
        self._events = server.follow(path, self.ids[-1])

    def read_until(self, run_id: str, name: str) -> None:
        for key, event in self._events:
            self.ids.append(key)
            if (event["run_id"], event["name"]) == (run_id, name):
                return
        raise AssertionError(f"{self._path} ended before {name}")

    def come_back(self) -> None:
        self.ids += [key for key, _ in self._events]  # what was on its way when the stream broke off
        self._events = self._server.follow(self._path, self.ids[-1])

    def missed_nothing(self) -> bool:
        listed = [str(event["key"]) for event in self._server.items(self._path)]
        return self.ids[1:] == listed[: len(self.ids) - 1]


def test_a_killed_admin_server_finds_everything_again(stack: Stack, running: str, undisturbed: str) -> None:
    superlink = process_record(stack.home / "superlink")
    subscribers = [Subscriber(stack.admin, path) for path in (f"/runs/{running}/events", "/events")]
    for subscriber in subscribers:
        subscriber.read_until(running, "fl.round.completed")
    stack.admin.kill()
    committed = (stack.home / "runs").glob("*/journal.jsonl")
    sizes = {path: path.stat().st_size for path in committed}
    wait_for("training to go on without the admin server", lambda: any(p.stat().st_size > s for p, s in sizes.items()), 30)
    stack.admin.start()
    assert process_record(stack.home / "superlink") == superlink
    for subscriber in subscribers:
        subscriber.come_back()
        subscriber.read_until(running, "fl.federation.completed")
        assert subscriber.missed_nothing()
    assert_as_if_nothing_had_happened(stack, running, undisturbed)


def test_a_killed_executor_comes_back_and_its_server_app_never_noticed(stack: Stack, running: str, undisturbed: str) -> None:
    old = kill_recorded(stack.home / "executor")
    wait_for("a new executor", lambda: (r := process_record(stack.home / "executor")) and r["pid"] != old, 20)
    assert_as_if_nothing_had_happened(stack, running, undisturbed)


def test_a_killed_postgres_comes_back_and_nothing_is_lost(stack: Stack, running: str, undisturbed: str) -> None:
    old = kill_recorded(stack.home / "postgres")
    wait_for("a new Postgres", lambda: (r := process_record(stack.home / "postgres")) and r["pid"] != old, 30)
    wait_for("the admin server to read again", lambda: stack.admin.request("GET", "/runs").status_code == 200, 30)
    assert_as_if_nothing_had_happened(stack, running, undisturbed)


def test_a_killed_client_server_adopts_its_super_node(stack: Stack, running: str, undisturbed: str) -> None:
    supernode = process_record(stack.site_folder(0) / "supernode")
    stack.sites[0].kill()
    stack.sites[0].start()
    assert process_record(stack.site_folder(0) / "supernode") == supernode
    assert stack.sites[0].get("/supernode")["state"] == "running"
    assert_as_if_nothing_had_happened(stack, running, undisturbed)


def test_a_silent_client_server_is_shown_as_lost_and_its_node_trains_on(stack: Stack, undisturbed: str) -> None:
    run_id = stack.start_run("trouble", train_s=4.0, num_rounds=ROUNDS, min_available=2)
    stack.wait_rounds(run_id, 1)
    stack.sites[1].kill()
    wait_for("site-1 shown as lost", lambda: stack.nodes()["site-1"]["status"] == "lost", 25)
    stack.sites[1].start()
    wait_for("site-1 back", lambda: stack.nodes()["site-1"]["status"] == "online", 20)
    assert_as_if_nothing_had_happened(stack, run_id, undisturbed)


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


def test_a_killed_server_app_is_followed_by_another_that_goes_on_after_its_last_round(
    stack: Stack, running: str, undisturbed: str
) -> None:
    kill_recorded(server_app_of(stack, running))
    run = assert_as_if_nothing_had_happened(stack, running, undisturbed, attempts=2)
    assert "SIGKILL" in run["attempts"][0]["reason"]
    opened = [line for line in stack.journal(running) if line["kind"] == "run.opened"]
    assert [line["attempt"] for line in opened] == [each["flower_run_id"] for each in run["attempts"]]
    assert opened[1]["resumed_after"] >= 1


def test_a_server_app_that_is_killed_before_its_first_line_is_started_again(stack: Stack, undisturbed: str) -> None:
    run_id = stack.start_run("trouble", trouble="server-waits-once", num_rounds=ROUNDS, min_available=2)
    folder = stack.run_folder(run_id)
    wait_for("the ServerApp to be about to begin", (folder / "server-waits-once").exists, 40)
    assert not (folder / "journal.jsonl").exists()
    kill_recorded(server_app_of(stack, run_id))
    assert_as_if_nothing_had_happened(stack, run_id, undisturbed, attempts=2)


def test_a_server_app_that_always_dies_fails_its_run_with_its_last_words(stack: Stack) -> None:
    run = stack.wait_end(stack.start_run("trouble", trouble="server-sigkill"))
    assert (run["status"], run["attempts"][-1]["status"], len(run["attempts"])) == ("failed", "lost", MAX_ATTEMPTS)
    assert "SIGKILL" in run["cause"]["message"]
    assert run["cause"]["last_lines"]


def test_a_run_that_is_stopped_between_two_attempts_gets_no_other(stack: Stack, running: str, undisturbed: str) -> None:
    executor = psutil.Process((process_record(stack.home / "executor") or {})["pid"])
    executor.suspend()  # a new attempt begins only through it
    try:
        kill_recorded(server_app_of(stack, running))
        wait_for("the attempt to be lost", lambda: "lost" in [a["status"] for a in stack.run(running)["attempts"]], 20)
        stack.admin.post(f"/runs/{running}/stop")
        run = stack.wait_end(running, 30)
    finally:
        executor.resume()
    assert run["status"] == "stopped"
    assert not any(line["kind"] == "run.opened" and line["resumed_after"] for line in stack.journal(running))


def test_a_killed_super_link_comes_back_and_nobody_noticed(stack: Stack, running: str, undisturbed: str) -> None:
    old = kill_recorded(stack.home / "superlink")
    wait_for("a new SuperLink", lambda: (r := process_record(stack.home / "superlink")) and r["pid"] != old, 20)
    assert_as_if_nothing_had_happened(stack, running, undisturbed)


def test_a_killed_client_app_is_missing_from_its_round_and_no_other(stack: Stack, running: str) -> None:
    apps = stack.site_folder(1) / "supernode" / "clientapps"

    def at_work() -> list[Path]:
        folders = [path.parent for path in apps.glob("*/*/proc.json")]
        return [folder for folder in folders if (record := process_record(folder)) and is_alive(record["pid"])]

    kill_recorded(wait_for("a ClientApp at work", at_work, 30)[0])
    assert_recorded_once(stack, running)
    updates = stack.admin.items(f"/runs/{running}/updates")
    (missing,) = [update for update in updates if update["status"] != "counted"]
    assert (missing["node_name"], missing["status"], missing["cause"]["type"]) == ("site-1", "failed", "CLIENT_APP_CRASHED")
    closed = {row["round"]: row["counted"] for row in stack.admin.items(f"/runs/{running}/rounds")}
    assert closed == {number: 1 if number == missing["round"] else 2 for number in range(1, ROUNDS + 1)}


def test_a_killed_super_node_is_missing_from_its_round_and_back_in_a_later_one(stack: Stack) -> None:
    run_id = stack.start_run("trouble", train_s=1.5, num_rounds=ROUNDS, min_available=2)
    stack.wait_rounds(run_id, 1)
    kill_recorded(stack.site_folder(0) / "supernode")
    assert_recorded_once(stack, run_id)
    updates = stack.admin.items(f"/runs/{run_id}/updates")
    assert {(u["node_name"], u["status"]) for u in updates if u["status"] != "counted"} <= {("site-0", "lost")}
    last = [update for update in updates if update["round"] == ROUNDS]
    assert sorted((u["node_name"], u["status"]) for u in last) == [("site-0", "counted"), ("site-1", "counted")]


def test_reports_are_spooled_while_the_admin_server_is_away(stack: Stack, running: str, undisturbed: str) -> None:
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
