"""ABI.md is enough: its modules are built by its commands, from nothing but its blocks, and train."""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from flower_app.config import RunConfig
from flower_app.workloads import mlp
from flower_app.workloads.digits import Digits
from flower_app.workloads.partition import Examples
from flower_app.workloads.wasm.abi import config_of
from flower_app.workloads.wasm.faults import TaskFailed
from flower_app.workloads.wasm.sandbox import run_module
from flower_app.workloads.wasm.task import Limits, Task

from tests import go
from tests.wasm_task.guest import HOW, SOURCE, packed, task

PAGE = (SOURCE / "ABI.md").read_text("utf-8")


def built_by_the_page(name: str, folder: Path) -> bytes:
    """Write the page's file of this name, run the command behind it, and give the module."""
    found = re.search(rf"```\w+\n(// {re.escape(name)}\n.*?)```\n\n```sh\n# build\n(.*?)\n```", PAGE, re.DOTALL)
    assert found, f"{name} and its command are not on the page"
    (folder / name).write_text(found[1], "utf-8")
    here = {**go.environment(), "ZIG_GLOBAL_CACHE_DIR": str(folder / "zig")}
    subprocess.run(["/bin/sh", "-c", found[2]], cwd=folder, env=here, check=True)
    return (folder / shlex.split(found[2])[shlex.split(found[2]).index("-o") + 1]).read_bytes()


@pytest.fixture
def digits() -> Task:
    """Give a fit of one layer."""
    examples = Digits(RunConfig.parse({})).load(None)
    x, labels = np.ascontiguousarray(examples.x.reshape(len(examples), -1)), examples.labels.astype(np.int32)
    return replace(task((64, 10), epochs=3), x=x, labels=labels)


def test_the_module_in_c_learns_digits(tmp_path: Path, digits: Task) -> None:
    module = built_by_the_page("guest.c", tmp_path)
    outcome = run_module(module, digits, Limits(), None)
    assert outcome.abi == "fl/1"
    assert 0 < outcome.metrics["mistakes"] < 0.15 * 3 * len(digits.x)
    assert mlp.score(outcome.arrays, Examples(digits.x, digits.labels.astype(np.int64)))["accuracy"] > 0.85
    with pytest.raises(TaskFailed, match=r"^the module says: this trains one linear layer$"):
        run_module(module, task((5, 4, 3)), Limits(), None)
    with pytest.raises(TaskFailed, match=r"^the module says: a label is none of the layer's outputs$"):
        run_module(module, replace(digits, labels=digits.labels + 1), Limits(), None)


@go.needed
@pytest.mark.timeout(600)
def test_the_client_in_go_learns_to_tell_two_classes_apart(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    x = random.normal(size=(200, 5)).astype(np.float32)
    labels = (x @ [2, -1, 0, 0.5, 0] > 0.1).astype(np.int32)
    given = replace(task((5, 1), epochs=5), x=x, labels=labels)
    outcome = run_module(built_by_the_page("client.go", tmp_path), given, Limits(), tmp_path)
    after = mlp.score(outcome.arrays, Examples(x, labels.astype(np.int64)))
    assert outcome.abi == "propeller"
    assert after["accuracy"] > 0.9
    assert after["loss"] < outcome.metrics["loss"] < np.log(2)


def test_the_page_has_each_hyperparameter_and_the_header_that_the_host_writes() -> None:
    assert [name for name in asdict(HOW) if f"`{name}`" not in PAGE] == []
    assert config_of(HOW).startswith(b'{"batch_size":')
    header = packed({"0.weight": np.zeros((32, 64), np.float32), "0.bias": np.zeros(32, np.float32)})[8:]
    assert header.split(b"}}")[0].decode() + "}" in PAGE
