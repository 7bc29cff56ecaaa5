"""Digits and lora-text on a GPU: that they learn there, what they say of it, and that one process at a time has it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from flower_app.config import RunConfig
from flower_app.workloads import make_workload, settled
from flower_app.workloads.data_dirs import DataMissing
from flower_app.workloads.devices import turn_at
from flower_app.workloads.memory import OutOfMemory
from flower_app.workloads.partition import Examples
from flower_app.workloads.training import train

from tests.flower_app.tiny_models import rated_sentences, tiny_bert

if TYPE_CHECKING:
    from tests.flower_app.conftest import MakeEnv, MakeFederation

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

DEVICE = "cuda"
DIGITS: dict[str, Any] = {"workload": "digits", "partitioner": "iid", "device": DEVICE}
LORA: dict[str, Any] = {
    "workload": "lora-text", "base-model": "tiny-bert", "lora-r": 4, "lora-alpha": 8.0, "num-layers": 2, "lr": 0.02,
    "local-steps": 30, "device": DEVICE,
}  # fmt: skip
RUNS = pytest.mark.parametrize("run", [DIGITS, LORA], ids=["digits", "lora-text"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    tiny_bert(folder / "tiny-bert")
    rated_sentences(folder / "vader-sentiment")
    return folder


@pytest.fixture
def data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPALIER_DATA_DIRS", str(folder))


def workload(run: dict[str, Any], **config: Any) -> Any:
    return make_workload(settled(RunConfig.parse(run | {key.replace("_", "-"): value for key, value in config.items()})))


def half() -> str:
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def distance(one: dict[str, Any], other: dict[str, Any]) -> float:
    return float(np.sqrt(sum(np.square(one[name] - other[name]).sum() for name in one)))


@RUNS
@pytest.mark.usefixtures("data")
def test_a_federation_learns_on_the_gpu_and_its_record_says_so(make_federation: MakeFederation, run: dict[str, Any]) -> None:
    config = {key.replace("-", "_"): value for key, value in run.items()}
    federation = make_federation(**config, num_rounds=10 if run is DIGITS else 3, min_available=4)
    federation.grid.add(104)
    for node in federation.grid.nodes.values():
        node.config["num-partitions"] = 4
    federation.run()
    assert federation.read("history.json")[-1]["accuracy"] > 0.8
    for update in federation.journal("update"):
        facts = update["facts"]
        assert facts["device"] == f"cuda ({torch.cuda.get_device_name()})"
        assert facts["precision"] == half()
        assert 0 < facts["fit_vram_start_bytes"] <= facts["fit_vram_bytes"] <= facts["fit_vram_peak_bytes"]
        assert facts["fit_vram_peak_bytes"] < 10**9
    assert torch.cuda.memory_allocated() < 10**8, "models have left the GPU, but for what cuBLAS and cuDNN keep"


@RUNS
@pytest.mark.usefixtures("data")
def test_what_comes_back_is_float32_on_the_cpu_and_near_to_what_a_cpu_trains(run: dict[str, Any], make_env: MakeEnv) -> None:
    start = workload(run).initial_arrays()
    trained = {
        (device, amp): workload(run, amp=amp, local_steps=5).train(start, {"proximal-mu": 0.1}, make_env(device=device)).arrays
        for device, amp in (("cpu", "off"), (DEVICE, "off"), (DEVICE, "auto"))
    }
    plain = trained["cpu", "off"]
    for arrays in trained.values():
        assert list(arrays) == list(start)
        assert all(isinstance(values, np.ndarray) and values.dtype == start[name].dtype for name, values in arrays.items())
        assert all(values.flags.c_contiguous and values.shape == start[name].shape for name, values in arrays.items())
    assert distance(trained[DEVICE, "off"], plain) < 0.1 * distance(plain, start), "the same batches, but for TensorFloat-32"
    assert distance(trained[DEVICE, "auto"], plain) < 0.3 * distance(plain, start)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_either_half_precision_learns_with_either_optimizer(
    dtype: torch.dtype, optimizer: str, make_env: MakeEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flower_app.workloads.precision.half_type", lambda device: dtype)
    digits, env = workload(DIGITS, optimizer=optimizer, lr=0.05 if optimizer == "sgd" else 0.003), make_env(device=DEVICE)
    start = digits.initial_arrays()
    trained = digits.train(start, {"proximal-mu": 0.01}, env)
    assert trained.facts["precision"] == str(dtype).removeprefix("torch.")
    assert (
        digits.evaluate(trained.arrays, {}, env).metrics["accuracy"] > digits.evaluate(start, {}, env).metrics["accuracy"] + 0.3
    )


def test_images_as_large_as_fashions_are_trained_there_with_channels_last(make_env: MakeEnv) -> None:
    seen = []

    class Watched(torch.nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append((x.device.type, x.is_contiguous(memory_format=torch.channels_last)))
            return super().forward(x).mean((2, 3))

    examples = Examples(np.ones((8, 3, 28, 28), np.float32), np.arange(8) % 2)
    config = workload(DIGITS, local_steps=1).config
    assert train(Watched(3, 2, 3), examples, config, {}, make_env(device=DEVICE)).arrays["weight"].flags.c_contiguous
    assert seen == [(DEVICE, True)]


def test_a_batch_that_cannot_fit_is_told_with_the_knobs_of_a_gpu_and_the_next_one_fits(make_env: MakeEnv) -> None:
    wide = torch.nn.Sequential(torch.nn.Linear(6, 8192), torch.nn.Tanh(), torch.nn.Linear(8192, 2))
    examples = Examples(np.ones((2**16, 6), np.float32), np.arange(2**16) % 2)
    whole = torch.cuda.get_device_properties(DEVICE).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**29) / whole)
    try:
        told = r"cuda out of memory: .* Lower batch-size, .*amp = auto halves .* device = cpu needs no GPU"
        with pytest.raises(OutOfMemory, match=told):
            train(wide, examples, workload(DIGITS, batch_size=2**16).config, {}, make_env(device=DEVICE))
        fitting = workload(DIGITS, batch_size=2**8, local_steps=2).config
        assert train(wide, examples, fitting, {}, make_env(device=DEVICE)).facts["steps"] == 2
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_two_processes_take_turns() -> None:
    source = f"""
