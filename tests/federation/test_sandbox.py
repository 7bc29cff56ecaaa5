"""Training in the sandbox on a real federation: what the record holds of it, at sites that check it, and what a site refuses."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.federation.stack import ROOT, Json, Stack, wait_for

DIGESTS = ("module_sha256", "model_in_sha256", "data_sha256", "config_sha256", "model_out_sha256")
GUEST = ROOT / "flower-app" / "flower_app" / "workloads" / "wasm" / "task.wasm.json"


@pytest.fixture(scope="module")
def mixed(stack: Stack) -> Json:
    """Two rounds, in the sandbox at site-0 and in PyTorch at site-1, which goes back to its own start afterwards."""
    start_again(stack, {"runtime": "torch"})
    try:
        return stack.wait_end(stack.start_run(workload="wasm", num_rounds=2, min_available=2))
    finally:
        start_again(stack, {})


def start_again(stack: Stack, node_config: Json) -> None:
    """Start the SuperNode of site-1 anew, with keys of its own."""
    site = stack.sites[1]
    site.post("/supernode/stop")
    wait_for("the SuperNode to stop", lambda: site.get("/supernode")["state"] == "stopped")
    site.post("/supernode/start", {"partition_id": 1, "num_partitions": 2, "node_config": node_config})
    stack.wait_online(2)


def updates_of(stack: Stack, run: Json, node: str) -> list[Json]:
    found = [each for each in stack.admin.items(f"/runs/{run['id']}/updates") if each["node_name"] == node]
    return sorted(found, key=lambda each: each["round"])


def test_sandbox_and_pytorch_train_one_model(stack: Stack, mixed: Json) -> None:
    assert mixed["status"] == "completed", mixed
    assert mixed["metrics"]["accuracy"] > 0.7
    assert [each["facts"]["runtime"] for each in updates_of(stack, mixed, "site-0")] == ["wasm", "wasm"]
    assert [each["facts"]["runtime"] for each in updates_of(stack, mixed, "site-1")] == ["torch", "torch"]


def test_the_record_says_of_what_and_by_which_module_an_update_was_computed(stack: Stack, mixed: Json) -> None:
    first, second = (each["facts"] for each in updates_of(stack, mixed, "site-0"))
    assert all(re.fullmatch("[0-9a-f]{64}", facts[name]) for facts in (first, second) for name in DIGESTS)
    assert first["abi"] == "fl/1"
    assert first["module_sha256"] == json.loads(GUEST.read_text())["sha256"]
    assert first["model_in_sha256"] != second["model_in_sha256"]
    assert first["data_sha256"] == second["data_sha256"]
    assert not set(DIGESTS) & updates_of(stack, mixed, "site-1")[0]["facts"].keys()


def test_the_site_runs_its_updates_again_and_finds_them_as_they_are_recorded(stack: Stack, mixed: Json, tmp_path: Path) -> None:
    record = tmp_path / "updates.json"
    record.write_text(stack.admin.request("GET", f"/runs/{mixed['id']}/updates").text)
    command = [sys.executable, "-m", "flower_app.verify", "--cache", str(stack.site_folder(0) / "cache")]

    def verify() -> subprocess.CompletedProcess[str]:
        asked = ["--run", mixed["id"], "--record", str(record)]
        return subprocess.run([*command, *asked], capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]})

    told = verify()
    assert told.returncode == 0, told.stderr
    same = "module, model in, data, config, model out: the same, bit for bit, and so recorded"
    assert [line.rpartition(" (")[0] for line in told.stdout.splitlines()] == [f"round 1: {same}", f"round 2: {same}"]
    out = updates_of(stack, mixed, "site-0")[0]["facts"]["model_out_sha256"]
    record.write_text(record.read_text().replace(out, 64 * "0"))
    told = verify()
    assert told.returncode == 1
    assert f"model out is recorded with sha256 {64 * '0'}, and was {out}" in told.stderr


def test_a_site_refuses_a_module_that_it_has_not_allowed_and_the_record_says_which(stack: Stack) -> None:
    module = b"\0asm\1\0\0\0"
    digest = f"sha256:{hashlib.sha256(module).hexdigest()}"
    reference = f"data:application/wasm;base64,{base64.b64encode(module).decode()}"
    run = stack.wait_end(stack.start_run(workload="wasm", wasm_module=reference, num_rounds=1, round_retries=0, min_available=2))
    assert run["status"] == "failed"
    for update in stack.admin.items(f"/runs/{run['id']}/updates"):
        assert update["cause"]["type"] == "ModuleNotAllowed"
        assert digest in update["cause"]["message"]
    assert "ModuleNotAllowed" in json.dumps(run["cause"])
