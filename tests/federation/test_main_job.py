"""The main job on a real federation: recorded whole, from REST and from a shell, our app and anybody's."""

from __future__ import annotations

import hashlib
import json
import os
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.federation.rows import assert_log_equals_file, assert_rows_equal_journal
from tests.federation.stack import Json, Stack, free_port, process_record, wait_for


@pytest.fixture(scope="module")
def digits(stack: Stack) -> Json:
    """Two rounds of digits, started and waited for by REST."""
    run_id = stack.start_run(num_rounds=2, local_epochs=1, min_available=2)
    return stack.wait_end(run_id)


def test_a_run_started_by_rest_completes_with_every_update_counted(stack: Stack, digits: Json) -> None:
    assert digits["status"] == "completed", digits
    assert digits["rounds_done"] == digits["num_rounds"] == 2
    rounds = stack.admin.items(f"/runs/{digits['id']}/rounds")
    assert [(r["round"], r["status"], r["counted"], r["expected"]) for r in rounds] == [(1, "closed", 2, 2), (2, "closed", 2, 2)]
    assert all(0 < r["server_metrics"]["accuracy"] <= 1 and r["bytes_up"] > 50_000 for r in rounds)


def test_rows_equal_the_journal_and_the_log_equals_its_file(stack: Stack, digits: Json) -> None:
    assert_rows_equal_journal(stack, digits["id"])
    assert_log_equals_file(stack, digits["id"])


def test_updates_name_their_sites(stack: Stack, digits: Json) -> None:
    updates = stack.admin.items(f"/runs/{digits['id']}/updates", round=1)
    assert {u["node_name"] for u in updates} == {"site-0", "site-1"}
    assert all(u["status"] == "counted" and u["num_examples"] > 0 and u["timings"]["train_s"] > 0 for u in updates)


def test_the_final_model_is_an_artifact_with_its_own_hash(stack: Stack, digits: Json) -> None:
    (final,) = [a for a in stack.admin.items(f"/runs/{digits['id']}/artifacts") if a["role"] == "final"]
    file = Path(digits["run_dir"]) / "models" / "final.safetensors"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == final["sha256"]
    assert file.stat().st_size == final["size_bytes"]


def test_the_best_model_is_promoted_downloaded_and_traced_to_both_sites(stack: Stack, digits: Json) -> None:
    best = next(a for a in stack.admin.items(f"/runs/{digits['id']}/artifacts") if a["role"] == "best" and not a["removed_at"])
    made = stack.admin.post("/models", {"run_id": digits["id"], "role": "best", "why": "the best of two rounds"}, expect=201)
    assert (made["artifact_id"], made["sha256"], made["is_latest"]) == (best["id"], best["sha256"], True)
    answer = stack.admin.request("GET", "/models/latest")
    assert answer.headers["etag"] == f'"{hashlib.sha256(answer.content).hexdigest()}"' == f'"{best["sha256"]}"'
    lineage = stack.admin.get(f"/models/{made['version']}/lineage")
    assert (lineage["run_id"], lineage["attempt"]) == (digits["id"], digits["flower_run_id"])
    assert lineage["facts"]["fab_hash"] == digits["fab_hash"]
    updates = stack.admin.items(f"/runs/{digits['id']}/updates", status="counted")
    examples = {u["node_name"]: 0 for u in updates}
    for update in updates:
        examples[update["node_name"]] += update["num_examples"] if update["round"] <= best["round"] else 0
    assert {source["node_name"]: source["num_examples"] for source in lineage["sources"]} == examples
    assert {source["updates"] for source in lineage["sources"]} == {best["round"]}


def test_a_damaged_model_breaks_off_before_its_end(stack: Stack, digits: Json) -> None:
    made = stack.admin.post("/models", {"run_id": digits["id"], "why": "to be damaged"}, expect=201)
    copy = stack.home / made["uri"]
    copy.chmod(0o600)
    copy.write_bytes(copy.read_bytes()[:-1] + b"x")
    with pytest.raises(httpx.RemoteProtocolError):
        stack.admin.request("GET", f"/models/{made['version']}")