from flower_app.config import RunConfig
from flower_app.workloads import make_workload, settled
from flower_app.workloads.interface import NodeEnv
digits = make_workload(settled(RunConfig.parse({DIGITS!r} | {{"local-steps": 2}})))
print(digits.train(digits.initial_arrays(), {{}}, NodeEnv("b", 0, 3, 1, 5, 1, {DEVICE!r}, None)).facts["waited_for_device_s"])
"""
    with turn_at(torch.device(DEVICE)) as waited_s, turn_at(torch.device(DEVICE)) as again_s:
        assert waited_s == again_s < 1, "a turn within a turn is the same"
        other = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)
        assert other.stdout
        assert other.stdout.readline().startswith("waiting for cuda-")
    told, _ = other.communicate(timeout=60)
    assert float(told) > 0


def test_a_fork_of_a_process_that_has_looked_for_a_gpu_can_use_it() -> None:
    source = f"""
import os, torch, transformers, peft
assert torch.cuda.is_available() and not torch.cuda.is_initialized()
if os.fork() == 0:
    assert torch.ones(3, device={DEVICE!r}).sum().item() == 3
    print("the fork has used it", flush=True)
else:
    os.wait()
"""
    environment = {**os.environ, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}  # as the warm server has it
    done = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "the fork has used it\n", done.stderr


def test_minilm_learns_a_domain_on_the_gpu(make_env: MakeEnv) -> None:
    real = workload({"workload": "lora-text", "device": DEVICE})
    try:
        real.prepare(make_env(num_partitions=4))
    except DataMissing as missing:
        pytest.skip(f"lora-text's data are not here: {missing}")
    env, start = make_env(num_partitions=4, device=DEVICE), real.initial_arrays()
    trained = real.train(start, {}, env)
    assert trained.facts["precision"] == half()
    assert real.evaluate(trained.arrays, {}, env).metrics["loss"] < real.evaluate(start, {}, env).metrics["loss"]
