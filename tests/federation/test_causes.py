"""A failure always has a cause, and its cause reaches the person who started the run."""

from __future__ import annotations

import time

import pytest

from tests.federation.stack import Stack, wait_for

CAUSES = {
    "raise": ("KeyError", "no such column: age"),
    "exit": ("CLIENT_APP_CRASHED", "exit code 3"),
    "sigkill": ("CLIENT_APP_CRASHED", "SIGKILL"),
    "import": ("ModuleNotFoundError", "no_such_module"),
    "memory": ("MemoryError", "Unable to allocate"),
}


@pytest.mark.parametrize("how", CAUSES)
def test_a_failed_run_names_node_type_and_text(stack: Stack, how: str) -> None:
    run = stack.wait_end(stack.start_run("trouble", trouble=how, trouble_site="", num_rounds=1), 60)
    kind, text = CAUSES[how]
    assert run["status"] == "failed", run
    cause = run["cause"]
    assert cause["node_name"] in ("site-0", "site-1")
    assert cause["type"] == kind
    assert text in cause["message"] + "\n".join(cause["last_lines"])
    updates = stack.admin.items(f"/runs/{run['id']}/updates")
    assert {u["node_name"] for u in updates} == {"site-0", "site-1"}
    assert all(u["status"] == "failed" and u["cause"]["type"] == kind for u in updates)
    if kind == "CLIENT_APP_CRASHED":
        assert any("about to" in line for line in cause["last_lines"]), "what it said last comes along"


def test_one_failing_site_is_recorded_and_the_other_trains_on(stack: Stack) -> None:
    run = stack.wait_end(stack.start_run("trouble", trouble="raise", trouble_site="site-1", num_rounds=2, min_available=2))
    assert run["status"] == "completed", run
    updates = stack.admin.items(f"/runs/{run['id']}/updates")
    assert {(u["round"], u["node_name"], u["status"]) for u in updates} == {
        (n, name, status) for n in (1, 2) for name, status in (("site-0", "counted"), ("site-1", "failed"))
    }
    (failure, _) = [u["cause"] for u in updates if u["status"] == "failed"]
    assert (failure["type"], failure["node_name"]) == ("KeyError", "site-1")
    assert "workload.py" in failure["traceback"]


def test_the_server_apps_own_exception_is_the_cause(stack: Stack) -> None:
    started = time.monotonic()
    run = stack.wait_end(stack.start_run("trouble", trouble="server-raise"), 40)
    assert run["status"] == "failed"
    assert (run["cause"]["type"], run["cause"]["message"]) == ("FileNotFoundError", "no base model on the server")
    assert run["cause"]["node_id"] is None
    assert time.monotonic() - started < 40


def test_a_foreign_client_apps_death_is_in_the_runs_log(stack: Stack) -> None:
    run = stack.wait_end(stack.start_run("quickstart", fail_in="client", num_server_rounds=1), 60)

    def told() -> bool:
        return any("no such column: age" in line["text"] for line in stack.admin.items(f"/runs/{run['id']}/logs"))

    wait_for("the ClientApp's exception in the run's log", told, 20)
