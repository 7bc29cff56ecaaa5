"""A run that failed goes on by hand after its last committed round: with the same sites, or with whoever is there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.federation.rows import assert_rows_equal_journal
from tests.federation.stack import Json, Stack, wait_for


@pytest.fixture(scope="module")
def both_at_work(stack: Stack) -> None:
    """Both sites have trained: one that has just come back stays lost to new runs for some seconds."""
    assert stack.wait_end(stack.start_run("trouble", num_rounds=1, min_available=2))["status"] == "completed"


@pytest.fixture
def failed(stack: Stack, both_at_work: None) -> Iterator[str]:
    """A run that failed in its second round, when both sites had counted in it; site-1 is away since, and comes back."""
    run_id = stack.start_run("trouble", trouble="server-fails-once", num_rounds=3, min_available=1)
    run = stack.wait_end(run_id)
    assert (run["status"], run["rounds_done"], run["cause"]["message"]) == ("failed", 1, "no test set on the server"), run
    site = stack.sites[1]
    site.post("/supernode/stop")
    wait_for("the SuperNode to stop", lambda: site.get("/supernode")["state"] == "stopped", 20)
    wait_for("the node offline", lambda: stack.nodes()["site-1"]["status"] == "offline", 20)
    yield run_id
    if site.get("/supernode")["state"] == "stopped":
        stack.start_node(1)
    stack.wait_online(2)


def resume(stack: Stack, run_id: str, nodes: str) -> None:
    """Have a run go on as soon as its last attempt is let go of."""

    def is_taken() -> bool:
        return stack.admin.request("POST", f"/runs/{run_id}/resume", json={"nodes": nodes}).status_code == 202

    wait_for("the run to be resumed", is_taken, 30)


def ended(stack: Stack, run_id: str) -> Json:
    run = stack.wait_end(run_id)
    assert run["status"] == "completed", run
    assert [attempt["status"] for attempt in run["attempts"]] == ["failed", "completed"]
    assert_rows_equal_journal(stack, run_id)
    return run


def counted(stack: Stack, run_id: str) -> list[tuple[int, int]]:
    return [(row["round"], row["counted"]) for row in stack.admin.items(f"/runs/{run_id}/rounds")]


def test_with_the_same_nodes_a_run_waits_for_the_one_that_is_away(stack: Stack, failed: str) -> None:
    resume(stack, failed, "same")

    def waits() -> bool:
        waiting = stack.run(failed)["waiting"] or {}
        return (waiting.get("available"), waiting.get("wanted")) == (1, 2)

    wait_for("the run to wait for site-1", waits, 40)
    stack.start_node(1)
    ended(stack, failed)
    fates = [(u["round"], u["node_name"], u["status"], u["cause"]) for u in stack.admin.items(f"/runs/{failed}/updates")]
    assert counted(stack, failed) == [(1, 2), (2, 2), (3, 2)], fates


def test_with_any_nodes_a_run_goes_on_with_those_that_are_there_one_that_it_never_had_too(stack: Stack, failed: str) -> None:
    with stack.another_site() as newcomer:
        resume(stack, failed, "any")
        ended(stack, failed)
        updates = stack.admin.items(f"/runs/{failed}/updates")
    assert counted(stack, failed) == [(1, 2), (2, 2), (3, 2)]
    assert [(u["round"], u["status"]) for u in updates if u["flower_node_id"] == newcomer] == [(2, "counted"), (3, "counted")]
    of_site_1 = [(u["round"], u["status"]) for u in updates if u["node_name"] == "site-1"]
    assert of_site_1 == [(1, "counted"), (2, "lost")], "it counted in a try of round 2 that was not committed"
