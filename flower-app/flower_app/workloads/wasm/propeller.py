"""The ABI of Propeller's clients: WASI preview 1, the task in the environment, one JSON update on stdout. wasm-task/ABI.md.

Source: https://github.com/absmach/propeller, examples/fl-demo/client-wasm.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flower_app.text import one_line
from flower_app.workloads.interface import Arrays, Metrics
from flower_app.workloads.wasm.abi import PROPELLER, config_of
from flower_app.workloads.wasm.engine import wasmtime
from flower_app.workloads.wasm.faults import BadUpdate, TaskFailed, TaskMemory, TaskTrap
from flower_app.workloads.wasm.instance import MB, running
from flower_app.workloads.wasm.report import is_whole, metrics_of, parsed, see_that_all_is_finite, shown
from flower_app.workloads.wasm.task import Limits, Outcome, Task
from flower_app.workloads.wasm.wasi import HostCalls

SHOWN_STDERR = 2000
NUMBERS_AT_ONCE = 1 << 16
MOST_OTHER_MARKS = 1024
"""Brackets and commas of an update besides those of its arrays: of metrics, and in names."""
_UPDATE = "the update"
_NEEDED = {"round_id", "base_model_uri", "num_samples", "metrics", "update"}
_MAY_HAVE = {"proplet_id"}


def train(module: wasmtime.Module, task: Task, limits: Limits) -> Outcome:
    """Let a module train. Raises TaskFault; ValueError for a model or examples that are not finite."""
    told = told_of(task)
    calls = HostCalls({**told, **data_of(task, limits)}, _numbers_of(task.arrays))
    try:
        with running(module, limits, calls.link) as instance:
            if instance.exports("_start"):
                instance.call("_start")
            else:
                if instance.exports("_initialize"):
                    instance.call("_initialize")
                instance.call("run")
    except wasmtime.ExitTrap as ended:
        if ended.code:
            raise TaskFailed(f"the module ended with exit code {ended.code}{_said(calls)}") from None
    except (TaskTrap, TaskFailed) as fault:  # what a guest's runtime has to say of its end stands on stderr
        raise type(fault)(f"{fault}{_said(calls)}") from None
    arrays, metrics = update_of(bytes(calls.stdout), task)
    return Outcome(PROPELLER, arrays, metrics, "".join(f"{name}={value}\n" for name, value in told.items()).encode())


def told_of(task: Task) -> dict[str, str]:
    """Give what a module is told besides model and examples, by the name of the variable."""
    return {
        "ROUND_ID": f"{task.run_id}-r{task.round}",
        "MODEL_URI": f"fl/models/global_model_v{task.round - 1}",
        "HYPERPARAMS": config_of(task.hyperparameters).decode(),
        "PROPLET_ID": task.node_name,
    }


def data_of(task: Task, limits: Limits) -> dict[str, str]:
    """Give model and examples, by the name of the variable. Raises TaskMemory, ValueError."""
    try:
        return {"MODEL_DATA": _joined(_model(task.arrays), limits), "DATASET_DATA": _joined(_dataset(task), limits)}
    except ValueError as error:
        raise ValueError("the model or the examples have numbers that are not finite, for which JSON has no form") from error


def update_of(stdout: bytes, task: Task) -> tuple[Arrays, Metrics]:
    """Read the update of a module, and its metrics. Raises BadUpdate."""
    _see_that_it_holds_no_more(stdout, task.arrays)
    update = parsed(stdout, _UPDATE)
    _see_whose_it_is(update, told_of(task))
    metrics = metrics_of(update, _UPDATE)
    return _arrays(update["update"], task.arrays), metrics


def _joined(parts: Iterable[str], limits: Limits) -> str:
    kept, size = [], 0
    for part in parts:
        kept.append(part)
        size += len(part)
        if size > limits.output_bytes:
            given = f"{limits.output_bytes / MB:g} MB of JSON"
            raise TaskMemory(
                f"the task is more than the {given} that a module for Propeller is given: a module for fl/1 takes it"
            )
    return "".join(kept)


def _model(arrays: Arrays) -> Iterator[str]:
    """Write {name: flat list}, a number for an array of no dimension."""
    for number, (name, values) in enumerate(arrays.items()):
        yield f"{',' if number else '{'}{json.dumps(name)}:"
        if values.ndim:
            yield "["
            yield from _numbers(values.reshape(-1))
            yield "]"
        else:
            yield _dumps(values.item())
    yield "}"


def _numbers(values: NDArray[Any]) -> Iterator[str]:
    for at in range(0, len(values), NUMBERS_AT_ONCE):
        yield "," * (at > 0) + _dumps(values[at : at + NUMBERS_AT_ONCE].tolist())[1:-1]


def _dataset(task: Task) -> Iterator[str]:
    yield f'{{"schema":"fl-demo-dataset-v1","proplet_id":{json.dumps(task.node_name)},"data":['
    for number, (x, label) in enumerate(zip(task.x, task.labels, strict=True)):
        yield f'{"," * (number > 0)}{{"x":{_dumps(x.tolist())},"y":{int(label)}}}'
    yield f'],"size":{len(task.labels)}}}'


def _dumps(value: object) -> str:
    """Write a float32 as the float64 of the same value, so that it is the same again. Raises ValueError for a NaN."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _said(calls: HostCalls) -> str:
    """Give how it began and how it ended: Go says why it panics first, others last."""
    text = one_line(calls.stderr.decode(errors="replace").strip(), SHOWN_STDERR)
    return f"; on stderr: {text}" if text else ""


