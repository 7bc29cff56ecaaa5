"""A workload without torch: the model walks towards a number of each site's own, by a seeded random step."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from flower_app.config import RunConfig
from flower_app.workloads.interface import Arrays, EvalResult, Metrics, NodeEnv, TrainResult


class Toy:
    """Site p has 10 * (p + 1) examples and pulls every weight towards p."""

    name = "toy"

    def __init__(self, config: RunConfig) -> None:
        self._config = config

    def initial_arrays(self) -> Arrays:
        return {
            "weight": np.random.default_rng(self._config.seed).normal(size=(4, 3)).astype(np.float32),
            "steps": np.array(0, np.int64),
        }

    def train(self, arrays: Arrays, settings: Mapping[str, Any], env: NodeEnv) -> TrainResult:
        pull = np.random.default_rng(env.seed).uniform(0.2, 0.8, size=(4, 3)).astype(np.float32)
        weight = arrays["weight"] + pull * (np.float32(env.partition_id) - arrays["weight"])
        loss = float(np.mean((weight - env.partition_id) ** 2))
        trained = {"weight": weight, "steps": np.asarray(arrays["steps"] + 1)}
        return TrainResult(trained, 10 * (env.partition_id + 1), {"loss": loss, "accuracy": 1 / (1 + loss)})

    def evaluate(self, arrays: Arrays, settings: Mapping[str, Any], env: NodeEnv) -> EvalResult:
        return EvalResult(5, self.server_evaluate(arrays))

    def server_evaluate(self, arrays: Arrays) -> Metrics:
        loss = float(np.mean((arrays["weight"] - 4 / 3) ** 2))
        return {"loss": loss, "accuracy": 1 / (1 + loss)}

    def quick_evaluate(self, arrays: Arrays, num_examples: int) -> Metrics:
        return {"loss": float(np.mean((arrays["weight"].reshape(-1)[:num_examples] - 4 / 3) ** 2))}


class Wide:
    """A model of 0.8 MB that nobody trains, without a part of its test set."""

    name = "wide"

    def __init__(self, config: RunConfig) -> None: ...

    def initial_arrays(self) -> Arrays:
        return {"weight": np.zeros(200_000, np.float32)}

    def train(self, arrays: Arrays, settings: Mapping[str, Any], env: NodeEnv) -> TrainResult:
        return TrainResult({"weight": arrays["weight"] + 1}, 1, {})

    def evaluate(self, arrays: Arrays, settings: Mapping[str, Any], env: NodeEnv) -> EvalResult:
        return EvalResult(0, {})


class Floats(Toy):
    """The toy without its whole number."""

    def initial_arrays(self) -> Arrays:
        return {"weight": super().initial_arrays()["weight"]}

    def train(self, arrays: Arrays, settings: Mapping[str, Any], env: NodeEnv) -> TrainResult:
        trained = super().train({**arrays, "steps": np.array(0)}, settings, env)
        return TrainResult({"weight": trained.arrays["weight"]}, trained.num_examples, trained.metrics)


class Boaster(Toy):
    """The toy, with facts that are not its own to tell."""

    def train(self, arrays: Arrays, settings: Mapping[str, Any], env: NodeEnv) -> TrainResult:
        trained = super().train(arrays, settings, env)
        boasts: dict[str, str | int | float] = {"partition_id": 9, "num_partitions": 1, "eval_examples": 10**6, "rss_bytes": 1}
        return replace(trained, facts={"colour": "red", "device": "abacus", "node_name": "site-a", **boasts})
