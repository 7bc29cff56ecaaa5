"""fl/1: the host lays out model and examples, the module changes the model's bytes, and nothing else of it counts."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
from flower_app.config import RunConfig
from flower_app.replies import METRIC_LIMIT, NUM_EXAMPLES, _counted
from flower_app.workloads.wasm.faults import BadUpdate, ModuleInvalid, OutputFlood, TaskFailed, TaskFault
from flower_app.workloads.wasm.fl1 import _metrics
from flower_app.workloads.wasm.sandbox import run_module
from flower_app.workloads.wasm.task import Limits, Outcome, Task
from flwr.app import MetricRecord
from hypothesis import given, settings
from safetensors.numpy import load

from tests.flower_app.wasm.guests import REPORT, SMALL, TENSORS, anything, fl1, task

FIRST = f"(f32.store {TENSORS} (f32.const 42))"


def run(module: bytes, given: Task | None = None, limits: Limits = SMALL) -> Outcome:
    return run_module(module, given or task(), limits, None)


def handed_on(what: str) -> bytes:
    """Have a module give back the bytes that it was given, as an array of that many."""
    copies = fl1(f"(memory.copy {TENSORS} (local.get ${what}) (local.get ${what}_size))")
    size = len(json.dumps(asdict(task().hyperparameters), separators=(",", ":"))) if what == "config" else 1000
    return run(copies, task(given=np.zeros(size, np.uint8))).arrays["given"].tobytes()


def test_a_module_changes_the_model_in_its_memory() -> None:
    given = task()
    outcome = run(fl1(FIRST), given)
    assert outcome.abi == "fl/1"
    assert outcome.metrics == {"loss": 0.5}
    assert list(outcome.arrays) == ["0.weight", "0.bias", "scale"]
    assert outcome.arrays["0.weight"][0, 0] == 42
    assert given.arrays["0.weight"][0, 0] != 42
    outcome.arrays["0.weight"][0, 0] = given.arrays["0.weight"][0, 0]
    for name, values in outcome.arrays.items():
        assert values.dtype == np.float32
        assert values.shape == given.arrays[name].shape
        assert np.array_equal(values, given.arrays[name])


def test_it_is_given_the_hyperparameters_as_json_and_the_examples_as_safetensors() -> None:
    given = task()
    config = handed_on("config")
    assert json.loads(config) == asdict(given.hyperparameters)
    assert run(fl1()).config == config
    data = load(handed_on("data")[: len(save(given))])
    assert {name: values.dtype.name for name, values in data.items()} == {"x": "float32", "y": "int32"}
    assert np.array_equal(data["x"], given.x)
    assert np.array_equal(data["y"], given.labels)


def save(given: Task) -> bytes:
    from flower_app.tensor_file import chunks

    return b"".join(chunks({"x": given.x, "y": given.labels}))


def test_what_it_does_to_the_header_is_of_no_account() -> None:
    wiped = run(
        fl1(f"(memory.fill (i32.add (local.get $model) (i32.const 8)) (i32.const 32) (i32.load (local.get $model))) {FIRST}")
    )
    assert list(wiped.arrays) == ["0.weight", "0.bias", "scale"]
    assert wiped.arrays["0.weight"][0, 0] == 42


def test_nothing_of_a_call_is_left_for_the_next_one() -> None:
    counts = fl1(
        f"(f32.store {TENSORS} (global.get $calls)) (global.set $calls (f32.add (global.get $calls) (f32.const 1)))",
        more="(global $calls (mut f32) (f32.const 0))",
    )
    assert [run(counts).arrays["0.weight"][0, 0] for _ in range(3)] == [0, 0, 0]


def test_memory_may_grow_and_lie_above_two_gib() -> None:
    high = """(func (export "fl_alloc") (param i32) (result i32)
        (if (i32.lt_u (memory.size) (i32.const 33000)) (then (drop (memory.grow (i32.const 33000)))))
        (global.set $top (i32.add (global.get $top) (i32.const 65536))) (global.get $top))
        (global $top (mut i32) (i32.const 0x80000000))"""
    assert run(fl1(FIRST, alloc=high), limits=replace(SMALL, memory_bytes=2100 << 20)).arrays["0.weight"][0, 0] == 42


def test_a_module_may_be_given_the_longest_time_that_a_run_can_say() -> None:
    (longest,) = (each.metadata["at_most"] for each in fields(RunConfig) if each.name == "wasm_timeout_s")
    assert run(fl1(), limits=replace(SMALL, wall_s=longest)).metrics == {"loss": 0.5}


def test_arrays_of_no_dimension_and_of_no_number_come_back() -> None:
    outcome = run(
        fl1(), task(none=np.zeros((0, 3), np.float32), one=np.float32(1.5), strided=np.ones((4, 6), np.float32)[:, ::2])
    )
    assert {name: values.shape for name, values in outcome.arrays.items()} == {"none": (0, 3), "one": (), "strided": (4, 3)}
    assert outcome.arrays["one"] == 1.5


def test_numbers_that_are_not_finite_are_refused_with_their_arrays() -> None:
    nan = f"(f32.store {TENSORS} (f32.const nan)) (f32.store offset=4 {TENSORS} (f32.const -inf))"
    with pytest.raises(BadUpdate, match=r"^the module gave back numbers that are not finite: 2 of 12 in 0\.weight$"):
        run(fl1(nan))


@pytest.mark.parametrize(
    ("report", "sentence"),
    [
        (b"", r"the report of the module is no JSON: .*; it begins with b''"),
        (b"\xff\xfe{", "is no JSON"),
        (b"[" * 60_000, "is no JSON: maximum recursion depth"),
        (b"[1]", "is no JSON object: it begins with b'\\[1\\]'"),
        (REPORT + b"{}", "is no JSON: Extra data"),
        (b"{}", "needs steps, a whole number from 0 on, and has None"),
        (b'{"steps":-1,"metrics":{}}', "and has -1"),
        (b'{"steps":1.5,"metrics":{}}', "and has 1.5"),
        (b'{"steps":true,"metrics":{}}', "and has True"),
        (b'{"steps":1}', "needs metrics, an object of at most 64 names, and has None"),
        (b'{"steps":1,"metrics":[]}', "and has \\[\\]"),
        (json.dumps({"steps": 1, "metrics": dict.fromkeys(map("m{}".format, range(65)), 1)}).encode(), "at most 64 names"),
        (b'{"steps":1,"metrics":{"loss":NaN}}', "is no JSON: NaN is no number of JSON"),
        (b'{"steps":1,"metrics":{"loss":-Infinity}}', "-Infinity is no number"),
        (b'{"steps":1,"metrics":{"loss":1e999}}', "metric loss = inf, which is no number of at most 1e\\+100$"),
        (b'{"steps":1,"metrics":{"loss":1' + b"0" * 400 + b"}}", "metric loss = 10+ … 0+, which is no number of"),
        (b'{"steps":1,"metrics":{"loss":1' + b"0" * 5000 + b"}}", "is no JSON: Exceeds the limit"),
        (b'{"steps":1,"metrics":{"loss":-1.1e100}}', r"metric loss = -1\.1e\+100, which is no number of"),
        (b'{"steps":1,"metrics":{"loss":"low"}}', "metric loss = 'low'"),
        (b'{"steps":1,"metrics":{"loss":true}}', "metric loss = True"),
        (b'{"steps":1,"metrics":{"a b":1}}', "has a metric 'a b': needed are"),
        (b'{"steps":1,"metrics":{"\\ud800":1}}', "has a metric '.ud800': needed are"),
    ],
)
def test_a_report_that_is_none_is_refused(report: bytes, sentence: str) -> None:
    with pytest.raises(BadUpdate, match=sentence):
        run(fl1(report=report))


def test_a_metric_is_what_the_server_takes() -> None:
    metrics = run(fl1(report=b'{"steps":1,"metrics":{"large":1e100,"whole":-1' + b"0" * 99 + b"}}")).metrics
    record = MetricRecord({**metrics, NUM_EXAMPLES: 20})
    assert _counted(record) == (20, {"large": 1e100, "whole": -1e99})


def test_a_module_says_itself_that_it_failed() -> None:
    with pytest.raises(TaskFailed, match=r"^the module says: label 7 is none of 3 classes$"):
        run(fl1(report=b'{"error":"label 7 is none of 3 classes"}'))


def test_a_report_that_is_too_long_or_not_there_is_refused() -> None:
    with pytest.raises(OutputFlood, match=r"^the report of the module has 65537 bytes, and a site reads 65536 at most$"):
        run(fl1("(return (i64.const 65537))"))
    with pytest.raises(
        BadUpdate, match=r"^the report of the module is not there: 9 bytes at 4294967295 do not lie in its memory"
    ):
        run(fl1("(return (i64.const 0xffffffff00000009))"))


@pytest.mark.parametrize(
    ("at", "sentence"),
    [
        ("(i32.const 1028)", "fl_alloc of the module gave no place for .* bytes of hyperparameters: 1028 is no multiple of 8"),
        ("(i32.const -8)", "gave no place for .*: .* bytes at 4294967288 do not lie in its memory of 131072 bytes"),
        ("(i32.const 131064)", "gave no place for"),
    ],
)
def test_a_place_that_is_none_is_refused(at: str, sentence: str) -> None:
    with pytest.raises(ModuleInvalid, match=sentence):
        run(fl1(alloc=f'(func (export "fl_alloc") (param i32) (result i32) {at})'))


@settings(max_examples=40, derandomize=True, deadline=None, database=None)
@given(anything("steps", "metrics", "error", "loss"))
def test_whatever_a_report_is_it_is_read_or_refused(report: bytes) -> None:
    try:
        metrics = _metrics(report)
    except TaskFault:
        return
    assert all(abs(value) <= METRIC_LIMIT for value in metrics.values())