def _see_that_it_holds_no_more(stdout: bytes, model: Arrays) -> None:
    """See that JSON makes few objects of it, by what each one needs. Raises BadUpdate.

    64 MB of `[],[],…` take 7 s and 1.5 GB to read; a million numbers take 0.3 s and 51 MB, and nothing else in their place
    more than 2 s and 0.5 GB.
    """
    marks, most = sum(map(stdout.count, (b"[", b"{", b","))), MOST_OTHER_MARKS + 2 * len(model) + _numbers_of(model)
    if marks > most:
        raise BadUpdate(f"{_UPDATE} of the module has {marks} brackets and commas, and one of this model has {most} at most")


def _numbers_of(model: Arrays) -> int:
    return sum(values.size for values in model.values())


def _see_whose_it_is(update: Mapping[str, Any], told: Mapping[str, str]) -> None:
    """See that it has what an update has, and is one of this round's model. Raises BadUpdate."""
    if missing := sorted(_NEEDED - update.keys()):
        raise BadUpdate(f"{_UPDATE} of the module has no {', '.join(missing)}")
    if unknown := sorted(update.keys() - _NEEDED - _MAY_HAVE):
        raise BadUpdate(f"{_UPDATE} of the module has {shown(unknown)}, which no update has")
    for name, variable in (("round_id", "ROUND_ID"), ("base_model_uri", "MODEL_URI")):
        if update[name] != told[variable]:
            raise BadUpdate(f"{_UPDATE} of the module has {name} {shown(update[name])}, and {variable} is {told[variable]!r}")
    if not isinstance(update.get("proplet_id", ""), str):
        raise BadUpdate(f"{_UPDATE} of the module has proplet_id {shown(update['proplet_id'])}, which is no text")
    if not is_whole(update["num_samples"], 1):
        wrong = shown(update["num_samples"])
        raise BadUpdate(f"{_UPDATE} of the module needs num_samples, a whole number from 1 on, and has {wrong}")


def _arrays(told: object, model: Arrays) -> Arrays:
    """Read the arrays of an update. Raises BadUpdate."""
    if not isinstance(told, dict):
        raise BadUpdate(f"{_UPDATE} of the module has no arrays by their names, but {shown(told)}")
    if told.keys() != model.keys():
        differing = ", ".join(shown(name) for name in sorted(told.keys() ^ model.keys())[:8])
        raise BadUpdate(f"{_UPDATE} of the module does not have the model's arrays: {differing} is in one of them only")
    arrays = {name: _array(name, told[name], values) for name, values in model.items()}
    see_that_all_is_finite(arrays)
    return arrays


def _array(name: str, told: object, like: NDArray[Any]) -> NDArray[Any]:
    numbers = told if like.ndim else [told]
    if not isinstance(numbers, list) or len(numbers) != like.size:
        needs = f"a flat list of {like.size} numbers"
        has = f"a list of {len(numbers)}" if isinstance(numbers, list) else shown(numbers)
        raise BadUpdate(f"{_UPDATE} of the module needs {needs} for {name}, and has {has}")
    if wrong := set(map(type, numbers)) - {int, float}:
        kind = min(each.__name__ for each in wrong)
        raise BadUpdate(f"{_UPDATE} of the module has a {kind} in {name}, where numbers are needed")
    try:
        with np.errstate(over="ignore"):
            return np.array(numbers, np.float64).astype(like.dtype).reshape(like.shape)
    except OverflowError:
        raise BadUpdate(f"{_UPDATE} of the module has a number in {name} that no float can hold") from None
