"""ABI fl/1: a module that imports nothing and trains in its own memory. wasm-task/ABI.md.

Model and examples are safetensors that the host lays out there. It reads back the bytes of the arrays alone: names, shapes and
dtypes, and the number of examples, are the host's own, whatever the module makes of the rest.
"""

import itertools
from collections.abc import Sequence

from flower_app.tensor_file import chunks
from flower_app.text import one_line
from flower_app.workloads.interface import Metrics
from flower_app.workloads.wasm.abi import FL1, config_of
from flower_app.workloads.wasm.engine import wasmtime
from flower_app.workloads.wasm.faults import BadUpdate, ModuleInvalid, OutputFlood, TaskFailed
from flower_app.workloads.wasm.instance import Instance, out_of_memory, running
from flower_app.workloads.wasm.linear_memory import OutsideMemory
from flower_app.workloads.wasm.report import is_whole, metrics_of, parsed, see_that_all_is_finite, shown
from flower_app.workloads.wasm.task import Limits, Outcome, Task

VERSION = 1
MOST_REPORT_BYTES = 64 << 10
ALIGNMENT = 8
_I32, _I64 = 2**32 - 1, 2**64 - 1
_REPORT = "the report"


def train(module: wasmtime.Module, task: Task, limits: Limits) -> Outcome:
    """Let a module train. Raises TaskFault."""
    config = config_of(task.hyperparameters)
    model, data = list(chunks(task.arrays)), list(chunks({"x": task.x, "y": task.labels}))
    with running(module, limits) as instance:
        if (spoken := instance.call("fl_abi")) != VERSION:
            raise ModuleInvalid(f"the module speaks version {spoken} of fl/1, and this is version {VERSION}")
        config_at, config_size = _put(instance, [config], "hyperparameters")
        model_at, model_size = _put(instance, model, "model")
        data_at, data_size = _put(instance, data, "examples")
        report = instance.call("fl_train", config_at, config_size, model_at, model_size, data_at, data_size) & _I64
        metrics = _metrics(_report(instance, report >> 32, report & _I32))
        starts = itertools.accumulate(map(len, model), initial=model_at)
        arrays = {
            name: instance.memory.read_array(at, values)
            for at, (name, values) in zip(itertools.islice(starts, 1, None), task.arrays.items(), strict=False)
        }
    see_that_all_is_finite(arrays)
    return Outcome(FL1, arrays, metrics, config)


def _put(instance: Instance, parts: Sequence[bytes | memoryview], what: str) -> tuple[int, int]:
    """Copy the parts to where the module wants them; give the place and their size."""
    size = sum(map(len, parts))
    at = instance.call("fl_alloc", size) & _I32
    if not at:
        raise out_of_memory(instance.limits, f"has no room for {size} bytes of {what} within")
    try:
        if at % ALIGNMENT:
            raise OutsideMemory(f"{at} is no multiple of {ALIGNMENT}")
        instance.memory.write(at, parts)
    except OutsideMemory as wild:
        raise ModuleInvalid(f"fl_alloc of the module gave no place for {size} bytes of {what}: {wild}") from None
    return at, size


def _report(instance: Instance, at: int, size: int) -> bytes:
    if size > MOST_REPORT_BYTES:
        raise OutputFlood(f"the report of the module has {size} bytes, and a site reads {MOST_REPORT_BYTES} at most")
    try:
        return instance.memory.read(at, size)
    except OutsideMemory as wild:
        raise BadUpdate(f"the report of the module is not there: {wild}") from None


def _metrics(report: bytes) -> Metrics:
    told = parsed(report, _REPORT)
    if "error" in told:
        raise TaskFailed(f"the module says: {one_line(told['error'], 500)}")
    if not is_whole(told.get("steps"), 0):
        raise BadUpdate(f"{_REPORT} of the module needs steps, a whole number from 0 on, and has {shown(told.get('steps'))}")
    return metrics_of(told, _REPORT)
