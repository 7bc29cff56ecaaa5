"""What one site's part costs: bytes, steps, memory; with adapters, and with the whole model.

`python -m benchmarks.lora_cases.costs RANK JSON` trains a few steps in a process of its own and prints its peak memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from flower_app.config import ConfigValue, RunConfig
from flower_app.measures import peak_rss_bytes
from flower_app.wire import size_bytes, to_record
from flower_app.workloads.interface import NodeEnv
from flower_app.workloads.lora_text import LoraText
from flower_app.workloads.optimizers import make_optimizer
from flwr.app import RecordDict

STEPS, MEMORY_STEPS = 12, 5
SITE_DEVICE = torch.device("cpu")
SITE = NodeEnv("site-a", 0, 4, 1, 7, 1, "cpu", None)


def workload(rank: int | None, run_config: Mapping[str, ConfigValue]) -> LoraText:
    """Make the workload at its own rank, or another; 0: the whole model."""
    return LoraText(RunConfig.parse({"workload": "lora-text", **run_config, **({} if rank is None else {"lora-r": rank})}))


def message_bytes(rank: int | None, run_config: Mapping[str, ConfigValue]) -> int:
    """Give the bytes of a model as a message carries it, one way."""
    return size_bytes(RecordDict({"arrays": to_record(workload(rank, run_config).initial_arrays())}))


def trainable_share(run_config: Mapping[str, ConfigValue]) -> float:
    """Give the share of all weights, adapters included, that are trained."""
    model = workload(None, run_config).model(RunConfig.parse(run_config).lora_r, SITE_DEVICE)
    weights = list(model.parameters())
    return sum(each.numel() for each in weights if each.requires_grad) / sum(each.numel() for each in weights)


def step_ms(steps: int, run_config: Mapping[str, ConfigValue]) -> tuple[float, float]:
    """Give the median CPU time of a step with adapters, and of one of the whole model, which take turns; one thread.

    A step is forward, backward and the fused AdamW on the same batch of 16 sentences.
    """
    torch.set_num_threads(1)
    kinds = [Stepping(workload(rank, run_config)) for rank in (None, 0)]
    took: list[list[float]] = [[], []]
    for number in range(steps + 2):
        for kind, times in zip(kinds, took, strict=True):
            started = time.process_time()
            kind.step(number)
            if number >= 2:
                times.append(1000 * (time.process_time() - started))
    adapters, whole = (sorted(times)[len(times) // 2] for times in took)
    return adapters, whole


class Stepping:
    """A model in training, on one site's sentences."""

    def __init__(self, made: LoraText) -> None:
        texts, _ = made.own_texts(SITE)
        self._made, self._tokens, self._labels = made, made.tokens(texts), torch.from_numpy(texts.labels)
        self._model = made.loaded(made.initial_arrays(), made.config.lora_r, SITE_DEVICE).train()
        self._optimizer = make_optimizer(self._model.parameters(), made.config)

    def step(self, number: int) -> None:
        size = self._made.config.batch_size
        places = torch.arange(number * size, (number + 1) * size) % len(self._tokens)
        loss, _, _ = self._made.loss(self._model, self._tokens.batch(places.tolist(), SITE_DEVICE), self._labels[places])
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._optimizer.zero_grad()


def memory_bytes(rank: int | None, run_config: Mapping[str, ConfigValue]) -> int:
    """Give the peak memory of a process that trains a few steps as a ClientApp does."""
    command = [sys.executable, "-m", "benchmarks.lora_cases.costs", json.dumps(rank), json.dumps(dict(run_config))]
    told = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return int(told.stdout.splitlines()[-1])


def main() -> None:
    rank, run_config = (json.loads(argument) for argument in sys.argv[1:])
    settings: dict[str, Any] = {**run_config, "local-steps": MEMORY_STEPS}
    torch.set_num_threads(1)
    made = workload(rank, settings)
    made.train(made.initial_arrays(), {}, SITE)
    print(peak_rss_bytes())


if __name__ == "__main__":
    main()
