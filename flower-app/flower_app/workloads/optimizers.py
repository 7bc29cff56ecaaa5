"""The optimizer of one fit, made anew in each round, with its learning rate's course over the fit."""

import math
from collections.abc import Iterable
from typing import Any, Protocol

import torch

from flower_app.config import MOMENTUM, RunConfig


class Optimizer(Protocol):
    """What a fit asks of an optimizer; torch's own are this too."""

    param_groups: list[dict[str, Any]]

    def step(self) -> Any: ...

    def zero_grad(self) -> Any: ...


def make_optimizer(parameters: Iterable[torch.nn.Parameter], config: RunConfig) -> Optimizer:
    """Make what `optimizer` names: sgd (momentum 0.9) or adamw, fused where torch can (a fifth to a third less time a step)."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if config.optimizer == "adamw":
        fused = {parameter.device.type for parameter in trained} <= {"cpu", "cuda"}
        return torch.optim.AdamW(trained, lr=config.lr, weight_decay=config.weight_decay, fused=fused)
    return MomentumSGD(trained, config.lr, config.weight_decay)


class MomentumSGD:
    """torch.optim.SGD with momentum, by the same arithmetic, without the import of torch._dynamo that every torch.optim costs.

    That is 1.9 CPU-s, in a process that may live for one message and train for half a second. On a GPU torch's fused one would
    be wrong besides: where float16 overflows in the first step, which is left out then, its momentum begins as whatever the
    memory held (torch 2.13).
    """

    def __init__(self, parameters: list[torch.nn.Parameter], lr: float, weight_decay: float) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": parameters, "lr": lr, "weight_decay": weight_decay}]
        self._velocities = [torch.zeros_like(parameter) for parameter in parameters]

    @torch.no_grad()
    def step(self) -> None:
        """Move each parameter that has a gradient."""
        group = self.param_groups[0]
        moved = [each for each in zip(group["params"], self._velocities, strict=True) if each[0].grad is not None]
        parameters, velocities = [parameter for parameter, _ in moved], [velocity for _, velocity in moved]
        torch._foreach_mul_(velocities, MOMENTUM)  # one kernel for many tensors on a GPU
        torch._foreach_add_(velocities, [parameter.grad for parameter in parameters])
        if group["weight_decay"]:
            torch._foreach_add_(velocities, parameters, alpha=group["weight_decay"])
        torch._foreach_add_(parameters, velocities, alpha=-group["lr"])

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None


class Proximity:
    """FedProx's term ½ mu ‖w - start‖², whose gradient joins the loss's; start is the model as it arrived.

    Source: Li et al. 2020, equation 2 (arXiv:1812.06127). Flower's example has the norm without its square.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], mu: float) -> None:
        self._mu = mu
        self._starts = [(each, each.detach().clone()) for each in parameters if each.requires_grad] if mu else []

    @torch.no_grad()
    def pull(self, scale: float = 1.0) -> None:
        """Add the term's gradient. scale: by which the loss's gradients are larger than they are."""
        for parameter, start in self._starts:
            if parameter.grad is not None:
                parameter.grad.add_(parameter - start, alpha=self._mu * scale)


def share_of_lr(schedule: str, warmup_share: float, progress: float) -> float:
    """Give the share of lr at a point of the fit: after a linear warm-up constant, linear to 0, or a half cosine to 0.

    progress: 0 before the first step, towards 1 at the end.
    """
    if progress < warmup_share:
        return max(progress / warmup_share, 0.01)
    after = (progress - warmup_share) / (1 - warmup_share)
    if schedule == "linear":
        return 1 - after
    if schedule == "cosine":
        return (1 + math.cos(math.pi * after)) / 2
    return 1.0
