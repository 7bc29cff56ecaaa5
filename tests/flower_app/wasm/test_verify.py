"""A site runs its updates again; what is not the same, bit for bit, gets a sentence and exit code 1."""

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wasmtime
from flower_app.config import RunConfig
from flower_app.tensor_file import write_tensors
from flower_app.verify import main
from flower_app.workloads.interface import NodeEnv, TrainResult
from flower_app.workloads.wasm import kept
from flower_app.workloads.wasm.receipts import find_receipts
from flower_app.workloads.wasm.workload import Wasm

RUN = "4d5e"
HALVES = r"""(module (memory (export "memory") 4) (global $free (mut i32) (i32.const 64))
  (data (i32.const 0) "{\"steps\": 1, \"metrics\": {\"loss\": 0.5}}")
  (func (export "fl_abi") (result i32) i32.const 1)
  (func (export "fl_alloc") (param $size i32) (result i32)
    global.get $free
    (global.set $free (i32.and (i32.add (i32.add (global.get $free) (local.get $size)) (i32.const 7)) (i32.const -8))))
  (func (export "fl_train") (param i32 i32) (param $model i32) (param $size i32) (param i32 i32) (result i64) (local $at i32)
    (local.set $at (i32.add (i32.add (local.get $model) (i32.const 8)) (i32.load (local.get $model))))
    (loop $next
      (f32.store (local.get $at) (f32.mul (f32.load (local.get $at)) (f32.const 0.5)))
      (local.set $at (i32.add (local.get $at) (i32.const 4)))
      (br_if $next (i32.lt_u (local.get $at) (i32.add (local.get $model) (local.get $size)))))
    i64.const 38))"""
"""A module of fl/1 that halves each weight; its report is at 0."""
SAME = "module, model in, data, config, model out: the same, bit for bit"
MODULE = bytes(wasmtime.wat2wasm(HALVES))
SHA256 = hashlib.sha256(MODULE).hexdigest()
Train = Callable[..., TrainResult]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site's folder below ESPALIER_HOME, with examples of its own."""
    folder = tmp_path / "home/sites/north"
    monkeypatch.setenv("ESPALIER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ESPALIER_DATA_DIRS", str(folder / "data"))
    write_examples(folder)
    (folder / "data/halves.wasm").write_bytes(MODULE)
    monkeypatch.setenv("ESPALIER_WASM_MODULES", SHA256)
    return folder


@pytest.fixture
def train(site: Path) -> Train:
    def train(round: int = 1, run_id: str = RUN) -> TrainResult:
        config = {"workload": "wasm", "dataset": "clinic.safetensors", "layers": "3-4-2", "partitioner": "local"}
        workload = Wasm(RunConfig.parse({**config, "wasm-module": f"file:halves.wasm@sha256:{SHA256}"}))
        env = NodeEnv("Klinik Süd", 0, 1, round, 5 + round, 1, "cpu", site / "cache", run_id=run_id)
        return workload.train(workload.initial_arrays(), {}, env)

    return train


def write_examples(site: Path, of: int = 0) -> None:
    x = np.random.default_rng(of).standard_normal((40, 3), np.float32)
    write_tensors(site / "data/clinic.safetensors", {"x": x, "y": (x[:, 0] > 0).astype(np.int32)}, {})


def page(trained: TrainResult, round: int = 1, run_id: str = RUN, **facts: Any) -> dict[str, Any]:
    """Give an update as the admin server lists it."""
    told = {**trained.facts, "node_name": "Klinik Süd", "partition_id": 0, **facts}
    failed = {"run_id": run_id, "round": round, "kind": "train", "facts": {}, "cause": {"type": "TaskTimeout"}}
    return {"items": [failed, {"run_id": run_id, "round": round, "kind": "train", "facts": told}], "next": None}


def change(receipt: Path, changes: Mapping[str, Any]) -> None:
    receipt.write_text(json.dumps({**json.loads(receipt.read_text()), **changes}))


