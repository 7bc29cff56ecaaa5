"""Stop stops: the run ends, the training loop really ends, and the node is ready for the next message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.federation.stack import Stack, is_alive, process_record, wait_for


def client_apps(stack: Stack) -> list[dict[str, Any]]:
    """The live ClientApps of all sites, by their proc.json."""
    folders = Path(stack.home / "sites").glob("*/supernode/clientapps/*/*")
    records = [record for folder in folders if (record := process_record(folder))]
    return [record for record in records if is_alive(record["pid"])]


@pytest.mark.parametrize("how", ["busy", "sleep"])
def test_stop_ends_the_training_loop_on_every_node(stack: Stack, how: str) -> None:
    run_id = stack.start_run("trouble", trouble=how, num_rounds=1, min_available=2)
    wait_for("two ClientApps at work", lambda: len(client_apps(stack)) == 2, 40)
    running = client_apps(stack)
    stack.admin.post("/runs/stop")
    assert stack.wait_end(run_id, 40)["status"] == "stopped"
    wait_for("no ClientApp left", lambda: not any(is_alive(app["pid"]) for app in running), 30)
    again = stack.wait_end(stack.start_run("trouble", num_rounds=1, min_available=2), 40)
    assert again["status"] == "completed"
    assert again["rounds_done"] == 1


def test_a_stopped_run_keeps_its_last_line(stack: Stack) -> None:
    run_id = stack.start_run("trouble", trouble="sleep", num_rounds=1)
    wait_for("a ClientApp at work", lambda: client_apps(stack), 40)
    stack.admin.post(f"/runs/{run_id}/stop")
    stack.wait_end(run_id, 40)
    assert stack.journal(run_id)[-1] | {"seq": 0, "at": "", "attempt": ""} == {
        "seq": 0, "at": "", "attempt": "", "kind": "run.closed", "status": "stopped", "last_round": 0, "cause": None,
        "ended_early": None,
    }  # fmt: skip
    names = [event["name"] for event in stack.admin.items(f"/runs/{run_id}/events")]
    assert names.count("fl.federation.stopped") == 1
