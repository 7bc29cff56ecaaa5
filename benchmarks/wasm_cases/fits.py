"""One fit, the same for each contender: examples, network, epochs; and the CPU time that an epoch of it takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from flower_app.config import MOMENTUM, ConfigValue, RunConfig
from flower_app.workloads import mlp
from flower_app.workloads.digits import Digits
from flower_app.workloads.interface import Arrays
from flower_app.workloads.partition import Examples
from flower_app.workloads.wasm.task import Hyperparameters, Task

Contender = Callable[["Fit"], float]
"""Gives the mean loss of its fit, as the model met each example: what shows that all do the same work."""


@dataclass(frozen=True)
class Fit:
    """SGD with momentum, batches of 32; x: float32 (examples, features), labels: int32."""

    examples: Examples
    sizes: tuple[int, int, int]
    epochs: int
    batch_size: int = 32
    lr: float = 0.05

    @property
    def arrays(self) -> Arrays:
        """The model that it begins with."""
        return mlp.first_arrays(self.sizes, 1)

    @property
    def task(self) -> Task:
        """The fit as a module gets it."""
        told = Hyperparameters(self.epochs, 0, self.batch_size, self.lr, MOMENTUM, 0.0, 0.0, 1)
        return Task(self.arrays, self.examples.x, self.examples.labels.astype(np.int32), told, "bench", 1, "site")

    @property
    def config(self) -> RunConfig:
        """The fit as torch's loop gets it."""
        keys: dict[str, ConfigValue] = {
            "local-epochs": self.epochs,
            "batch-size": self.batch_size,
            "lr": self.lr,
            "optimizer": "sgd",
        }
        return RunConfig.parse(keys).left_to({})


def digits(epochs: int) -> Fit:
    """All 1797 digits, 64-32-10."""
    examples = Digits(RunConfig.parse({})).load(None)
    x = np.ascontiguousarray(examples.x.reshape(len(examples), -1))
    return Fit(Examples(x, examples.labels), (64, 32, 10), epochs)


def pictures(count: int) -> Fit:
    """Made-up pictures of 784 pixels, one epoch of 784-128-10; what they show does not change what a step costs."""
    random = np.random.default_rng(7)
    x = random.standard_normal((count, 784), np.float32)
    return Fit(Examples(x, random.integers(0, 10, count)), (784, 128, 10), 1)


def epoch_ms(fit: Fit, contenders: Mapping[str, Contender], turns: int) -> dict[str, float]:
    """Let contenders take turns, after one that does not count, and give the median CPU time of each one's epoch.

    The time is that of the calling thread: none of them has another one.
    """
    took: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(turns + 1):
        for name, contend in contenders.items():
            started = time.thread_time()
            contend(fit)
            if turn:
                took[name].append(1000 * (time.thread_time() - started) / fit.epochs)
    return {name: statistics.median(times) for name, times in took.items()}


def median_ms(work: Callable[[], object], turns: Sequence[int]) -> float:
    """Give the median wall time of some work, after one turn that does not count."""
    took = []
    work()
    for _ in turns:
        started = time.perf_counter()
        work()
        took.append(1000 * (time.perf_counter() - started))
    return statistics.median(took)
