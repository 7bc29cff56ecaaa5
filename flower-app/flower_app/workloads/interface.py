"""What a workload is: numpy arrays in, numpy arrays out, whatever trains in between."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
"""A model by name, in order; float32 on the wire as a rule. Keys, shapes and dtypes never change in a run."""

Metrics = dict[str, float]
"""Finite numbers; accuracies 0..1, losses in nats, `_s` seconds, `_bytes` bytes. What has no value at a site is left out."""


@dataclass(frozen=True)
class NodeEnv:
    """Where a workload works.

    seed: for this (run seed, partition, round), so that a repeated round draws the same numbers on any node.
    device: auto, cpu, cuda or mps, as the run or the node wants it; what is used is a matter of what is there.
    cache_dir: where the node lets the app keep files between messages; None = keep nothing.
    node_config: what the SuperNode was started with, a site's own keys for a workload among it.
    run_id: ours where the admin server has started the run, else Flower's.
    """

    node_name: str
    partition_id: int
    num_partitions: int
    round: int
    seed: int
    threads: int
    device: str
    cache_dir: Path | None
    node_config: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    run_id: str = ""


@dataclass(frozen=True)
class TrainResult:
    """The trained model; num_examples (>= 1) are the distinct examples it has seen and is its weight in the mean.

    facts: what else is worth a line in the record of the update, by name: device, memory. Those that the app gives itself, as
        node_name, are its own.
    """

    arrays: Arrays
    num_examples: int
    metrics: Metrics
    facts: Mapping[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True)
class EvalResult:
    """What the model scored on num_examples examples; 0 examples means that there was nothing to evaluate on."""

    num_examples: int
    metrics: Metrics


class Workload(Protocol):
    """A model and its data. Built by `Class(run_config)` on the server and on each node; import heavy libraries lazily.

    `train` and `evaluate` give plain metric names (`loss`, `accuracy`); the app puts `train_` and `eval_` before them.
    """

    name: str

    def initial_arrays(self) -> Arrays:
        """Make the seeded first model, on the server, without data."""
        ...

    def train(self, arrays: Arrays, settings: Mapping[str, Any], env: NodeEnv) -> TrainResult:
        """Train on this node's part of the data.

        settings: what the strategy sent: `server-round`, and under fedprox `proximal-mu`, which training has to obey.
        """
        ...

    def evaluate(self, arrays: Arrays, settings: Mapping[str, Any], env: NodeEnv) -> EvalResult:
        """Score the arrived model on what this node holds back from training."""
        ...


class Extras(Protocol):
    """What a workload may have besides; the app looks for each by its name."""

    defaults: ClassVar[Mapping[str, bool | int | float | str]]
    """Values of run-config keys that a run may leave to its workload, by key: config.OPEN and BUDGET, and keys of its own."""

    def products(self) -> Sequence[tuple[str, str]]:
        """Name the pairs of arrays (B, A) of which only the product counts: the server averages B @ A, not B and A.

        B is (outputs, rank), A (rank, inputs). A site may answer with pairs of a smaller rank.
        """
        ...

    def whole_model(self) -> tuple[int, int]:
        """Say how large the model is of which only a part is trained and travels: its parameters, and their bytes."""
        ...

    def prepare(self, env: NodeEnv) -> None:
        """Import what is heavy and load the data, so that their seconds are told apart from training."""
        ...

    def server_evaluate(self, arrays: Arrays) -> Metrics:
        """Score the aggregated model on data that no node trains on."""
        ...

    def quick_evaluate(self, arrays: Arrays, num_examples: int) -> Metrics:
        """Score it on so many of these examples, the same ones in each round."""
        ...


def derived_seed(*parts: int) -> int:
    """Mix integers into one 63-bit seed; the same parts give the same seed on any machine."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
