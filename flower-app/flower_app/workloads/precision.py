"""Mixed precision, where it is faster: on a CPU without instructions for bfloat16 it takes 4 to 17 times as long."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from flower_app.workloads.optimizers import Optimizer

CPU_FLAGS = ("avx512_bf16", "amx_bf16")


class Precision:
    """How a fit computes: plain float32, or autocast to bfloat16 or float16, the latter with scaled losses."""

    def __init__(self, device: torch.device, amp: str) -> None:
        """amp: auto or off."""
        self._device = device
        self.dtype = half_type(device) if amp == "auto" else None
        self._scaler = torch.amp.GradScaler(device.type) if self.dtype is torch.float16 else None

    @property
    def name(self) -> str:
        """Name it as torch does."""
        return str(self.dtype or torch.float32).removeprefix("torch.")

    def cast(self) -> AbstractContextManager[Any]:
        """Give the context for a forward pass."""
        return nullcontext() if self.dtype is None else torch.autocast(self._device.type, self.dtype)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the loss's gradients up."""
        (self._scaler.scale(loss) if self._scaler else loss).backward()  # type: ignore[no-untyped-call]

    @property
    def scale(self) -> float:
        """Say how much larger than they are the gradients stand in the parameters."""
        return self._scaler.get_scale() if self._scaler else 1.0

    def step(self, optimizer: Optimizer) -> None:
        """Do the optimizer's step; one whose scaled gradients are not finite is left out, as GradScaler does."""
        if self._scaler:
            self._scaler.step(optimizer)  # type: ignore[arg-type]  # on CUDA it is one of torch's own
            self._scaler.update()
        else:
            optimizer.step()


def half_type(device: torch.device) -> torch.dtype | None:
    """Give the half precision that pays at a device: on CUDA bfloat16, or float16 where it has none; on a CPU with
    instructions for bfloat16 that; else None.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and any(torch.cpu.get_capabilities().get(flag) for flag in CPU_FLAGS):
        return torch.bfloat16
    return None
