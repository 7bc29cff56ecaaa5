"""Models of a size that a run config names, which nobody trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from flower_app.config import RunConfig
from flower_app.workloads.interface import Arrays, EvalResult, NodeEnv, TrainResult

LAYERS = 8


def model(megabytes: float) -> Arrays:
    """Make float32 layers of so many MB (10^6 bytes) in all."""
    size = max(1, int(megabytes * 1e6 / 4 / LAYERS))
    return {f"layer-{number}": np.random.default_rng(number).standard_normal(size, np.float32) for number in range(LAYERS)}


class Sized:
    """A model of `model-mb`."""

    name = "sized"

    def __init__(self, config: RunConfig) -> None:
        self._megabytes = float(config.values["model-mb"])

    def initial_arrays(self) -> Arrays:
        return model(self._megabytes)

    def train(self, arrays: Arrays, settings: Mapping[str, Any], env: NodeEnv) -> TrainResult:
        raise AssertionError("a simulated node trains nothing")

    def evaluate(self, arrays: Arrays, settings: Mapping[str, Any], env: NodeEnv) -> EvalResult:
        return EvalResult(0, {})