def test_the_newest_update_is_the_same_bit_for_bit(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    train(1)
    train(2)
    assert main(["--site", "north"]) == 0
    assert capsys.readouterr().out.startswith(f"round 2: {SAME} (")


def test_all_rounds_of_a_run_are_run_again_in_their_order(train: Train, site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for age, (run_id, round_) in enumerate([(RUN, 1), (RUN, 2), ("other", 1)]):
        train(round_, run_id)
        os.utime(find_receipts(site / "cache", run_id, round_)[0], (age, age))
    assert main(["--cache", str(site / "cache"), "--run", RUN]) == 0
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == ["round 1", "round 2"]
    assert main(["--site", "north", "--run", RUN, "--round", "1"]) == 0
    assert main(["--site", "north", "--round", "2"]) == 1
    told = capsys.readouterr()
    assert told.out.startswith("round 1: ")
    assert "holds no update of round 2" in told.err


def test_other_data_are_told_before_anything_runs(train: Train, site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    then = train().facts["data_sha256"]
    write_examples(site, of=1)
    assert main(["--site", "north"]) == 1
    told = capsys.readouterr()
    assert told.err.startswith(f"round 1: the site's data are not those of the update: sha256 {then} then, ")
    assert told.out == ""


@pytest.mark.parametrize(("name", "part"), [("config_sha256", "config"), ("model_out_sha256", "model out")])
def test_another_result_is_told_by_its_part(
    train: Train, site: Path, capsys: pytest.CaptureFixture[str], name: str, part: str
) -> None:
    now = train().facts[name]
    (receipt,) = find_receipts(site / "cache")
    change(receipt, {"digests": {**json.loads(receipt.read_text())["digests"], name: "0" * 64}, "wasmtime": "49.0.0"})
    assert main(["--site", "north"]) == 1
    assert f"round 1: {part} is sha256 {now}, and was {'0' * 64} (wasmtime 49.0.0 then, " in capsys.readouterr().err


def test_another_model_than_the_one_that_arrived_is_told(train: Train, site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train()
    (receipt,) = find_receipts(site / "cache")
    workload = Wasm(RunConfig.parse({"dataset": "clinic.safetensors", "layers": "3-4-2", "partitioner": "local", "seed": 9}))
    write_tensors(receipt.with_suffix(".safetensors"), workload.initial_arrays(), {})
    assert main(["--site", "north"]) == 1
    assert "round 1: model in is sha256 " in capsys.readouterr().err


def test_a_module_that_is_gone_or_changed_is_told(train: Train, site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train()
    (site / "cache" / kept.FOLDER / f"{SHA256}.wasm").write_bytes(b"another")
    assert main(["--site", "north"]) == 1
    assert capsys.readouterr().err == f"round 1: module sha256:{SHA256} is not kept any more\n"


def test_data_that_are_gone_are_told_and_the_other_updates_run(
    train: Train, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(1)
    train(2)
    (first,) = find_receipts(site / "cache", RUN, 1)
    change(first, {"run_config": {**json.loads(first.read_text())["run_config"], "dataset": "gone.safetensors"}})
    assert main(["--site", "north", "--run", RUN]) == 1
    told = capsys.readouterr()
    assert told.err.startswith("round 1: there is no gone.safetensors in ")
    assert told.out.startswith(f"round 2: {SAME}")


@pytest.mark.parametrize(
    ("part", "name", "value", "sentence"),
    [
        ("", "run_config", 5, "run_config needs to be an object of texts, numbers, true and false, and is 5"),
        ("", "run_config", {"layers": [3]}, "run_config needs to be an object of texts, numbers"),
        ("", "run_config", {}, "workload digits trains in no sandbox"),
        ("", "run_config", {"workload": "wasm", "lr": "high"}, "lr needs a number, got 'high'"),
        ("", "partition_id", 99, "partition_id 99 is not below num_partitions 1"),
        ("", "partition_id", -1, "partition_id needs to lie from 0 to below 2**53, and is -1"),
        ("", "num_partitions", 2**60, "num_partitions needs to lie from 0 to below 2**53"),
        ("", "node_name", None, "node_name needs to be a text, and is None"),
        ("", "round", True, "round needs to be a whole number, and is True"),
        ("", "limits", [], "limits needs to be an object of memory_bytes, wall_s, "),
        ("", "more", 1, "receipt needs to be an object of run_id, round, "),
        ("limits", "memory_bytes", "much", "memory_bytes needs to be a whole number, and is 'much'"),
        ("limits", "wall_s", float("nan"), "wall_s needs to lie from 0 to below 2**53, and is nan"),
        ("limits", "wall_s", 0, "wall_s needs to be above 0, and is 0"),
        ("hyperparameters", "seed", "5", "seed needs to be a whole number, and is '5'"),
        ("hyperparameters", "batch_size", 0, "batch_size needs to be above 0, and is 0"),
        (
            "digests",
            "module_sha256",
            "../../data/halves",
            "module_sha256 needs to be 64 digits 0-9a-f, and is '../../data/halves'",
        ),
    ],
)
def test_a_receipt_that_no_update_has_gets_one_line(
    train: Train, site: Path, capsys: pytest.CaptureFixture[str], part: str, name: str, value: Any, sentence: str
) -> None:
    train()
    (receipt,) = find_receipts(site / "cache")
    changes = {name: value}
    change(receipt, {part: {**json.loads(receipt.read_text())[part], **changes}} if part else changes)
    assert main(["--site", "north"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("round 1: ")
    assert sentence in line
    assert (site / "data/halves.wasm").exists()


def test_a_receipt_without_end_gets_one_line(train: Train, site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train()
    find_receipts(site / "cache")[0].write_text("[" * 100_000)
    assert main(["--site", "north"]) == 1
    assert "is no whole receipt: maximum recursion depth" in capsys.readouterr().err


def test_a_site_without_safetensors_is_told_how_to_get_it(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train()
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert main(["--site", "north"]) == 1
    assert capsys.readouterr().err.endswith("needs safetensors: pip install 'espalier[wasm]'\n")


def test_a_site_without_updates_is_told(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--site", "north"]) == 1
    assert capsys.readouterr().err.startswith(
        f"verify: {site / 'cache'} holds no update: a site keeps its last ones of workload wasm"
    )
    assert main(["--site", "north", "--run", RUN, "--round", "3"]) == 1
    assert f"holds no update of run {RUN} of round 3" in capsys.readouterr().err


def test_the_coordinators_record_says_the_same(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "updates.json"
    record.write_text(json.dumps(page(train())))
    assert main(["--site", "north", "--record", str(record)]) == 0
    assert f"{SAME}, and so recorded (" in capsys.readouterr().out
    with io.TextIOWrapper(io.BytesIO(record.read_bytes())) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert main(["--site", "north", "--record", "-"]) == 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_out_sha256": "0" * 64}, f"round 1: model out is recorded with sha256 {'0' * 64}, and was "),
        ({"node_name": "Klinik Nord"}, "round 1: the record has no update of node Klinik Süd in round 1 of run 4d5e; GET /runs/"),
        ({"partition_id": 1}, "round 1: the record has no update of node"),
        ({"round": 2}, "round 1: the record has no update of node"),
        ({"run_id": "other"}, "round 1: the record has no update of node"),
    ],
)
def test_another_record_is_told(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], sentence: str
) -> None:
    (tmp_path / "updates.json").write_text(json.dumps(page(train(), **changes)))
    assert main(["--site", "north", "--record", str(tmp_path / "updates.json")]) == 1
    told = capsys.readouterr()
    assert sentence in told.err
    assert told.out == ""


@pytest.mark.parametrize(
    "content", ["", "[]", "[" * 100_000, '{"items": [3]}', '{"items": [{"round": 1}]}', '{"detail": "There is no such run."}']
)
def test_what_is_no_record_is_told(site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    (tmp_path / "updates.json").write_text(content)
    assert main(["--site", "north", "--record", str(tmp_path / "updates.json")]) == 1
    assert "updates.json is no answer of GET /runs/{id}/updates" in capsys.readouterr().err
    assert main(["--site", "north", "--record", str(tmp_path / "nowhere.json")]) == 1


def test_the_command_finds_a_sites_data_where_its_client_server_does(train: Train, site: Path) -> None:
    train()
    told = {name: value for name, value in os.environ.items() if name != "ESPALIER_DATA_DIRS"}
    command = [sys.executable, "-P", "-m", "flower_app.verify", "--site", "north"]
    done = subprocess.run(command, env=told, cwd="/", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    elsewhere = subprocess.run(
        command, env={**told, "DATA_DIRS": str(site)}, cwd="/", capture_output=True, text=True, check=False
    )
    assert f"there is no clinic.safetensors in {site}" in elsewhere.stderr
