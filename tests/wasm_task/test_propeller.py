"""The guest for Propeller: its environment may hold anything; it writes one JSON object, or a sentence and an exit code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import wasmtime
from flower_app.workloads.wasm.propeller import data_of, told_of
from flower_app.workloads.wasm.sandbox import run_module
from flower_app.workloads.wasm.task import Limits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.wasm_task.guest import HOW, built, compiled, differ, fitted, task

GIVEN = task()
TOLD = {**told_of(GIVEN), **data_of(GIVEN, Limits())}
MODEL, DATASET = json.loads(TOLD["MODEL_DATA"]), json.loads(TOLD["DATASET_DATA"])


def run(folder: Path, environment: Mapping[str, str], most_bytes: int = 64 << 20) -> tuple[int, str, str]:
    """Run it as a command; give its exit code, stdout and stderr."""
    engine, module = compiled("propeller")
    store, config, linker, code = wasmtime.Store(engine), wasmtime.WasiConfig(), wasmtime.Linker(engine), 0
    store.set_limits(memory_size=most_bytes)
    config.env = list(environment.items())
    config.stdout_file, config.stderr_file = str(folder / "stdout"), str(folder / "stderr")
    store.set_wasi(config)
    linker.define_wasi()
    try:
        start = linker.instantiate(store, module).exports(store)["_start"]
        assert isinstance(start, wasmtime.Func)
        start(store)
    except wasmtime.ExitTrap as ended:
        code = ended.code
    return code, (folder / "stdout").read_text(), (folder / "stderr").read_text(errors="replace")


def fault(folder: Path, **changed: object) -> str:
    """Give the sentence of a run that ends with exit code 2; changed: variables, as JSON where they are no text."""
    told = {name: value if isinstance(value, str) else json.dumps(value) for name, value in changed.items()}
    code, stdout, stderr = run(folder, {**TOLD, **told})
    assert (code, stdout, stderr[-1:]) == (2, "", "\n")
    return stderr[:-1]


def test_it_writes_one_json_object_as_propeller_has_it(tmp_path: Path) -> None:
    odd = dict.fromkeys(("ROUND_ID", "MODEL_URI", "PROPLET_ID"), 'a "name"\\ \n \x01é')
    code, stdout, stderr = run(tmp_path, TOLD | odd)
    assert (code, stderr) == (0, "")
    update = json.loads(stdout)
    assert stdout.count("\n") == 1
    assert list(update) == ["round_id", "proplet_id", "base_model_uri", "num_samples", "metrics", "update"]
    assert {update[name] for name in ("round_id", "proplet_id", "base_model_uri")} == set(odd.values())
    assert update["num_samples"] == 20
    wanted = fitted(GIVEN)
    assert update["metrics"] == pytest.approx({"loss": wanted.loss, "accuracy": wanted.accuracy}, abs=1e-5)
    assert list(update["update"]) == list(GIVEN.arrays)
    arrays = {name: np.array(values).reshape(GIVEN.arrays[name].shape) for name, values in update["update"].items()}
    assert differ(arrays, wanted.arrays) < 1e-5


def test_without_a_round_it_ends_with_code_1(tmp_path: Path) -> None:
    for environment in ({}, TOLD | {"ROUND_ID": ""}, {"XROUND_ID": "1", "ROUND_IDX": "1"}):
        assert run(tmp_path, environment) == (1, "", "ROUND_ID is not set\n")


def test_missing_hyperparameters_take_defaults(tmp_path: Path) -> None:
    defaults = replace(HOW, batch_size=16, lr=0.01, momentum=0.0, seed=0)
    wanted = fitted(replace(GIVEN, hyperparameters=defaults))
    outputs = set()
    for told in ("", "{}", '{"epochs":1}', '{"lr":1e-2,"batch_size":16.0}'):
        _, stdout, _ = run(tmp_path, {**TOLD, "HYPERPARAMS": told})
        outputs.add(stdout)
    (only,) = outputs
    arrays = {name: np.array(values).reshape(GIVEN.arrays[name].shape) for name, values in json.loads(only)["update"].items()}
    assert differ(arrays, wanted.arrays) < 1e-5


def test_what_propeller_need_not_say_may_be_missing(tmp_path: Path) -> None:
    bare = {name: value for name, value in TOLD.items() if name not in ("MODEL_URI", "PROPLET_ID")}
    data = [{"y": each["y"], "note": {"a": [True, None, "é"]}, "x": each["x"]} for each in DATASET["data"]]
    code, stdout, _ = run(tmp_path, {**bare, "DATASET_DATA": json.dumps({"data": data}, indent=1)})
    assert code == 0
    update = json.loads(stdout)
    assert update["proplet_id"] == update["base_model_uri"] == ""
    assert update["update"] == json.loads(run(tmp_path, TOLD)[1])["update"]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"MODEL_DATA": ""}, "MODEL_DATA is not set"),
        ({"DATASET_DATA": ""}, "DATASET_DATA is not set"),
        ({"HYPERPARAMS": "lr=1"}, "the hyperparameters are no JSON object of numbers"),
        ({"HYPERPARAMS": {"lr": -1}}, "lr needs to be a number from 0 to 3.40282347e38, got -1"),
        ({"HYPERPARAMS": {"nesterov": 1}}, "the hyperparameters have a key that is not known: nesterov"),
        ({"MODEL_DATA": "["}, "MODEL_DATA is no JSON object"),
        ({"MODEL_DATA": [1]}, "MODEL_DATA is no JSON object"),
        ({"MODEL_DATA": {"w": 1}}, "MODEL_DATA: array w is no list of numbers"),
        ({"MODEL_DATA": {"w": [[1], [2]]}}, "MODEL_DATA: array w is no list of numbers"),
        ({"MODEL_DATA": {"w": [1, 2]}}, "array w is no .weight and no .bias of a linear layer"),
        ({"MODEL_DATA": {}}, "the model has no layer"),
        ({"MODEL_DATA": MODEL | {"0.weight": [0] * 36}}, "layer 0 has 36 weights, which is no multiple of its 7 biases"),
        ({"MODEL_DATA": MODEL | {"0.weight": []}}, "layer 0 is empty"),
        ({"MODEL_DATA": MODEL | {"0.weight": [0] * 28}}, "an example has 5 features, and layer 0 takes 4"),
        ({"MODEL_DATA": MODEL | {"0.weight": [1e39] * 35}}, "layer 0 arrived with what is no finite number"),
        ({"DATASET_DATA": "{"}, "DATASET_DATA is no JSON object with examples in data"),
        ({"DATASET_DATA": {}}, "there is no example to train on"),
        ({"DATASET_DATA": {"data": {}}}, "DATASET_DATA is no JSON object with examples in data"),
        ({"DATASET_DATA": {"data": [1]}}, "DATASET_DATA is no JSON object with examples in data"),
        ({"DATASET_DATA": DATASET | {"size": 21}}, "DATASET_DATA has 20 examples, and its size is 21"),
        ({"DATASET_DATA": DATASET | {"schema": "v2"}}, "DATASET_DATA has the schema v2, and needs fl-demo-dataset-v1"),
        ({"DATASET_DATA": {"data": [{"x": [1, 2, 3, 4, 5]}]}}, "DATASET_DATA: example 0 has no y"),
        ({"DATASET_DATA": {"data": [{"y": 1}]}}, "DATASET_DATA: example 0 has no x"),
        ({"DATASET_DATA": {"data": [{"x": [], "y": 1}]}}, "DATASET_DATA: x of example 0 is no list of numbers"),
        ({"DATASET_DATA": {"data": [{"x": "1,2", "y": 1}]}}, "DATASET_DATA: x of example 0 is no list of numbers"),
        ({"DATASET_DATA": {"data": [*DATASET["data"], {"x": [1, 2], "y": 1}]}},
         "DATASET_DATA: example 20 has 2 values in x, and the first one 5"),
        ({"DATASET_DATA": {"data": [{"x": [1, 2], "y": 1}, {"x": [1, 2, 3], "y": 1}]}},
         "DATASET_DATA: example 1 has 3 values in x, and the first one 2"),
        ({"DATASET_DATA": {"data": [{"x": [1] * 5, "y": 1.5}]}}, "DATASET_DATA: y of example 0 is no whole number"),
        ({"DATASET_DATA": {"data": [{"x": [1] * 5, "y": 2**31}]}}, "DATASET_DATA: y of example 0 is no whole number"),
        ({"DATASET_DATA": {"data": [{"x": [1] * 5, "y": 3}]}}, "label 3 of example 0 is none of 0 to 2"),
        ({"DATASET_DATA": {"data": [{"x": [1e39] * 5, "y": 1}]}}, "example 0 holds what is no finite number"),
    ],
)  # fmt: skip
def test_bad_input_is_told_with_code_2(tmp_path: Path, changed: Mapping[str, object], sentence: str) -> None:
    assert fault(tmp_path, **changed) == sentence


def test_too_little_memory_is_told(tmp_path: Path) -> None:
    wide = task((5, 2000, 3))
    told = {**told_of(wide), **data_of(wide, Limits())}
    room = (19 << 16) + sum(map(len, told.values())) + 200_000
    assert run(tmp_path, told, room) == (2, "", "there is not enough memory for the network\n")
    assert run(tmp_path, told, room + (2 << 20))[0] == 0


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["HYPERPARAMS", "MODEL_DATA", "DATASET_DATA"]),
    st.integers(0, 2000),
    st.sampled_from([*'0123456789-+.eE"\\[]{},: é']),
    st.integers(0, 3),
)
def test_no_environment_traps(tmp_path: Path, name: str, place: int, other: str, dropped: int) -> None:
    text = TOLD[name]
    place %= len(text)
    code, stdout, stderr = run(tmp_path, {**TOLD, name: text[:place] + other + text[place + dropped :]})
    assert (code, bool(stdout), bool(stderr)) in ((0, True, False), (2, False, True))


def test_numbers_of_any_size_come_back_bit_for_bit() -> None:
    """A fit with lr 0 gives back what it was given: here every exponent that a float32 has, of both signs."""
    random = np.random.default_rng(1)
    bits = (np.arange(255, dtype=np.uint32) << 23 | random.integers(0, 2**23, 255, np.uint32)).repeat(2)
    bits[::2] |= np.uint32(1 << 31)
    values = bits.view(np.float32)
    arrays = {"0.weight": values.reshape(2, 255), "0.bias": np.array([-0.0, 1e-45], np.float32)}
    still = replace(task((255, 2), lr=0.0), arrays=arrays, x=np.zeros((20, 255), np.float32))
    outcome = run_module(built("propeller"), still, Limits(), None)
    assert outcome.arrays["0.weight"].tobytes() == values.tobytes()
    assert outcome.arrays["0.bias"].tobytes() == arrays["0.bias"].tobytes()
