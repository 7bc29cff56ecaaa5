"""What Go builds for wasip1, as Propeller's clients are built, trains here as it is."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flower_app.workloads.wasm.faults import TaskFailed, TaskTrap
from flower_app.workloads.wasm.sandbox import run_module
from flower_app.workloads.wasm.task import Limits, Task

from tests import go
from tests.flower_app.wasm.guests import task

SOURCE = Path(__file__).with_name("go_client")
BUILDS = {"command": (), "reactor": ("-buildmode=c-shared",)}

pytestmark = [
    go.needed,
    pytest.mark.timeout(600),  # the standard library is built too: 60 CPU-s
]


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Have the compiled modules kept, for it takes seconds to compile 3 MB of Go's code."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Build the client in both forms, without a network."""
    folder = tmp_path_factory.mktemp("go")
    environment = {**go.environment(), "GOOS": "wasip1", "GOARCH": "wasm"}
    for name, how in BUILDS.items():
        command = [str(go.GO), "build", *how, "-ldflags=-s -w", "-o", str(folder / name), "."]
        subprocess.run(command, cwd=SOURCE, env=environment, check=True)
    return {name: (folder / name).read_bytes() for name in BUILDS}


@pytest.fixture
def given() -> Task:
    """Give a task of logistic regression."""
    random = np.random.default_rng(3)
    x = random.normal(size=(200, 5)).astype(np.float32)
    labels = (x @ [2, -1, 0, 0.5, 0] > 0.1).astype(np.int32)
    return replace(task(w=np.zeros(5, np.float32), b=np.zeros((), np.float32)), x=x, labels=labels)


def expected(given: Task) -> tuple[np.ndarray, float]:
    """Train the same in numpy."""
    how, w, b = given.hyperparameters, np.zeros(5), 0.0
    for _ in range(how.epochs):
        for start in range(0, len(given.x), how.batch_size):
            x, y = given.x[start : start + how.batch_size].astype(float), given.labels[start : start + how.batch_size]
            off = (1 / (1 + np.exp(-(x @ w + b))) - y) / len(x)
            w, b = w - how.lr * (off @ x), b - how.lr * off.sum()
    return w, b


@pytest.mark.parametrize("build", BUILDS)
def test_a_client_in_go_trains_the_model(builds: dict[str, bytes], build: str, given: Task, cache_dir: Path) -> None:
    outcome = run_module(builds[build], given, Limits(wall_s=60), cache_dir)
    w, b = expected(given)
    assert outcome.abi == "propeller"
    assert np.allclose(outcome.arrays["w"], w, rtol=1e-6)
    assert np.allclose(outcome.arrays["b"], b, rtol=1e-6)
    assert outcome.metrics["loss"] < 0.5 < np.log(2)


@pytest.mark.parametrize("build", BUILDS)
def test_what_a_client_in_go_says_of_its_failure_is_told(
    builds: dict[str, bytes], build: str, given: Task, cache_dir: Path
) -> None:
    with pytest.raises(TaskFailed, match=r"^the module ended with exit code 1; on stderr: MODEL_DATA: json: cannot unmarshal"):
        run_module(builds[build], replace(given, arrays={"w": np.array(1, np.float32)}), Limits(wall_s=60), cache_dir)


@pytest.mark.parametrize("build", BUILDS)
def test_a_client_in_go_that_has_no_room_says_so(builds: dict[str, bytes], build: str, given: Task, cache_dir: Path) -> None:
    much = replace(given, x=np.tile(given.x, (50, 1)), labels=np.tile(given.labels, 50))
    with pytest.raises((TaskTrap, TaskFailed), match=r"; on stderr: .*(out of memory|cannot allocate memory)"):
        run_module(builds[build], much, Limits(memory_bytes=8 << 20, wall_s=60), cache_dir)
