"""A site that is enrolled while a run is at work."""

from __future__ import annotations

from tests.federation.stack import Json, Stack


def opened(stack: Stack, run_id: str) -> list[Json]:
    return [line for line in stack.journal(run_id) if line["kind"] == "round.opened"]


def test_a_site_that_comes_during_a_run_misses_at_most_the_running_round(stack: Stack) -> None:
    run_id = stack.start_run("trouble", train_s=1.0, num_rounds=100, min_available=2)
    stack.wait_rounds(run_id, 1)
    with stack.another_site() as newcomer:
        running = opened(stack, run_id)[-1]["round"]
        stack.wait_rounds(run_id, running + 1)
        stack.admin.post(f"/runs/{run_id}/stop")
        assert stack.wait_end(run_id)["status"] == "stopped"
    asked = {line["round"]: line["nodes"] for line in opened(stack, run_id)}
    assert newcomer not in asked[1]
    assert newcomer in asked[running + 1]
    updates = stack.admin.items(f"/runs/{run_id}/updates", round=running + 1)
    assert [update["status"] for update in updates] == ["counted"] * 3
