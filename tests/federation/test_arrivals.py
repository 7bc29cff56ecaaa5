"""A site that is cut off in the midst of sending its update, of which the SuperLink has the head: nobody else waits for it."""

from __future__ import annotations

import os
import signal
from typing import Any

from tests.federation.rows import assert_rows_equal_journal
from tests.federation.stack import Json, Stack, process_record, wait_for

SENDING: dict[str, Any] = {
    "num_rounds": 1, "min_available": 2, "weights": 15_000_000, "trouble": "slow", "trouble_site": "site-0"
}  # fmt: skip
"""60 MB take longer to send than a look into SuperLink's log; site-0 sends its own four seconds later."""


def cut_off(stack: Stack, number: int) -> int:
    """Send site-1's SuperNode a signal once SuperLink has the head of its update; gives its pid."""
    node_id = stack.nodes()["site-1"]["flower_node_id"]
    log = stack.home / "superlink" / "superlink.log"
    begin = log.stat().st_size
    record = process_record(stack.site_folder(1) / "supernode")
    assert record is not None
    said = f"Push replies from node_id={node_id}".encode()
    wait_for("the head of its update", lambda: said in log.read_bytes()[begin:], 60)
    os.kill(record["pid"], number)
    return int(record["pid"])


def updates(stack: Stack, run_id: str) -> dict[str, Json]:
    assert_rows_equal_journal(stack, run_id)
    return {update["node_name"]: update for update in stack.admin.items(f"/runs/{run_id}/updates")}


def test_a_round_closes_at_its_kth_update_although_another_is_on_its_way(stack: Stack) -> None:
    run_id = stack.start_run("trouble", k_of_n=1, **SENDING)
    pid = cut_off(stack, signal.SIGSTOP)
    try:
        assert stack.wait_end(run_id, 40)["status"] == "completed"
    finally:
        os.kill(pid, signal.SIGCONT)
    assert {name: update["status"] for name, update in updates(stack, run_id).items()} == {"site-0": "counted", "site-1": "late"}
    stack.wait_online(2)


def test_a_node_that_dies_while_it_sends_is_lost_and_the_round_goes_on(stack: Stack) -> None:
    run_id = stack.start_run("trouble", **SENDING)
    cut_off(stack, signal.SIGKILL)
    assert stack.wait_end(run_id, 40)["status"] == "completed"
    told = updates(stack, run_id)
    assert {name: update["status"] for name, update in told.items()} == {"site-0": "counted", "site-1": "lost"}
    assert told["site-1"]["cause"]["type"] == "NodeLost"
    stack.wait_online(2)
