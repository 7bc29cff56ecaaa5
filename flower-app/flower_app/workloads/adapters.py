"""LoRA by peft: a frozen model with small trained factors, and the way from those to arrays and back.

Of each adapted layer the arrays hold `…lora_A.weight` (rank, inputs) and `…lora_B.weight` (outputs, rank), by the names of
peft's own files; beside them the head, where the task trains a new one.
Source: Hu et al. 2021 (arXiv:2106.09685); `ffa`: Sun et al. 2024 (arXiv:2403.12313).
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

from flower_app.config import ConfigError, RunConfig
from flower_app.workloads.interface import Arrays, derived_seed

A, B = ".lora_A.weight", ".lora_B.weight"
HEAD_STD = 0.02
FACTORS = 5  # the stream of random numbers that first factors are drawn from


def lora_config(config: RunConfig, rank: int, targets: Sequence[str] | None, task: str) -> LoraConfig:
    """Say in peft's words what a run adapts, at a site's own rank: the scaling stays the run's, lora-alpha / lora-r.

    targets: layer names; None leaves them to peft. task: SEQ_CLS or CAUSAL_LM.
    """
    alpha: Any = config.lora_alpha * rank / config.lora_r
    return LoraConfig(
        r=rank,
        lora_alpha=int(alpha) if alpha == int(alpha) else alpha,
        lora_dropout=config.lora_dropout,
        target_modules=list(targets) if targets else None,
        task_type=task,
    )


def adapted(base: torch.nn.Module, lora: LoraConfig) -> PeftModel:
    """Put adapters into a base model, which is changed by it. Raises ConfigError (key `lora-targets`)."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # peft 0.21 asks transformers for it
            model = get_peft_model(base, lora)
    except ValueError as error:
        raise ConfigError(f"lora-targets {','.join(lora.target_modules or ['(none)'])} cannot be adapted: {error}") from error
    strange = [name for name in _state_of(model) if "lora_" in name and not name.endswith((A, B))]
    if strange:
        raise ConfigError(f"lora-targets names layers that are not linear: {strange[0]}")
    return model


def freeze_a(model: PeftModel) -> None:
    """Leave the factors A as they are: under ffa only B is trained, so that the mean of the products is the product of means."""
    for name, parameter in model.named_parameters():
        if ".lora_A." in name:
            parameter.requires_grad = False


def shapes_of(model: PeftModel) -> dict[str, tuple[int, ...]]:
    """Name the arrays of the adapters and the head, with their shapes."""
    return {name: tuple(values.shape) for name, values in _state_of(model).items()}


def first_arrays(shapes: Mapping[str, tuple[int, ...]], seed: int) -> Arrays:
    """Draw the first adapters and head, float32: A as peft draws it, uniform within 1/sqrt(inputs), B 0, a head's weight normal.

    By numpy's generator and each array's name, so that every machine draws the same.
    """
    arrays: Arrays = {}
    for name, shape in shapes.items():
        random = np.random.default_rng(derived_seed(seed, FACTORS, crc32(name.encode())))
        if name.endswith(A):
            bound = shape[-1] ** -0.5
            arrays[name] = random.uniform(-bound, bound, shape).astype(np.float32)
        elif name.endswith(B) or name.endswith("bias"):
            arrays[name] = np.zeros(shape, np.float32)
        else:
            arrays[name] = random.normal(0.0, HEAD_STD, shape).astype(np.float32)
    return arrays


def frozen_a(shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
    """Give the factors A of ffa, which never travel: the same at each site and in each run, whatever its seed."""
    return first_arrays({name: shape for name, shape in shapes.items() if name.endswith(A)}, seed=0)


def pairs_of(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pair the names of the factors, (B, A) of each layer."""
    return [(name, name.removesuffix(B) + A) for name in names if name.endswith(B)]


def at_rank(arrays: Arrays, rank: int) -> Arrays:
    """Cut the factors to a site's smaller rank; after a projection by SVD the first ones are the best of that rank."""
    cut: Arrays = {}
    for name, values in arrays.items():
        cut[name] = values[:rank] if name.endswith(A) else values[:, :rank] if name.endswith(B) else values
    return cut


def put(model: PeftModel, arrays: Arrays) -> None:
    """Copy arrays into the adapters and the head, all of them. Raises ValueError where they are not those of the model."""
    if arrays.keys() != shapes_of(model).keys():
        raise ValueError(f"adapters differ from the model's: {sorted(arrays.keys() ^ shapes_of(model).keys())[:4]}")
    tensors = {name: torch.from_numpy(np.array(values)) for name, values in arrays.items()}
    set_peft_model_state_dict(model, tensors)


def taken(model: PeftModel) -> Arrays:
    """Give the adapters and the head, float32, on memory of their own."""
    return {name: values.detach().to("cpu", torch.float32, copy=True).numpy() for name, values in _state_of(model).items()}


def _state_of(model: PeftModel) -> dict[str, torch.Tensor]:
    """Give what peft saves; embeddings are none of it, and asking whether they are has peft look at the hub."""
    state: dict[str, torch.Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    return state
