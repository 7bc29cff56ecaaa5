"""Pause, resume and stop by REST: what the engine makes of them, and what the events of the run say."""

from __future__ import annotations

import time

from tests.federation.rows import is_at_work
from tests.federation.stack import Stack, wait_for


def test_a_run_holds_while_it_is_paused_goes_on_and_stops_and_each_is_an_event(stack: Stack) -> None:
    run_id = stack.start_run("trouble", train_s=0.3, num_rounds=200, min_available=2)
    stack.wait_rounds(run_id, 1)

    stack.admin.post(f"/runs/{run_id}/pause")
    wait_for("the run to be paused", lambda: stack.run(run_id)["status"] == "paused", 30)
    held = stack.journal(run_id)
    time.sleep(2)  # longer than a round
    assert stack.journal(run_id) == held
    assert held[-1]["kind"] == "run.paused"
    after_round = held[-1]["after_round"]

    stack.admin.post(f"/runs/{run_id}/resume")
    stack.wait_rounds(run_id, after_round + 1)
    went_on = stack.journal(run_id)[len(held) :]
    assert [(line["kind"], line.get("after_round"), line.get("round")) for line in went_on[:2]] == [
        ("run.resumed", after_round, None), ("round.opened", None, after_round + 1)
    ]  # fmt: skip

    stack.admin.post(f"/runs/{run_id}/stop")
    run = stack.wait_end(run_id)
    assert run["status"] == "stopped"
    attempt = stack.run_folder(run_id) / "attempts" / run["flower_run_id"]
    wait_for("the ServerApp to leave", lambda: not is_at_work(attempt), 30)
    events = [event for event in stack.admin.items(f"/runs/{run_id}/events") if event["name"].startswith("fl.federation.")]
    assert [(event["name"].removeprefix("fl.federation."), event["data"].get("after_round")) for event in events] == [
        ("created", None), ("started", None), ("paused", after_round), ("resumed", after_round), ("stopped", None)
    ]  # fmt: skip
