"""Examples of a site's own, from a file that no code reads but ours."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flower_app.config import ConfigError, RunConfig
from flower_app.tensor_file import write_tensors
from flower_app.workloads.data_dirs import DataMissing
from flower_app.workloads.guards import DataUnfit
from flower_app.workloads.tensor_examples import TensorExamples


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ESPALIER_DATA_DIRS", str(tmp_path))
    return tmp_path


def source(dataset: str = "clinic.safetensors", **config: str) -> TensorExamples:
    return TensorExamples(RunConfig.parse({"dataset": dataset, "partitioner": "local", **config}))


def test_a_file_gives_examples_labels_and_groups(folder: Path) -> None:
    x, y, groups = np.ones((6, 3), np.float64), np.arange(6, dtype=np.int32) % 2, np.arange(6) // 2
    write_tensors(folder / "clinic.safetensors", {"x": x, "y": y, "groups": groups}, {})
    examples = source().load(None)
    assert np.array_equal(examples.x, x)
    assert np.array_equal(examples.labels, y)
    assert examples.groups is not None
    assert np.array_equal(examples.groups, groups)
    assert len(source(partitioner="natural").load(None)) == 6


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"x": np.ones((6, 3))}, "has no y: it holds x"),
        ({"y": np.ones(6, int), "z": np.ones(1)}, "has no x: it holds y, z"),
        (
            {"x": np.ones(6), "y": np.ones(6, int)},
            r"x needs to be \(examples, features\) and y \(examples,\); they are \(6,\), \(6,\)",
        ),
        ({"x": np.ones((6, 3)), "y": np.ones(5, int)}, "each has another number of examples: x 6, y 5"),
    ],
)
def test_a_file_without_what_is_needed_says_what(folder: Path, tensors: dict[str, Any], sentence: str) -> None:
    write_tensors(folder / "clinic.safetensors", tensors, {})
    with pytest.raises(DataUnfit, match=sentence):
        source().load(None)


def test_a_file_that_is_none_is_told(folder: Path) -> None:
    with pytest.raises(DataMissing, match=r"there is no clinic.safetensors in .*; put the site's examples there, x and y"):
        source().load(None)
    (folder / "clinic.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(DataUnfit, match=r"clinic.safetensors is no safetensors file that can be read: "):
        source().load(None)


@pytest.mark.parametrize("dataset", ["/etc/x.safetensors", "../x.safetensors"])
def test_a_run_cannot_name_what_lies_elsewhere(dataset: str) -> None:
    with pytest.raises(ConfigError, match="leads out of the data folders"):
        source(dataset)


def test_a_dataset_that_nobody_knows_is_told() -> None:
    with pytest.raises(ConfigError, match=r"dataset 'dgits' is neither one that is built in nor the name of a .safetensors file"):
        source("dgits")


@pytest.mark.parametrize(("dtype", "size_bytes"), [("BF16", 24), ("F8_E4M3", 12), ("C64", 96)])
def test_a_dtype_that_numpy_has_not_is_named_with_its_file(folder: Path, dtype: str, size_bytes: int) -> None:
    told = {"x": {"dtype": dtype, "shape": [4, 3], "data_offsets": [0, size_bytes]}}
    header = json.dumps(told).encode()
    (folder / "clinic.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(size_bytes))
    with pytest.raises(DataUnfit, match=rf"clinic.safetensors is no .*: array x is of dtype {dtype}, and can be one of F64, F32"):
        source().load(None)


def test_a_pipe_or_a_folder_is_no_file(folder: Path) -> None:
    os.mkfifo(folder / "clinic.safetensors")
    (folder / "other.safetensors").mkdir()
    for name in ("clinic", "other"):
        with pytest.raises(DataUnfit, match=rf"{name}.safetensors is no file"):
            source(f"{name}.safetensors").load(None)


def test_a_name_that_is_too_long_is_told(folder: Path) -> None:
    with pytest.raises(DataMissing, match=r"'x{100}' cannot be looked for in .*: File name too long"):
        source("x" * 300 + ".safetensors").load(None)


def test_a_site_without_the_library_is_told_how_to_get_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ConfigError, match=r"needs safetensors: pip install 'espalier\[wasm\]'"):
        source().load(None)
