"""`wasm`: a chain of linear layers that each site trains in a sandbox, or in PyTorch where the site says so.

The server and the sites' scores need numpy alone; wasmtime is imported where a module runs, torch where a site trains with it.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from math import prod
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from flower_app.config import MOMENTUM, ConfigError, ConfigValue, RunConfig
from flower_app.workloads import mlp
from flower_app.workloads.digits import Digits
from flower_app.workloads.fashion import Fashion
from flower_app.workloads.interface import Arrays, EvalResult, Metrics, NodeEnv, TrainResult
from flower_app.workloads.partition import Examples
from flower_app.workloads.site_examples import SiteExamples
from flower_app.workloads.tabular import Tabular
from flower_app.workloads.tensor_examples import TensorExamples
from flower_app.workloads.wasm import execution
from flower_app.workloads.wasm.modules import Found
from flower_app.workloads.wasm.task import SEED_BITS, Hyperparameters, Limits, Task

if TYPE_CHECKING:
    import torch

DATASETS: Mapping[str, tuple[type[SiteExamples], str]] = {
    "digits": (Digits, "64-32-10"),
    "fashion": (Fashion, "784-128-10"),
    "tabular": (Tabular, "30-32-2"),
}
"""Built-in examples by the name of the workload that they are those of, and the `layers` of a run that leaves them open."""

WASM, TORCH = "wasm", "torch"
RUNTIME = "runtime"
"""A site's own key: in what it trains."""


class Wasm:
    """Fully connected layers on `dataset`, of the sizes of `layers`, trained by the module that `wasm-module` names."""

    name = "wasm"
    defaults: ClassVar[Mapping[str, ConfigValue]] = {"dataset": "digits", "wasm-memory-mb": 2048, "wasm-timeout-s": 600.0}

    def __init__(self, config: RunConfig) -> None:
        """Raises ConfigError."""
        self.config = config.left_to(self.defaults)
        _see_that_a_module_can_keep_to(self.config)
        kind, layers = DATASETS.get(self.config.dataset, (TensorExamples, ""))
        if not (self.config.layers or layers):
            raise ConfigError("layers is empty: a dataset of your own needs features, hidden sizes and classes, as 64-32-10")
        self.sizes = mlp.parse_layers(self.config.layers or layers)
        if layers:
            self._see_that_they_fit(mlp.parse_layers(layers))
        if mlp.is_logistic(self.sizes) and not self.config.wasm_module:
            raise ConfigError(
                "layers ends with 1, which is Propeller's logistic regression: wasm-module needs to name a module for it"
            )
        self._source = kind(self.config)
        self._found: Found | None = None

    def _see_that_they_fit(self, own: tuple[int, ...]) -> None:
        """Raise ConfigError for layers that do not fit built-in examples, whose own layers do."""
        if self.sizes[0] != own[0] or max(self.sizes[-1], 2) < own[-1]:
            needs = f"begin with {own[0]} and end with {own[-1]} or more"
            raise ConfigError(f'layers "{self.config.layers}" does not fit {self.config.dataset}: it needs to {needs}')

    def initial_arrays(self) -> Arrays:
        """Draw the first weights from the run's seed."""
        return mlp.first_arrays(self.sizes, self.config.seed)

    def prepare(self, env: NodeEnv) -> None:
        """Read the data, and make ready what trains. Raises DataMissing, DataUnfit, ConfigError, TaskFault."""
        self.own_examples(env)
        if _runtime(env) == TORCH:
            _torch(env).set_num_threads(env.threads)
        else:
            execution.make_ready(self._module(env), env.cache_dir)

    def train(self, arrays: Arrays, settings: Mapping[str, Any], env: NodeEnv) -> TrainResult:
        """Train the arrived model on this site's examples but those held back. Raises TaskFault."""
        examples, _ = self.own_examples(env)
        if _runtime(env) == TORCH:
            return self._trained_by_torch(arrays, examples, settings, env)
        hyperparameters = self.hyperparameters(float(settings.get("proximal-mu", 0.0)), env.seed)
        task, limits = task_of(arrays, examples, hyperparameters, env), self._limits(env)
        module = self._module(env)
        started = time.monotonic()
        done = execution.execute(module, task, limits, env.cache_dir)
        seconds = max(time.monotonic() - started, 1e-9)
        execution.keep(done, task, limits, self.config, env)
        steps, seen = _work(len(examples), hyperparameters)
        metrics = {**done.outcome.metrics, "examples_per_s": seen / seconds, "step_s": seconds / steps}
        facts: dict[str, str | int | float] = {"runtime": WASM, "device": "cpu", "steps": steps, **done.facts}
        return TrainResult(done.outcome.arrays, min(seen, len(examples)), metrics, facts)

    def evaluate(self, arrays: Arrays, settings: Mapping[str, Any], env: NodeEnv) -> EvalResult:
        """Score the arrived model on the share of this site's examples that is held back."""
        _, held = self.own_examples(env)
        return EvalResult(len(held), mlp.score(arrays, held) if len(held) else {})

    def server_evaluate(self, arrays: Arrays) -> Metrics:
        """Score on the test set, which no site trains on; nothing where this machine has none."""
        return self._source.scored_on_test(lambda test: self._scored(arrays, test))

    def quick_evaluate(self, arrays: Arrays, num_examples: int) -> Metrics:
        """Score on so many examples of the test split, the same ones in each round."""
        return self._source.scored_on_test(lambda test: self._scored(arrays, test), num_examples)

    def _scored(self, arrays: Arrays, test: Examples) -> Metrics:
        test = _flat(test)
        mlp.check_fit(self.sizes, test, "the test set")
        return mlp.score(arrays, test)

    def own_examples(self, env: NodeEnv) -> tuple[Examples, Examples]:
        """Give this site's examples to train on and those held back, x as float32 (examples, features).

        Raises DataMissing, DataUnfit, ConfigError.
        """
        kept, held = map(_flat, self._source.own_examples(env))
        for examples in (kept, held):
            mlp.check_fit(self.sizes, examples, f'node "{env.node_name}"')
        return kept, held

    def hyperparameters(self, proximal_mu: float, seed: int) -> Hyperparameters:
        """Give what this run trains with, in a round of this seed."""
        return Hyperparameters(
            epochs=self.config.local_epochs,
            steps=self.config.local_steps,
            batch_size=self.config.batch_size,
            lr=self.config.lr,
            momentum=MOMENTUM,
            weight_decay=self.config.weight_decay,
            proximal_mu=proximal_mu,
            seed=seed % 2**SEED_BITS,
        )

    def _module(self, env: NodeEnv) -> Found:
        self._found = self._found or execution.found_here(self.config.wasm_module, self._limits(env), env.cache_dir)
        return self._found

    def _limits(self, env: NodeEnv) -> Limits:
        """Give the run's limits, or the site's where those are lower."""
        memory_mb = min(self.config.wasm_memory_mb, _own(env, "wasm-memory-mb", self.config.wasm_memory_mb))
        wall_s = min(self.config.wasm_timeout_s, _own(env, "wasm-timeout-s", self.config.wasm_timeout_s))
        return Limits(memory_bytes=int(memory_mb * 2**20), wall_s=wall_s)

    def _trained_by_torch(self, arrays: Arrays, examples: Examples, settings: Mapping[str, Any], env: NodeEnv) -> TrainResult:
        if mlp.is_logistic(self.sizes):
            raise ConfigError(f'{RUNTIME} "{TORCH}" trains a network of two outputs or more, and layers ends with 1')
        _torch(env)
        from flower_app.workloads import training

        model = training.load(self._network(), arrays)
        trained = training.train(model, examples, self.config, settings, env)
        return replace(trained, facts={**trained.facts, "runtime": TORCH})

    def _network(self) -> "torch.nn.Module":
        from torch import nn

        parts: list[nn.Module] = []
        for inputs, outputs in zip(self.sizes, self.sizes[1:], strict=False):
            parts += [nn.Linear(inputs, outputs), nn.ReLU()]
        return nn.Sequential(*parts[:-1])