def test_the_run_directory_holds_what_people_read(stack: Stack, digits: Json) -> None:
    folder = Path(digits["run_dir"])
    history = json.loads((folder / "history.json").read_text())
    assert len(history) == 2
    assert (folder / "chart.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "server" / "round_2_aggregated.json").read_text())["round"] == 2
    for index, node in enumerate(sorted(stack.nodes().values(), key=lambda node: str(node["external_id"]))):
        mine = folder / "clients" / f"site-{index}-{node['flower_node_id'][-6:]}"
        assert json.loads((mine / "round_1.json").read_text())["status"] == "counted"
        assert "flwr" in (mine / "client.log").read_text()


def test_the_run_log_has_the_server_apps_lines_and_what_sites_forward(stack: Stack, digits: Json) -> None:
    def both() -> bool:
        return {"serverapp", "clientapp"} <= {line["source"] for line in stack.admin.items(f"/runs/{digits['id']}/logs")}

    wait_for("lines of ServerApp and ClientApps", both, 20)


def test_events_tell_the_story_in_order(stack: Stack, digits: Json) -> None:
    names = [event["name"] for event in stack.admin.items(f"/runs/{digits['id']}/events")]
    assert names[0] == "fl.federation.created"
    assert [n for n in names if n.startswith("fl.round")] == ["fl.round.started", "fl.round.completed"] * 2
    assert [n for n in names if n.startswith("fl.federation")][-1] == "fl.federation.completed"


def test_a_second_rest_run_is_refused_while_one_is_active(stack: Stack) -> None:
    first = stack.start_run("trouble", train_s=60.0, num_rounds=1)
    answer = stack.admin.request("POST", "/runs/start", json={"app": "trouble"})
    assert answer.status_code == 409, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["run_id"] == first
    stack.admin.post(f"/runs/{first}/stop")
    assert stack.wait_end(first, 20)["status"] == "stopped"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"run_config": {"workload": "digit"}}, "workload"),
        ({"run_config": {"num-roundz": 1}}, "num-roundz"),
        ({"run_config": {"num-rounds": "three"}}, "num-rounds"),
        ({"run_config": {"num-rounds": 0}}, "num-rounds"),
        ({"app": "no-such-app"}, "no-such-app"),
        ({"app": "../flower-app"}, "../flower-app"),
        ({"extra_args": ["--insecure"]}, "--insecure"),
        ({"streem": True}, "streem"),
    ],
)
def test_a_bad_request_is_refused_by_name_and_starts_nothing(stack: Stack, body: Json, named: str) -> None:
    before = len(stack.admin.items("/runs"))
    answer = stack.admin.request("POST", "/runs/start", json=body)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert named in answer.text
    assert len(stack.admin.items("/runs")) == before


def test_a_run_from_a_shell_is_recorded_like_any_other(stack: Stack, apps: Path) -> None:
    env = {**os.environ, "FLWR_HOME": str(stack.home / "flwr"), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    flwr = Path(sys.executable).parent / "flwr"
    command = [str(flwr), "run", str(apps / "trouble"), "espalier", "--format", "json", "--run-config", "num-rounds=1"]
    said = json.loads(subprocess.run(command, env=env, capture_output=True, check=True, text=True).stdout)
    assert said["success"], said
    run = stack.wait_end(said["run-id"], 60)
    assert (run["origin"], run["status"], run["rounds_done"]) == ("shell", "completed", 1)
    assert_rows_equal_journal(stack, run["id"])


def test_a_foreign_app_is_run_and_recorded(stack: Stack) -> None:
    run = stack.wait_end(stack.start_run("quickstart", num_server_rounds=1))
    assert run["status"] == "completed", run
    assert run["started_at"] < run["ended_at"]
    log = [line["text"] for line in stack.admin.items(f"/runs/{run['id']}/logs") if line["source"] == "serverapp"]
    assert any("final weights" in text for text in log)


def test_a_foreign_server_apps_exception_is_the_runs_cause(stack: Stack) -> None:
    run = stack.wait_end(stack.start_run("quickstart", fail_in="server"), 40)
    assert run["status"] == "failed"
    assert (run["cause"]["type"], run["cause"]["message"]) == ("RuntimeError", "the model file is missing")


def test_a_restarted_node_keeps_its_flower_id(stack: Stack) -> None:
    before = stack.sites[1].get("/supernode")
    stack.sites[1].post("/supernode/stop")
    wait_for("the SuperNode to stop", lambda: stack.sites[1].get("/supernode")["state"] == "stopped", 20)
    wait_for("the node offline", lambda: stack.nodes()["site-1"]["status"] == "offline", 20)
    stack.start_node(1)
    stack.wait_online(2)
    after = stack.sites[1].get("/supernode")
    assert after["flower_node_id"] == before["flower_node_id"]
    assert after["pid"] != before["pid"]


def test_the_fleet_port_serves_no_control(stack: Stack) -> None:
    record = process_record(stack.home / "superlink")
    assert record is not None
    public = free_port()
    stack.admin.post("/superlink/stop")
    wait_for("the SuperLink to stop", lambda: stack.admin.get("/superlink")["state"] == "stopped", 30)
    stack.admin.post("/superlink/start", {"listen_address": f"127.0.0.1:{public}"})
    wait_for("the SuperLink to run", lambda: stack.admin.get("/superlink")["state"] == "running", 60)
    trust = ssl.create_default_context(cafile=stack.home / "tls" / "ca.crt")
    with httpx.Client(verify=trust, timeout=10) as client:
        assert client.get(f"https://127.0.0.1:{public}/health").status_code == 200
        for api in ("control/list-runs", "runtime/acquire-task"):
            assert client.post(f"https://127.0.0.1:{public}/v1/{api}").status_code == 403
    stack.wait_online(2)
