"""One task, run by the module that a run names, with the digests that say what was computed from what."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from flower_app.config import ConfigError, RunConfig
from flower_app.workloads.interface import NodeEnv
from flower_app.workloads.wasm import receipts
from flower_app.workloads.wasm.modules import Found, allowed_modules, find_module
from flower_app.workloads.wasm.receipts import Digests, digests_of
from flower_app.workloads.wasm.task import Limits, Outcome, Task


@dataclass(frozen=True)
class Execution:
    """What came of a task, of which module, and what proves it."""

    found: Found
    outcome: Outcome
    digests: Digests

    @property
    def facts(self) -> dict[str, str]:
        """What a run's record holds of it."""
        return {"abi": self.outcome.abi, "module": self.found.origin, **asdict(self.digests)}


def found_here(reference: str, limits: Limits, cache_dir: Path | None, environment: Mapping[str, str] = os.environ) -> Found:
    """Find the module that a run names, if this site allows it. Raises ConfigError, TaskFault."""
    return find_module(reference, allowed_modules(environment), cache_dir, limits)


def make_ready(found: Found, cache_dir: Path | None) -> None:
    """Compile a module, unless the site has it compiled. Raises ModuleInvalid, CompileLimit; ConfigError without wasmtime."""
    from flower_app.workloads.wasm.compiler import compiled  # wasmtime is for sites that run modules

    compiled(found.wasm, found.sha256, cache_dir)


def execute(found: Found, task: Task, limits: Limits, cache_dir: Path | None) -> Execution:
    """Run a module, and hash what went in and came out. Raises TaskFault."""
    from flower_app.workloads.wasm.sandbox import run_module

    outcome = run_module(found.wasm, task, limits, cache_dir)
    return Execution(found, outcome, digests_of(found.sha256, task, outcome))


def keep(done: Execution, task: Task, limits: Limits, config: RunConfig, env: NodeEnv) -> None:
    """Keep what the site needs to run this again; where nothing can be kept, that costs the proof, not the update."""
    if env.cache_dir is None:
        return
    receipt = receipts.receipt_of(task, limits, done.outcome.abi, done.digests, config, env)
    try:
        receipts.keep(env.cache_dir, receipt, task.arrays, done.found.wasm)
    except (OSError, ConfigError) as error:  # the latter of a run id that can name no folder
        print(f"round {env.round} cannot be run again, for nothing can be kept: {error}", flush=True)
