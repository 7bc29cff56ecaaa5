"""Modules for Propeller: the task in the environment, one JSON update on stdout, and nothing else of the host."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from flower_app.workloads.wasm.compiler import compiled
from flower_app.workloads.wasm.faults import BadUpdate, OutputFlood, TaskFailed, TaskFault, TaskMemory, TaskTimeout
from flower_app.workloads.wasm.instance import running
from flower_app.workloads.wasm.propeller import data_of, told_of, update_of
from flower_app.workloads.wasm.sandbox import run_module
from flower_app.workloads.wasm.task import Limits, Outcome, Task
from flower_app.workloads.wasm.wasi import KEPT_STDERR_BYTES, HostCalls
from hypothesis import given, settings

from tests.flower_app.wasm.guests import BRIEF, SMALL, anything, data, exits, says, task, wasi

LOGISTIC = {"w": np.array([0.1, -2.5, 3e-8, 1e30], np.float32), "b": np.array(0.25, np.float32)}
ENVIRONMENT = (
    "(drop (call $environ_sizes_get (i32.const 0) (i32.const 4))) (drop (call $environ_get (i32.const 1024) (i32.const 4096)))"
)
WRITE_ENVIRONMENT = "(i32.store (i32.const 8) (i32.const 4096)) (i32.store (i32.const 12) (i32.load (i32.const 4)))"
FLUSH = "(drop (call $fd_write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 64)))"


def run(module: bytes, given: Task | None = None, limits: Limits = SMALL) -> Outcome:
    return run_module(module, given or task(**LOGISTIC), limits, None)


def update(**changes: Any) -> bytes:
    told = {
        "round_id": "run-r3",
        "base_model_uri": "fl/models/global_model_v2",
        "proplet_id": "site-a",
        "num_samples": 20,
        "metrics": {"loss": 0.5},
        "update": {"w": [1, 2.5, -3.0, 1e-9], "b": 7},
    }
    return json.dumps({name: value for name, value in (told | changes).items() if value is not ...}).encode()


def run_calls(module: bytes, environment: dict[str, str] | None = None, limits: Limits = SMALL) -> HostCalls:
    calls = HostCalls(environment or {}, numbers=16)
    with running(compiled(module, hashlib.sha256(module).hexdigest(), None), limits, calls.link) as instance:
        instance.call("_start")
    return calls


def test_an_update_becomes_the_models_arrays() -> None:
    outcome = run(says(update() + b"\n"))
    assert outcome.abi == "propeller"
    assert outcome.metrics == {"loss": 0.5}
    assert outcome.arrays["w"].tolist() == np.array([1, 2.5, -3, 1e-9], np.float32).tolist()
    assert {name: (values.shape, values.dtype.name) for name, values in outcome.arrays.items()} == {
        "w": ((4,), "float32"),
        "b": ((), "float32"),
    }
    network = run(
        says(update(update={"a": list(range(6)), "b": [1]})), task(a=np.zeros((2, 3), np.float32), b=np.zeros(1, np.float32))
    )
    assert network.arrays["a"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_module_is_told_what_proplets_are_told() -> None:
    given = task(**LOGISTIC)
    told = told_of(given)
    assert told == {
        "ROUND_ID": "run-r3",
        "MODEL_URI": "fl/models/global_model_v2",
        "HYPERPARAMS": json.dumps(asdict(given.hyperparameters), sort_keys=True, separators=(",", ":")),
        "PROPLET_ID": "site-a",
    }
    assert run(says(update())).config.decode() == "".join(f"{name}={value}\n" for name, value in told.items())
    given_data = {name: json.loads(value) for name, value in data_of(given, SMALL).items()}
    assert given_data.keys() == {"MODEL_DATA", "DATASET_DATA"}
    model, dataset = given_data["MODEL_DATA"], given_data["DATASET_DATA"]
    assert isinstance(model["b"], float)
    for name, values in LOGISTIC.items():
        assert np.array_equal(np.array(model[name], np.float32), values)
    assert {name: dataset[name] for name in ("schema", "proplet_id", "size")} == {
        "schema": "fl-demo-dataset-v1",
        "proplet_id": "site-a",
        "size": 20,
    }
    assert [row["y"] for row in dataset["data"]] == given.labels.tolist()
    assert np.array_equal(np.array([row["x"] for row in dataset["data"]], np.float32), given.x)


def test_its_environment_is_what_it_is_told_and_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "ours")
    calls = run_calls(wasi(ENVIRONMENT + WRITE_ENVIRONMENT + FLUSH), {"A": "x" * 3000, "B": '{"ä":1}'})
    assert bytes(calls.stdout).decode() == "A=" + "x" * 3000 + '\0B={"ä":1}\0'


def test_a_straight_line_of_host_calls_is_stopped() -> None:
    asks = wasi("(drop (call $environ_get (i32.const 0) (i32.const 64)))" * 5000, memory='(memory (export "memory") 200)')
    with pytest.raises(TaskTimeout):
        run_calls(asks, {"A": "x" * 10_000_000}, BRIEF)


def test_long_arrays_are_written_whole() -> None:
    values = np.random.default_rng(1).normal(size=140_000).astype(np.float32)
    told = data_of(task(w=values), Limits())["MODEL_DATA"]
    assert np.array_equal(np.array(json.loads(told)["w"], np.float32), values)


@pytest.mark.parametrize("big", [{"w": np.zeros(300_000, np.float32)}, {}])
def test_a_task_that_is_too_much_json_is_refused(big: dict[str, Any]) -> None:
    given = task(**big) if big else replace(task(), x=np.zeros((20, 20_000), np.float32))
    with pytest.raises(TaskMemory, match=r"^the task is more than the 1 MB of JSON .*: a module for fl/1 takes it$"):
        run(says(update()), given)


def test_an_update_may_be_written_wide() -> None:
    values = np.random.default_rng(1).normal(size=10_000).astype(np.float32)
    for text in (
        json.dumps(json.loads(update(update={"w": values.tolist(), "b": [1.0]})), indent=8),
        update(update="HERE").decode().replace('"HERE"', f'{{"w": [{", ".join(f"{each:.45f}" for each in values)}], "b": [1]}}'),
    ):
        module = says(text.encode())
        outcome = run(module, task(w=values * 0, b=np.zeros(1, np.float32)), replace(SMALL, module_bytes=len(module)))
        assert np.array_equal(outcome.arrays["w"], values)


def test_the_hosts_own_bound_holds_for_a_large_model() -> None:
    floods = wasi("(loop $again " + FLUSH + "(br $again))", data(8, b"\0\0\0\0\xff\xff\0\0"))
    with pytest.raises(OutputFlood, match="more than 1048576 bytes on stdout: "):
        run(floods, task(w=np.zeros(40_000, np.float32)))


def test_an_update_of_many_arrays_has_the_marks_that_it_needs() -> None:
    model = {f"{number}": np.zeros(1, np.float32) for number in range(2000)}
    told = update(update={name: [1] for name in model})
    assert update_of(told, task(**model))[0].keys() == model.keys()


def test_numbers_that_json_has_none_of_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        run(says(update()), task(w=np.array([np.nan], np.float32)))


@pytest.mark.parametrize("start", ["run", "_start"])
def test_a_reactor_is_initialized_and_a_command_is_not(start: str) -> None:
    text = update()
    more = f'{data(4096, text)} (func (export "_initialize") {FLUSH})'
    prepared = data(8, (4096).to_bytes(4, "little") + len(text).to_bytes(4, "little"))
    body = FLUSH if start == "_start" else ""
    assert run(wasi(body, more + prepared, start=start)).arrays["b"] == 7


def test_a_command_may_end_itself_without_an_error() -> None:
    assert run(says(update(), end=exits(0))).arrays["b"] == 7


def test_stderr_is_kept_to_its_end_and_shown_where_a_module_fails() -> None:
    calls = run_calls(says(b"", b"x" * KEPT_STDERR_BYTES + b"last words"))
    assert len(calls.stderr) == KEPT_STDERR_BYTES
    assert calls.stderr.endswith(b"xlast words")
    with pytest.raises(TaskFailed) as told:
        run(says(update(), b"panic: " + b"y" * 5000 + b"\xff no lr \n", exits(1)))
    shown = str(told.value).removeprefix("the module ended with exit code 1; on stderr: ")
    assert shown == "panic: " + "y" * 993 + " … " + "y" * 993 + "\N{REPLACEMENT CHARACTER} no lr"


def test_it_has_no_files_no_input_and_no_other_output() -> None:
    opened = "(call $path_open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 0) (i64.const 0) (i64.const 0)"
    body = f"""
        (if (i32.ne {opened} (i32.const 0) (i32.const 80)) (i32.const 8)) (then unreachable))
        (if (i32.ne (call $fd_write (i32.const 3) (i32.const 0) (i32.const 1) (i32.const 80)) (i32.const 8)) (then unreachable))
        (i32.store (i32.const 4) (i32.const 100)) (i32.store (i32.const 80) (i32.const 100))
        (if (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 80)) (then unreachable))
        (if (i32.load (i32.const 80)) (then unreachable))"""
    calls = run_calls(wasi(body))
    assert bytes(calls.stdout + calls.stderr) == b""


def clock(userdata: int, timeout_ns: int, clock_id: int = 1, flags: int = 0, tag: int = 0) -> bytes:
    parts = (userdata, 8), (tag, 8), (clock_id, 8), (timeout_ns, 8), (0, 8), (flags, 8)
    return b"".join(value.to_bytes(size, "little") for value, size in parts)


@pytest.mark.parametrize(
    ("subscriptions", "due"),
    [
        ([clock(7, 10**7), clock(8, 3600 * 10**9)], [(7, 0, 0)]),
        ([clock(7, 3600 * 10**9), clock(8, 0, tag=1), clock(9, 0, tag=2)], [(8, 0, 1), (9, 0, 2)]),
        ([clock(7, 10**6, flags=1), clock(8, 10**9, clock_id=0, flags=1)], [(7, 0, 0), (8, 0, 0)]),
        ([clock(7, 1, clock_id=3), clock(8, 3600 * 10**9)], [(7, 58, 0)]),
    ],
    ids=["the first clock", "files at once", "what is past", "a clock that is none"],
)
def test_a_module_sleeps_until_the_first_of_what_it_waits_for(
    subscriptions: list[bytes], due: list[tuple[int, int, int]]
) -> None:
    count = len(subscriptions)
    asked = data(4096, b"".join(subscriptions))
    late = "(loop $wait (drop (call $clock_time_get (i32.const 1) (i64.const 1) (i32.const 16)))"
    late += "(br_if $wait (i64.lt_u (i64.load (i32.const 16)) (i64.const 1000000))))"
    polls = f"(drop (call $poll_oneoff (i32.const 4096) (i32.const 8192) (i32.const {count}) (i32.const 8188)))"
    shows = "(i32.store (i32.const 8) (i32.const 8188)) (i32.store (i32.const 12) (i32.const 100))"
    written = bytes(run_calls(wasi(late + polls + shows + FLUSH, asked)).stdout)
    assert int.from_bytes(written[:4], "little") == len(due)
    for place, (userdata, error, kind) in enumerate(due):
        event = written[4 + 32 * place :]
        assert (event[0], event[8], event[10]) == (userdata, error, kind)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"round_id": ...}, "has no round_id$"),
        ({"update": ..., "metrics": ...}, "has no metrics, update$"),
        ({"w": [1], "x" * 300: 1}, r"has \['w', 'x+ … x+'\], which no update has$"),
        ({"round_id": "run-r2"}, "has round_id 'run-r2', and ROUND_ID is 'run-r3'"),
        ({"base_model_uri": "fl/models/global_model_v1"}, "has base_model_uri .*, and MODEL_URI is 'fl/models/global_model_v2'"),
        ({"proplet_id": 5}, "has proplet_id 5, which is no text"),
        ({"num_samples": 0}, "needs num_samples, a whole number from 1 on, and has 0"),
        ({"num_samples": 1.5}, "and has 1.5"),
        ({"num_samples": True}, "and has True"),
        ({"metrics": {"loss": None}}, "has metric loss = None, which is no number of at most 1e"),
        ({"metrics": {"loss": float("nan")}}, "is no JSON: NaN is no number of JSON"),
        ({"update": [1]}, r"has no arrays by their names, but \[1\]"),
        ({"update": {"w": [1, 2, 3, 4]}}, "does not have the model's arrays: 'b' is in one of them only"),
        ({"update": {"w": [1, 2, 3, 4], "b": 1, "c": 2}}, "'c' is in one of them only"),
        ({"update": {"w": [1, 2, 3], "b": 1}}, "needs a flat list of 4 numbers for w, and has a list of 3"),
        ({"update": {"w": 1, "b": 1}}, "needs a flat list of 4 numbers for w, and has 1"),
        ({"update": {"w": [[1, 2], [3, 4]], "b": 1}}, "and has a list of 2"),
        ({"update": {"w": [1, 2, 3, "4"], "b": 1}}, "has a str in w, where numbers are needed"),
        ({"update": {"w": [1, 2, 3, True], "b": 1}}, "has a bool in w"),
        ({"update": {"w": [1, 2, 3, None], "b": 1}}, "has a NoneType in w"),
        ({"update": {"w": [1, 2, 3, 4], "b": [1]}}, "has a list in b"),
        ({"update": {"w": [1, 2, 3, 10**400], "b": 1}}, "has a number in w that no float can hold"),
        ({"update": {"w": [1, 2, 3e38, 1e39], "b": 1}}, "numbers that are not finite: 1 of 4 in w"),
        ({"update": {"w": [float("inf"), 2, 3, 4], "b": 1}}, "Infinity is no number of JSON"),
    ],
)
def test_an_update_that_is_none_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadUpdate, match=sentence):
        update_of(update(**changes), task(**LOGISTIC))


@pytest.mark.parametrize(
    "text", [b"", b"loss 0.5\n" + update(), update() + update(), update()[:-1], b"[" * 1000, b'"text"', b"\xff"]
)
def test_anything_but_one_json_object_on_stdout_is_refused(text: bytes) -> None:
    with pytest.raises(BadUpdate, match=r"^the update of the module is no JSON"):
        update_of(text, task(**LOGISTIC))


@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(anything("round_id", "base_model_uri", "num_samples", "metrics", "update", "w", "b"))
def test_whatever_stdout_is_it_is_refused_as_a_fault(text: bytes) -> None:
    with pytest.raises(TaskFault):
        update_of(text, task(**LOGISTIC))


@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(anything("w", "b", "loss"))
def test_whatever_an_update_has_for_arrays_is_read_or_refused(text: bytes) -> None:
    try:
        arrays, _ = update_of(update(update="HERE").replace(b'"HERE"', text), task(**LOGISTIC))
    except TaskFault:
        return
    assert all(np.isfinite(values).all() for values in arrays.values())
