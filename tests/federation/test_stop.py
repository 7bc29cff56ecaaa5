"""Stop stops: the run ends, the training loop really ends, and the node is ready for the next message."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.federation.stack import Stack, is_alive, process_record, wait_for

GONE_S = 5  # what we promise; 0.7 s on an idle machine
END_S = 20  # StopRun after 5 s, a ServerApp that does not heed it is killed after 5 more


def client_apps(stack: Stack) -> list[dict[str, Any]]:
    """The live ClientApps of all sites, by their proc.json."""
    folders = Path(stack.home / "sites").glob("*/supernode/clientapps/*/*")
    records = [record for folder in folders if (record := process_record(folder))]
    return [record for record in records if is_alive(record["pid"])]


def stop(stack: Stack, path: str) -> None:
    """Ask for a stop, and see each ClientApp that is at work gone in time, counted from the question."""
    running, asked = client_apps(stack), time.monotonic()
    stack.admin.post(path)
    gone_by = asked + GONE_S
    wait_for("no ClientApp left", lambda: not any(is_alive(app["pid"]) for app in running), gone_by - time.monotonic())


@pytest.mark.parametrize("how", ["busy", "sleep"])
def test_stop_ends_the_training_loop_on_every_node(stack: Stack, how: str) -> None:
    run_id = stack.start_run("trouble", trouble=how, num_rounds=1, min_available=2)
    wait_for("two ClientApps at work", lambda: len(client_apps(stack)) == 2, 40)
    stop(stack, "/runs/stop")
    assert stack.wait_end(run_id, END_S)["status"] == "stopped"
    again = stack.wait_end(stack.start_run("trouble", num_rounds=1, min_available=2), 40)
    assert again["status"] == "completed"
    assert again["rounds_done"] == 1


@pytest.mark.parametrize("wakes", [True, False], ids=["for a while", "for good"])
def test_a_stop_needs_no_engine_that_looks(stack: Stack, wakes: bool) -> None:
    run_id = stack.start_run("trouble", trouble="sleep-later", num_rounds=2, min_available=2)
    stack.wait_rounds(run_id, 1)
    wait_for("two ClientApps at work", lambda: len(client_apps(stack)) == 2, 40)
    engine = process_record(stack.run_folder(run_id) / "attempts" / stack.run(run_id)["flower_run_id"])
    assert engine is not None
    os.kill(engine["pid"], signal.SIGSTOP)
    stop(stack, f"/runs/{run_id}/stop")
    if wakes:
        os.kill(engine["pid"], signal.SIGCONT)
    run = stack.wait_end(run_id, END_S)
    assert (run["status"], run["rounds_done"], run["cause"]) == ("stopped", 1, None)
    made = stack.admin.post("/models", {"run_id": run_id, "why": "the last one before the stop"}, expect=201)
    assert (made["run_id"], made["round"]) == (run_id, 1)
    assert {record["round"] for record in stack.journal(run_id) if record["kind"] == "update"} == {1}
    again = stack.wait_end(stack.start_run("trouble", num_rounds=1, min_available=2), 40)
    assert again["status"] == "completed"


def test_a_stopped_run_keeps_its_last_line(stack: Stack) -> None:
    run_id = stack.start_run("trouble", trouble="sleep", num_rounds=1)
    wait_for("a ClientApp at work", lambda: client_apps(stack), 40)
    stack.admin.post(f"/runs/{run_id}/stop")
    stack.wait_end(run_id, END_S)
    assert stack.journal(run_id)[-1] | {"seq": 0, "at": "", "attempt": ""} == {
        "seq": 0, "at": "", "attempt": "", "kind": "run.closed", "status": "stopped", "last_round": 0, "cause": None,
        "ended_early": None,
    }  # fmt: skip
    names = [event["name"] for event in stack.admin.items(f"/runs/{run_id}/events")]
    assert names.count("fl.federation.stopped") == 1
