"""A model of `model-mb` MB that each site moves a little; one site at a time, by a lock on the file `turn`."""

import fcntl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flower_app.config import RunConfig
from flower_app.workloads.interface import Arrays, EvalResult, NodeEnv, TrainResult

LAYERS = 8


class Large:
    """Float32 layers; what a site sends differs from what every other one sends."""

    name = "large"

    def __init__(self, config: RunConfig) -> None:
        self._size = max(1, int(float(config.values["model-mb"]) * 1e6 / 4 / LAYERS))
        self._turn = Path(str(config.values["turn"]))

    def initial_arrays(self) -> Arrays:
        return {
            f"layer-{number}": np.random.default_rng(number).standard_normal(self._size, np.float32) for number in range(LAYERS)
        }

    def train(self, arrays: Arrays, settings: Mapping[str, Any], env: NodeEnv) -> TrainResult:
        with self._turn.open("a") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            moved = {name: values + np.float32(env.partition_id) for name, values in arrays.items()}
        return TrainResult(moved, 10, {})

    def evaluate(self, arrays: Arrays, settings: Mapping[str, Any], env: NodeEnv) -> EvalResult:
        return EvalResult(0, {})
