"""A tiny workload that does what its run config asks: train in a blink, slowly, or die in one of many ways."""

import os
import resource
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flower_app.config import RunConfig
from flower_app.workloads.interface import Arrays, EvalResult, Metrics, NodeEnv, TrainResult


class Trouble:
    """A mean of made-up numbers: deterministic by (seed, partition, round), so that runs can be compared."""

    name = "trouble"

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._weights = int(str(config.values["weights"]))
        self._scored = 0

    def initial_arrays(self) -> Arrays:
        if self._config.values["trouble"] == "server-raise":
            raise FileNotFoundError("no base model on the server")
        if self._config.values["trouble"] == "server-sigkill":
            os.kill(os.getpid(), signal.SIGKILL)
        return {"w": np.zeros(self._weights, dtype=np.float32)}

    def train(self, arrays: Arrays, settings: Mapping[str, Any], env: NodeEnv) -> TrainResult:
        print(f"training on {env.node_name}", flush=True)
        site = self._config.values["trouble-site"]
        if site in ("", env.node_name):
            _misbehave(str(self._config.values["trouble"]), env.round)
        time.sleep(float(self._config.values["train-s"]))
        noise = np.random.default_rng(env.seed).normal(size=self._weights).astype(np.float32)
        return TrainResult({"w": 0.5 * arrays["w"] + 0.1 * noise}, 10 + env.partition_id, {"loss": float(abs(noise).mean())})

    def evaluate(self, arrays: Arrays, settings: Mapping[str, Any], env: NodeEnv) -> EvalResult:
        return EvalResult(1, {"loss": float(abs(arrays["w"]).mean())})

    def server_evaluate(self, arrays: Arrays) -> Metrics:
        self._scored += 1
        if self._scored == 2 and is_the_time_for("server-fails-once", self._config.values["trouble"]):
            raise RuntimeError("no test set on the server")
        return {"loss": float(abs(arrays["w"]).mean()), "accuracy": 0.5}


def is_the_time_for(trouble: str, asked: object) -> bool:
    """Is this the trouble that a run asks for, and its server's first? A file in the run's directory remembers."""
    if trouble != asked:
        return False
    marker = Path(os.environ["ESPALIER_RUN_DIR"]) / trouble
    is_first = not marker.exists()
    marker.touch()
    return is_first


def _misbehave(how: str, number: int) -> None:
    match how:
        case "raise":
            raise KeyError("no such column: age")
        case "exit":
            print("about to leave without a word", flush=True)
            os._exit(3)
        case "sigkill":
            print("about to be killed", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        case "import":
            import no_such_module  # noqa: F401
        case "memory":
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
            np.ones(2**31)
        case "busy":
            while True:
                pass
        case "sleep":
            time.sleep(600)
        case "sleep-later" if number > 1:
            time.sleep(600)
        case "slow":
            time.sleep(4)
        case "environment":
            print("ENVIRONMENT " + " ".join(f"{key}={value}" for key, value in sorted(os.environ.items())), flush=True)
