"""A round that closes without its slowest site: what becomes of that site's work, in real processes."""

from __future__ import annotations

from typing import Any

from tests.federation.rows import assert_rows_equal_journal
from tests.federation.stack import Json, Stack, is_alive, process_record, wait_for

SLOW: dict[str, Any] = {"trouble": "slow", "trouble_site": "site-1", "k_of_n": 1, "train_s": 0.8, "min_available": 2}


def of_the_slow_site(stack: Stack, run_id: str) -> list[dict[str, Any]]:
    return [update for update in stack.admin.items(f"/runs/{run_id}/updates") if update["node_name"] == "site-1"]


def at_work(stack: Stack) -> list[Json]:
    """Give the live ClientApps of site-1, by their proc.json."""
    folders = (stack.site_folder(1) / "supernode" / "clientapps").glob("*/*")
    records = [record for folder in folders if (record := process_record(folder))]
    return [record for record in records if is_alive(record["pid"])]


def test_under_carry_it_works_on_and_its_update_counts_in_a_later_round(stack: Stack) -> None:
    run_id = stack.start_run("trouble", late="carry", num_rounds=8, **SLOW)
    assert stack.wait_end(run_id)["status"] == "completed"
    first = of_the_slow_site(stack, run_id)[0]
    assert (first["round"], first["status"], first["cause"]) == (1, "counted", None)
    assert 1 < first["counted_in_round"] <= 8
    closed = {row["round"]: row for row in stack.admin.items(f"/runs/{run_id}/rounds")}
    assert closed[first["counted_in_round"]]["counted"] == 2
    assert_rows_equal_journal(stack, run_id)


def test_under_drop_its_message_is_cancelled_and_it_joins_the_round_after_that(stack: Stack) -> None:
    hangs = SLOW | {"trouble": "sleep"}  # by itself it would answer in ten minutes
    run_id = stack.start_run("trouble", late="drop", num_rounds=100, **hangs)
    stack.wait_rounds(run_id, 1)
    stack.admin.post(f"/runs/{run_id}/pause")
    wait_for("the run to be paused", lambda: stack.run(run_id)["status"] == "paused", 30)
    wait_for("all that site-1 worked on to be cancelled", lambda: not at_work(stack), 30)
    after_round = stack.journal(run_id)[-1]["after_round"]
    stack.admin.post(f"/runs/{run_id}/resume")
    stack.wait_rounds(run_id, after_round + 1)
    stack.admin.post(f"/runs/{run_id}/stop")
    assert stack.wait_end(run_id)["status"] == "stopped"
    asked = {line["round"]: line["nodes"] for line in stack.journal(run_id) if line["kind"] == "round.opened"}
    assert stack.nodes()["site-1"]["flower_node_id"] in asked[after_round + 1]
    first = of_the_slow_site(stack, run_id)[0]
    assert (first["round"], first["status"]) == (1, "late")
