"""A module, run for one task. Everything that it may do wrong is a TaskFault, and nothing of it is left afterwards."""

import hashlib
from pathlib import Path

from flower_app.workloads.wasm import fl1, propeller
from flower_app.workloads.wasm.abi import FL1, abi_of
from flower_app.workloads.wasm.compiler import compiled
from flower_app.workloads.wasm.faults import ModuleTooLarge
from flower_app.workloads.wasm.task import Limits, Outcome, Task


def run_module(module: bytes, task: Task, limits: Limits, cache_dir: Path | None) -> Outcome:
    """Compile a module, or take it as compiled before, and let it train. Raises TaskFault; ConfigError without wasmtime."""
    if len(module) > limits.module_bytes:
        most = f"{limits.module_bytes} bytes, which is what a site takes at most"
        raise ModuleTooLarge(f"the module has {len(module)} bytes, more than {most}")
    ready = compiled(module, hashlib.sha256(module).hexdigest(), cache_dir)
    train = fl1.train if abi_of(ready) == FL1 else propeller.train
    return train(ready, task, limits)
