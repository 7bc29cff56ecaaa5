"""Training and scoring a torch classifier: arrays in, arrays out."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from flower_app.config import RunConfig
from flower_app.workloads.interface import Arrays, Metrics, TrainResult
from flower_app.workloads.partition import Examples
from flower_app.workloads.scores import scores_of

MOMENTUM = 0.9


def train(model: torch.nn.Module, examples: Examples, config: RunConfig, settings: Mapping[str, Any], seed: int) -> TrainResult:
    """Train local-epochs epochs, or local-steps batches where that is set, by SGD with momentum, made anew each round.

    settings: `proximal-mu`, where the strategy sends it, holds the model near the one that arrived.
    The metrics loss and accuracy are means over the batches, each as the model met it; loss is without the proximal term.
    """
    x, y = torch.from_numpy(examples.x), torch.from_numpy(examples.labels)
    step = momentum_sgd(model, config.lr, float(settings.get("proximal-mu", 0.0)))
    losses, hits, seen = 0.0, 0, 0
    model.train()
    for batch in batches(len(y), config, seed):
        logits = model(x[batch])
        loss = cross_entropy(logits, y[batch])
        loss.backward()  # type: ignore[no-untyped-call]
        step()
        losses += loss.item() * len(batch)
        hits += int((logits.argmax(1) == y[batch]).sum())
        seen += len(batch)
    return TrainResult(arrays_of(model), min(seen, len(y)), {"loss": losses / seen, "accuracy": hits / seen})


def score(model: torch.nn.Module, examples: Examples) -> Metrics:
    """Give the loss and what scores_of() says of at least one example."""
    model.eval()
    with torch.inference_mode():
        logits = model(torch.from_numpy(examples.x))
        loss = float(cross_entropy(logits, torch.from_numpy(examples.labels)))
    return {"loss": loss, **scores_of(logits.numpy(), examples.labels)}


def batches(count: int, config: RunConfig, seed: int) -> Iterator[torch.Tensor]:
    """Shuffle 0..count-1 anew each epoch, until the epochs or the steps are used up."""
    generator = torch.Generator().manual_seed(seed)
    steps_of_epoch = -(-count // config.batch_size)
    left = config.local_steps or config.local_epochs * steps_of_epoch
    while left > 0:
        for batch in torch.split(torch.randperm(count, generator=generator), config.batch_size)[:left]:
            yield batch
            left -= 1


def momentum_sgd(model: torch.nn.Module, lr: float, proximal_mu: float = 0.0) -> Callable[[], None]:
    """Give the step of SGD with momentum, which uses the gradients up.

    The same arithmetic as torch.optim.SGD, whose first step imports torch._dynamo: 2.0 CPU-s, in a process that
    lives for one message and trains for half a second.
    proximal_mu: weight of FedProx's term ½ ‖w - start‖², whose gradient joins the loss's; start is the model as it is now.
    Source: Li et al. 2020, equation 2 (arXiv:1812.06127). Flower's example has the norm without its square.
    """
    parameters = list(model.parameters())
    starts = [parameter.detach().clone() for parameter in parameters] if proximal_mu else parameters
    velocities = [torch.zeros_like(parameter) for parameter in parameters]

    def step() -> None:
        with torch.no_grad():
            for parameter, start, velocity in zip(parameters, starts, velocities, strict=True):
                velocity.mul_(MOMENTUM).add_(_gradient(parameter))
                if proximal_mu:
                    velocity.add_(parameter - start, alpha=proximal_mu)
                parameter.add_(velocity, alpha=-lr)
                parameter.grad = None

    return step


def load(model: torch.nn.Module, arrays: Arrays) -> torch.nn.Module:
    """Put a copy of the arrays into the model."""
    model.load_state_dict({name: torch.from_numpy(np.array(values)) for name, values in arrays.items()})
    return model


def arrays_of(model: torch.nn.Module) -> Arrays:
    """Give the model's state by name, on its own memory."""
    return {name: values.detach().cpu().numpy() for name, values in model.state_dict().items()}


def _gradient(parameter: torch.Tensor) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad
