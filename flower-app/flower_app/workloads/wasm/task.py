"""What a module is given, what it may use, and what comes of it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flower_app.workloads.interface import Arrays, Metrics

SEED_BITS = 53
"""A JSON number holds so many bits of a whole number exactly."""


@dataclass(frozen=True)
class Hyperparameters:
    """How to train; both ABIs hand these on as one flat JSON object, a field a key.

    epochs, steps: whichever is reached first ends the fit; 0 does not count; one of them is at least 1. A step is a batch.
    lr, momentum, weight_decay, proximal_mu: of v = momentum v + g + weight_decay w + proximal_mu (w - w0); w = w - lr v, with g
        the gradient of the batch's mean cross-entropy, w0 the model as it arrived, and v = 0 at the start.
    seed: below 2**53, of the order of the examples.
    """

    epochs: int
    steps: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    proximal_mu: float
    seed: int


@dataclass(frozen=True)
class Task:
    """One fit at one site.

    arrays: the model as it arrived, float32. x: float32 (examples, features). labels: int32 (examples,), from 0 on.
    run_id, round, node_name: what the Propeller ABI tells a module of where it is.
    """

    arrays: Arrays
    x: NDArray[np.float32]
    labels: NDArray[np.int32]
    hyperparameters: Hyperparameters
    run_id: str
    round: int
    node_name: str


@dataclass(frozen=True)
class Limits:
    """What a module may use at most; wall_s counts from its instantiation and includes what the host does for it."""

    memory_bytes: int = 2 << 30
    wall_s: float = 600.0
    table_elements: int = 100_000
    output_bytes: int = 64 << 20
    module_bytes: int = 32 << 20


@dataclass(frozen=True)
class Outcome:
    """What a module made of a task: arrays of the names, shapes and dtypes that it was given, all finite.

    metrics: of its report, finite numbers. config: the bytes of the configuration that it was given, in the form of its ABI, of
        which a run's record holds the sha256.
    """

    abi: str
    arrays: Arrays
    metrics: Metrics
    config: bytes
