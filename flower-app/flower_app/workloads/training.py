"""Training and scoring with torch: the loop that every torch workload shares, and what classifiers put into it."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from flower_app.config import RunConfig
from flower_app.workloads.devices import choose_device, model_at, name_of, turn_at
from flower_app.workloads.guards import DataUnfit
from flower_app.workloads.interface import Arrays, Metrics, NodeEnv, TrainResult
from flower_app.workloads.memory import MemoryWatch, told_when_out_of_memory
from flower_app.workloads.optimizers import Proximity, make_optimizer, share_of_lr
from flower_app.workloads.partition import Examples
from flower_app.workloads.precision import Precision
from flower_app.workloads.scores import scores_of

CHANNELS_LAST_FROM = 28
"""Pixels a side: convolutions of such images take a third less time with channels last; smaller ones take more."""

EVALUATION_BATCH = 512

Facts = dict[str, str | int | float]
BatchLoss = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]]
"""From the places of a batch's examples: their mean loss, and how many of them were answered right where that can be said."""


@dataclass(frozen=True)
class Fitted:
    """What a fit has seen and what it cost; metrics are means over the batches, each as the model met it."""

    num_examples: int
    metrics: Metrics
    facts: Facts


def fit(
    model: torch.nn.Module, batch_loss: BatchLoss, count: int, config: RunConfig, settings: Mapping[str, Any], env: NodeEnv
) -> Fitted:
    """Train a model on `count` examples until local-epochs, local-steps or local-seconds are used up, whichever comes first.

    The model lies on the device that batch_loss computes on. settings: `proximal-mu`, where the strategy sends it, holds the
    model near the one that arrived; the loss is told without that term. Raises OutOfMemory, DataUnfit (no example).
    """
    if count < 1:
        raise DataUnfit(f'node "{env.node_name}": there is no example to train on')
    device = next(model.parameters()).device
    with turn_at(device) as waited_s, told_when_out_of_memory(device), _seeded(env.seed, device):
        watch, precision = MemoryWatch(device, config.memory_warning_share), Precision(device, config.amp)
        optimizer = make_optimizer(model.parameters(), config)
        proximity = Proximity(model.parameters(), float(settings.get("proximal-mu", 0.0)))
        wide = torch.float32 if device.type == "mps" else torch.float64
        losses, hits = torch.zeros((), dtype=wide, device=device), torch.zeros((), dtype=torch.int64, device=device)
        seen, steps, counts_hits = 0, 0, True
        started = time.monotonic()
        model.train()
        for batch, progress in batches(count, config, env.seed):
            for group in optimizer.param_groups:
                group["lr"] = config.lr * share_of_lr(config.lr_schedule, config.warmup_share, progress)
            with precision.cast():
                loss, right = batch_loss(batch)
            precision.backward(loss)
            proximity.pull(precision.scale)
            precision.step(optimizer)
            optimizer.zero_grad()
            losses += loss.detach() * len(batch)  # on the device: a look at each loss would wait for it
            counts_hits = counts_hits and right is not None
            hits += 0 if right is None else right
            seen, steps = seen + len(batch), steps + 1
        metrics = {"loss": losses.item() / seen}
        seconds = max(time.monotonic() - started, 1e-9)
        metrics |= {"accuracy": hits.item() / seen} if counts_hits else {}
        metrics |= {"examples_per_s": seen / seconds, "step_s": seconds / steps}
        facts: Facts = {"device": name_of(device), "precision": precision.name, "steps": steps, "waited_for_device_s": waited_s}
    return Fitted(min(seen, count), metrics, {**facts, **watch.facts()})


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Let dropout and the like draw from this fit's seed, and leave torch's own random numbers as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def train(
    model: torch.nn.Module, examples: Examples, config: RunConfig, settings: Mapping[str, Any], env: NodeEnv
) -> TrainResult:
    """Fit a classifier to examples, on the device that there is."""
    device, large = choose_device(env.device), examples.x.ndim == 4 and min(examples.x.shape[2:]) >= CHANNELS_LAST_FROM
    layout = torch.channels_last if large else torch.preserve_format

    def fit_there() -> Fitted:
        with told_when_out_of_memory(device):
            x = torch.from_numpy(examples.x).to(device, memory_format=layout)
            y = torch.from_numpy(examples.labels).to(device)

        def batch_loss(batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            places = batch.to(device)
            logits = model(x[places])
            return cross_entropy(logits, y[places]), (logits.argmax(1) == y[places]).sum()

        return fit(model, batch_loss, len(y), config, settings, env)

    with model_at(device, model, layout):
        fitted = fit_there()
    return TrainResult(arrays_of(model), fitted.num_examples, fitted.metrics, fitted.facts)


def score(model: torch.nn.Module, examples: Examples, device_wish: str = "cpu") -> Metrics:
    """Give the loss and what scores_of() says of at least one example."""
    device = choose_device(device_wish)
    with model_at(device, model.eval()), torch.inference_mode(), told_when_out_of_memory(device):
        pieces = torch.split(torch.from_numpy(examples.x), EVALUATION_BATCH)
        logits = torch.cat([model(piece.to(device)).float().cpu() for piece in pieces])
        loss = float(cross_entropy(logits, torch.from_numpy(examples.labels)))
    return {"loss": loss, **scores_of(logits.numpy(), examples.labels)}


def batches(count: int, config: RunConfig, seed: int) -> Iterator[tuple[torch.Tensor, float]]:
    """Shuffle 0..count-1 anew each epoch, until the epochs, the steps or the seconds are used up; at least one batch.

    Gives each batch with the share of the fit that lies before it. Raises ValueError: there is no batch of no example.
    """
    if count < 1:
        raise ValueError(f"batches need at least 1 example, got {count}")
    generator = torch.Generator().manual_seed(seed)
    steps_of_epoch = -(-count // config.batch_size)
    limits = [limit for limit in (config.local_steps, config.local_epochs * steps_of_epoch) if limit]
    most = min(limits) if limits else None
    started, done = time.monotonic(), 0
    while True:
        for batch in torch.split(torch.randperm(count, generator=generator), config.batch_size):
            spent = (time.monotonic() - started) / config.local_seconds if config.local_seconds else 0.0
            if done and (done == most or spent >= 1):
                return
            yield batch, min(max(done / most if most else 0.0, spent), 1.0)
            done += 1


def load(model: torch.nn.Module, arrays: Arrays) -> torch.nn.Module:
    """Put a copy of the arrays into the model."""
    model.load_state_dict({name: torch.from_numpy(np.array(values)) for name, values in arrays.items()})
    return model


def arrays_of(model: torch.nn.Module) -> Arrays:
    """Give the model's state by name, in memory of the CPU, each array in C order."""
    return {name: np.ascontiguousarray(values.detach().cpu().numpy()) for name, values in model.state_dict().items()}
