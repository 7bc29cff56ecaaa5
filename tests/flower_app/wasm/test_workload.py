"""`wasm`: one model, trained in the sandbox at some sites and in PyTorch at others, with digests that say what was computed."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from flower_app.config import ConfigError, RunConfig
from flower_app.tensor_file import write_tensors
from flower_app.wire import digest
from flower_app.workloads import make_workload
from flower_app.workloads.guards import DataUnfit
from flower_app.workloads.wasm.faults import TaskMemory, TaskTimeout
from flower_app.workloads.wasm.receipts import Digests
from flower_app.workloads.wasm.workload import Wasm, _work

if TYPE_CHECKING:
    from tests.flower_app.conftest import MakeEnv, MakeFederation

pytestmark = pytest.mark.usefixtures("one_thread")
NODES = (101, 102, 103)
DIGESTS = [each.name for each in fields(Digests)]
NOISE = 0.02
"""Of 360 test examples 7; other seeds alone move it by as much."""


def workload(**config: Any) -> Wasm:
    return Wasm(RunConfig.parse({key.replace("_", "-"): value for key, value in config.items()}))


def test_all_runtimes_and_a_mix_of_them_reach_the_same_accuracy(make_federation: MakeFederation) -> None:
    reached: dict[str, float] = {}
    for name, on_torch in {"wasm": (), "torch": NODES, "mixed": NODES[2:]}.items():
        federation = make_federation(name=name, workload="wasm", num_rounds=6, partitioner="iid")
        for node in on_torch:
            federation.grid.nodes[node].config["runtime"] = "torch"
        federation.run()
        reached[name] = federation.journal("round.closed")[-1]["server_metrics"]["accuracy"]
        runtimes = [update["facts"]["runtime"] for update in federation.journal("update")][-3:]
        assert sorted(runtimes) == sorted("torch" if node in on_torch else "wasm" for node in NODES)
    assert min(reached.values()) > 0.93
    assert max(reached.values()) - min(reached.values()) <= NOISE, reached


def test_an_update_says_of_what_and_by_which_module_it_was_computed(make_env: MakeEnv) -> None:
    wasm = workload(local_epochs=1)
    arrays, env = wasm.initial_arrays(), make_env()
    trained = wasm.train(arrays, {}, env)
    kept, _ = wasm.own_examples(env)
    assert trained.facts["model_in_sha256"] == digest(arrays)
    assert trained.facts["model_out_sha256"] == digest(trained.arrays)
    assert trained.facts["data_sha256"] == digest({"x": kept.x, "y": kept.labels.astype(np.int32)})
    assert trained.facts["runtime"] == "wasm"
    assert trained.facts["abi"] == "fl/1"
    assert trained.num_examples == len(kept)
    assert {"loss", "accuracy", "examples_per_s", "step_s"} <= set(trained.metrics)
    again = wasm.train(arrays, {}, make_env(node_name="elsewhere"))
    assert [again.facts[name] for name in DIGESTS] == [trained.facts[name] for name in DIGESTS]
    other = wasm.train(arrays, {}, make_env(seed=6))
    changed = [name for name in DIGESTS if other.facts[name] != trained.facts[name]]
    assert changed == ["config_sha256", "model_out_sha256"]


def test_fedprox_holds_the_model_near_the_one_that_arrived(make_env: MakeEnv) -> None:
    wasm = workload()
    arrays = wasm.initial_arrays()
    free, held = (wasm.train(arrays, {"proximal-mu": mu}, make_env()).arrays for mu in (0.0, 10.0))
    moved = [sum(float(np.square(after[name] - arrays[name]).sum()) for name in arrays) for after in (free, held)]
    assert moved[1] < moved[0] / 4


def test_a_site_may_give_less_than_the_run_asks_for(make_env: MakeEnv) -> None:
    wasm = workload(dataset="tabular", local_epochs=1_000_000)
    with pytest.raises(TaskTimeout):
        wasm.train(wasm.initial_arrays(), {}, make_env(node_config={"wasm-timeout-s": 0.05}))
    with pytest.raises(TaskMemory):
        wasm.train(wasm.initial_arrays(), {}, make_env(node_config={"wasm-memory-mb": 0.1}))
    for value in (0, -1, "much", True):
        with pytest.raises(ConfigError, match='wasm-timeout-s of node "a" needs to be a number above 0, got'):
            wasm.train(wasm.initial_arrays(), {}, make_env(node_config={"wasm-timeout-s": value}))
    with pytest.raises(ConfigError, match="runtime of node \"a\" needs to be wasm or torch, got 'jax'"):
        wasm.train(wasm.initial_arrays(), {}, make_env(node_config={"runtime": "jax"}))


def test_a_site_without_torch_is_told_what_its_runtime_needs(make_env: MakeEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    wasm, env = workload(), make_env(node_config={"runtime": "torch"})
    for work in (lambda: wasm.prepare(env), lambda: wasm.train(wasm.initial_arrays(), {}, env)):
        with pytest.raises(ConfigError, match=r"""runtime "torch" of node "a" needs torch: pip install 'espalier\[train\]'"""):
            work()


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            {"local_seconds": 2.0},
            "local-seconds 2.0 is more than a module in the sandbox can keep to; it has no clock: say local-ep",
        ),
        ({"optimizer": "adamw"}, "optimizer 'adamw' is more than a module in the sandbox can keep to; it needs to be 'sgd'"),
        ({"lr_schedule": "cosine"}, "lr-schedule 'cosine' is more than"),
        ({"warmup_share": 0.1}, "warmup-share 0.1 is more than"),
        ({"dataset": "clinic.safetensors"}, "layers is empty: a dataset of your own needs features, hidden sizes and classes"),
        ({"layers": "64"}, "layers needs features"),
        ({"layers": "63-10"}, 'layers "63-10" does not fit digits: it needs to begin with 64 and end with 10 or more'),
        ({"layers": "64-9"}, 'layers "64-9" does not fit digits'),
        ({"dataset": "tabular", "layers": "30-1"}, "logistic regression: wasm-module needs to name a module for it"),
        ({"dataset": "nothing", "layers": "4-2"}, "dataset 'nothing' is neither one that is built in"),
        ({"partitioner": "natural"}, "the data of digits have none"),
    ],
)
def test_what_a_run_asks_for_in_vain_is_refused(config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        workload(**config)


@pytest.mark.parametrize("key", ["layers", "wasm-module", "wasm-memory-mb"])
def test_other_workloads_refuse_its_keys(key: str) -> None:
    value: Any = {"layers": "64-10", "wasm-module": "x", "wasm-memory-mb": 5}[key]
    with pytest.raises(ConfigError, match=f"{key} is a key of wasm; workload digits does not read it"):
        make_workload(RunConfig.parse({key: value}))


def test_a_site_trains_on_a_file_of_its_own(make_env: MakeEnv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPALIER_DATA_DIRS", str(tmp_path))
    x = np.random.default_rng(1).normal(size=(200, 3))
    write_tensors(tmp_path / "clinic.safetensors", {"x": x, "y": (x.sum(1) > 0).astype(np.int64)}, {})
    wasm = workload(dataset="clinic.safetensors", layers="3-8-2", partitioner="local")
    arrays = wasm.initial_arrays()
    trained = wasm.train(arrays, {}, make_env())
    assert wasm.server_evaluate(arrays) == {}
    before, after = (wasm.evaluate(each, {}, make_env()).metrics["accuracy"] for each in (arrays, trained.arrays))
    assert after > max(before, 0.9)
    with pytest.raises(DataUnfit, match=r'node "a": an example has the shape \(3,\), and layers begins with 4'):
        workload(dataset="clinic.safetensors", layers="4-2", partitioner="local").evaluate(arrays, {}, make_env())


def test_depths_and_other_built_in_examples_train(make_env: MakeEnv) -> None:
    for config in ({"layers": "64-10"}, {"layers": "64-24-16-12-10"}, {"dataset": "tabular"}):
        wasm = workload(local_epochs=20, **config)
        arrays = wasm.initial_arrays()
        trained = wasm.train(arrays, {}, make_env())
        before, after = (wasm.server_evaluate(each)["loss"] for each in (arrays, trained.arrays))
        assert after < before
        assert wasm.quick_evaluate(arrays, 20).keys() == wasm.server_evaluate(arrays).keys()


def test_a_site_that_holds_nothing_back_trains_and_scores_nothing(make_env: MakeEnv) -> None:
    wasm = workload(eval_share=0.0)
    trained = wasm.train(wasm.initial_arrays(), {}, make_env())
    assert trained.num_examples > 300
    scored = wasm.evaluate(trained.arrays, {}, make_env())
    assert (scored.num_examples, scored.metrics) == (0, {})


def test_a_test_set_that_does_not_fit_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPALIER_DATA_DIRS", str(tmp_path))
    write_tensors(tmp_path / "clinic.safetensors", {"x": np.ones((50, 3)), "y": np.arange(50) % 3}, {})
    wasm = workload(dataset="clinic.safetensors", layers="3-2")
    with pytest.raises(DataUnfit, match="the test set: label 2 needs 3 outputs, and the model has 2"):
        wasm.server_evaluate(wasm.initial_arrays())


@pytest.mark.parametrize(
    ("budget", "worked"), [((2, 0), (14, 200)), ((2, 3), (3, 48)), ((0, 8), (8, 116)), ((1, 7), (7, 100)), ((0, 3), (3, 48))]
)
def test_a_fits_steps_and_examples_are_counted_by_the_host(budget: tuple[int, int], worked: tuple[int, int]) -> None:
    config = workload(local_epochs=budget[0], local_steps=budget[1], batch_size=16)
    assert _work(100, config.hyperparameters(0.0, 1)) == worked


def test_a_coordinator_needs_neither_torch_nor_wasmtime() -> None:
    code = """
import sys
from flower_app.config import RunConfig
from flower_app.workloads import make_workload
workload = make_workload(RunConfig.parse({"workload": "wasm"}))
print(workload.server_evaluate(workload.initial_arrays())["accuracy"])
assert not {"torch", "wasmtime"} & sys.modules.keys(), sorted(sys.modules)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert 0 <= float(told.stdout) < 0.4


def test_a_module_in_the_run_config_is_the_same_module(make_env: MakeEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    import base64
    import json

    from flower_app.workloads.wasm import workload as package

    guest = json.loads((Path(package.__file__).parent / "task.wasm.json").read_text())
    sha256 = hashlib.sha256(base64.b64decode(guest["wasm"])).hexdigest()
    monkeypatch.setenv("ESPALIER_WASM_MODULES", f"sha256:{sha256}")
    ours, theirs = workload(local_epochs=1), workload(local_epochs=1, wasm_module=f"data:application/wasm;base64,{guest['wasm']}")
    facts = [each.train(each.initial_arrays(), {}, make_env()).facts for each in (ours, theirs)]
    assert [facts[0][name] for name in DIGESTS] == [facts[1][name] for name in DIGESTS]
    assert facts[0]["module_sha256"] == sha256
