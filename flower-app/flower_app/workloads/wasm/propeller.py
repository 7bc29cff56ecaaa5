"""The Propeller ABI: WASI preview 1, the task in the environment, one JSON update on stdout. Not there yet."""

from flower_app.workloads.wasm.engine import wasmtime
from flower_app.workloads.wasm.faults import ModuleInvalid
from flower_app.workloads.wasm.task import Limits, Outcome, Task


def train(module: wasmtime.Module, task: Task, limits: Limits) -> Outcome:
    """Refuse."""
    raise ModuleInvalid("modules for Propeller do not run here yet")
