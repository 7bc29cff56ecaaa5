"""A round that closes without its slowest site: what becomes of that site's work, in real processes."""

from __future__ import annotations

from typing import Any

from tests.federation.rows import assert_rows_equal_journal
from tests.federation.stack import Stack

SLOW: dict[str, Any] = {"trouble": "slow", "trouble_site": "site-1", "k_of_n": 1, "train_s": 0.8, "min_available": 2}


def of_the_slow_site(stack: Stack, run_id: str) -> list[dict[str, Any]]:
    return [update for update in stack.admin.items(f"/runs/{run_id}/updates") if update["node_name"] == "site-1"]


def test_under_carry_it_works_on_and_its_update_counts_in_a_later_round(stack: Stack) -> None:
    run_id = stack.start_run("trouble", late="carry", num_rounds=8, **SLOW)
    assert stack.wait_end(run_id)["status"] == "completed"
    first = of_the_slow_site(stack, run_id)[0]
    assert (first["round"], first["status"], first["cause"]) == (1, "counted", None)
    assert 1 < first["counted_in_round"] <= 8
    closed = {row["round"]: row for row in stack.admin.items(f"/runs/{run_id}/rounds")}
    assert closed[first["counted_in_round"]]["counted"] == 2
    assert_rows_equal_journal(stack, run_id)


def test_under_drop_its_message_is_cancelled_and_it_joins_a_later_round(stack: Stack) -> None:
    run_id = stack.start_run("trouble", late="drop", num_rounds=4, **SLOW)
    assert stack.wait_end(run_id)["status"] == "completed"
    slow = of_the_slow_site(stack, run_id)
    assert {update["status"] for update in slow} == {"late"}
    assert slow[0]["round"] == 1
    assert len(slow) > 1, "a node whose message runs on is asked for nothing"