def task_of(arrays: Arrays, examples: Examples, hyperparameters: Hyperparameters, env: NodeEnv) -> Task:
    """Give what a module gets at this site in this round."""
    x, labels = np.ascontiguousarray(examples.x, np.float32), examples.labels.astype(np.int32)
    return Task(arrays, x, labels, hyperparameters, env.run_id, env.round, env.node_name)


def _see_that_a_module_can_keep_to(config: RunConfig) -> None:
    """Raise ConfigError for what neither ABI can tell a module."""
    for key, can in (("local-seconds", 0.0), ("optimizer", "sgd"), ("lr-schedule", "constant"), ("warmup-share", 0.0)):
        if (said := config.values[key]) != can:
            why = "it has no clock: say local-epochs or local-steps" if key == "local-seconds" else f"it needs to be {can!r}"
            raise ConfigError(f"{key} {said!r} is more than a module in the sandbox can keep to; {why}")


def _runtime(env: NodeEnv) -> str:
    runtime = env.node_config.get(RUNTIME, WASM)
    if runtime not in (WASM, TORCH):
        raise ConfigError(f'{RUNTIME} of node "{env.node_name}" needs to be {WASM} or {TORCH}, got {runtime!r}')
    return str(runtime)


def _torch(env: NodeEnv) -> ModuleType:
    """Import torch. Raises ConfigError where it is not installed."""
    try:
        return import_module("torch")
    except ModuleNotFoundError as missing:
        raise ConfigError(
            f'{RUNTIME} "{TORCH}" of node "{env.node_name}" needs torch: pip install \'espalier[train]\''
        ) from missing


def _own(env: NodeEnv, key: str, default: float) -> float:
    """Read a limit of the site's own. Raises ConfigError."""
    value = env.node_config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ConfigError(f'{key} of node "{env.node_name}" needs to be a number above 0, got {value!r}')
    return value


def _flat(examples: Examples) -> Examples:
    return replace(examples, x=examples.x.reshape(len(examples), prod(examples.x.shape[1:])))


def _work(count: int, hyperparameters: Hyperparameters) -> tuple[int, int]:
    """Count the steps of a fit on so many examples, and the examples that they see, in each epoch anew."""
    size = hyperparameters.batch_size
    steps_of_epoch = -(-count // size)
    limits = (hyperparameters.steps, hyperparameters.epochs * steps_of_epoch)
    steps = min(limit for limit in limits if limit)
    epochs, rest = divmod(steps, steps_of_epoch)
    return steps, epochs * count + rest * size
