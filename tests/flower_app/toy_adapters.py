"""Workloads whose model is the product of two small factors and a bias, as LoRA's is, without torch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flower_app.config import RunConfig
from flower_app.workloads.interface import Arrays, EvalResult, Metrics, NodeEnv, TrainResult

OUTPUTS, INPUTS, RANK = 9, 7, 3


class Adapters:
    """Site p pulls the product towards a matrix of its own; with `rank` in its node config it keeps so many columns and rows."""

    name = "adapters"

    def __init__(self, config: RunConfig) -> None:
        self._seed = config.seed

    def initial_arrays(self) -> Arrays:
        drawn = np.random.default_rng(self._seed)
        return {
            "bias": np.zeros(OUTPUTS, np.float32),
            "layer.A": drawn.normal(size=(RANK, INPUTS)).astype(np.float32),
            "layer.B": np.zeros((OUTPUTS, RANK), np.float32),
        }

    def products(self) -> Sequence[tuple[str, str]]:
        return [("layer.B", "layer.A")]

    def whole_model(self) -> tuple[int, int]:
        return 1000, 4000

    def train(self, arrays: Arrays, settings: Mapping[str, Any], env: NodeEnv) -> TrainResult:
        rank = int(env.node_config.get("rank", RANK))
        b, a = arrays["layer.B"][:, :rank].astype(np.float64), arrays["layer.A"][:rank].astype(np.float64)
        target = wanted(env.partition_id)
        for _ in range(20):
            miss = b @ a - target
            b, a = b - 0.02 * miss @ a.T, a - 0.02 * b.T @ miss
        trained = {"layer.A": a.astype(np.float32), "layer.B": b.astype(np.float32), "bias": arrays["bias"] + env.partition_id}
        return TrainResult(trained, 10 * (env.partition_id + 1), {"loss": float(np.mean((b @ a - target) ** 2))})

    def evaluate(self, arrays: Arrays, settings: Mapping[str, Any], env: NodeEnv) -> EvalResult:
        return EvalResult(0, {})

    def server_evaluate(self, arrays: Arrays) -> Metrics:
        mean = np.average([wanted(site) for site in range(3)], axis=0, weights=[10, 20, 30])
        return {"loss": float(np.mean((arrays["layer.B"] @ arrays["layer.A"] - mean) ** 2))}


class Whole(Adapters):
    """The same, all of it trained: it has no products to name."""

    def products(self) -> Sequence[tuple[str, str]]:
        return []


class Wrong(Adapters):
    """It names its factors the wrong way round."""

    def products(self) -> Sequence[tuple[str, str]]:
        return [("layer.A", "layer.B")]


class Big(Adapters):
    """Factors of 1 MB that nobody trains."""

    def initial_arrays(self) -> Arrays:
        return {"layer.B": np.zeros((2500, 50), np.float32), "layer.A": np.ones((50, 2500), np.float32)}

    def train(self, arrays: Arrays, settings: Mapping[str, Any], env: NodeEnv) -> TrainResult:
        return TrainResult(arrays, 1, {})

    def server_evaluate(self, arrays: Arrays) -> Metrics:
        return {}


def wanted(site: int) -> Any:
    """Give a site's matrix: one part that all have in common, and one of its own."""
    common, own = np.random.default_rng(0), np.random.default_rng(site + 1)
    shared = common.normal(size=(OUTPUTS, 2)) @ common.normal(size=(2, INPUTS))
    return shared + 0.5 * np.outer(own.normal(size=OUTPUTS), own.normal(size=INPUTS))
