"""A chain of linear layers with ReLU between, in numpy: its first weights, its answers, and what they are worth.

Arrays are named as torch names those of `Sequential(Linear, ReLU, Linear, …)`: `0.weight` (out, in), `0.bias` (out,),
`2.weight`, … One layer with one output is logistic regression as Propeller's clients have it: `w` (in,) and `b` ().
"""

import itertools
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flower_app.config import ConfigError
from flower_app.workloads.guards import DataUnfit
from flower_app.workloads.interface import Arrays, Metrics
from flower_app.workloads.partition import Examples, Labels
from flower_app.workloads.scores import scores_of

Floats = NDArray[np.float32]
MOST_WEIGHTS = 100_000_000
"""0.4 GB of float32; a site that trains them needs some four times as much."""


def parse_layers(text: str) -> tuple[int, ...]:
    """Read `64-32-10`: features, sizes of the hidden layers, classes.

    One output is allowed of a single layer only, which then tells two classes apart. Raises ConfigError (key `layers`).
    """
    if not re.fullmatch("[1-9][0-9]{0,7}(-[1-9][0-9]{0,7})+", text):
        raise ConfigError(f"layers needs features, hidden sizes and classes as in 64-32-10, got {text[:100]!r}")
    sizes = tuple(map(int, text.split("-")))
    if (weights := sum((inputs + 1) * outputs for inputs, outputs in itertools.pairwise(sizes))) > MOST_WEIGHTS:
        raise ConfigError(f"layers {text[:100]!r} has {weights:,} weights, and at most {MOST_WEIGHTS:,} are trained")
    if sizes[-1] == 1 and len(sizes) > 2:
        raise ConfigError(f"layers {text!r} has one output: a network needs one for each class, at least 2")
    return sizes


def is_logistic(sizes: Sequence[int]) -> bool:
    """Is it Propeller's logistic regression, `w` and `b`?"""
    return sizes[-1] == 1


def first_arrays(sizes: Sequence[int], seed: int) -> Arrays:
    """Draw weights and biases of each layer from -k..k, k = 1 / sqrt(inputs), as torch.nn.Linear does; `w` and `b` are 0."""
    if is_logistic(sizes):
        return {"w": np.zeros(sizes[0], np.float32), "b": np.zeros((), np.float32)}
    random, arrays = np.random.default_rng(seed), Arrays()
    for layer, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        reach = 1 / np.sqrt(inputs)
        for name, shape in (("weight", (outputs, inputs)), ("bias", (outputs,))):
            arrays[f"{2 * layer}.{name}"] = random.uniform(-reach, reach, shape).astype(np.float32)
    return arrays


def score(arrays: Arrays, examples: Examples) -> Metrics:
    """Give the loss (mean cross-entropy) and what scores_of() says of at least one example; x is (examples, features).

    Nothing where weights are so large that answers are no numbers.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        logits = logits_of(arrays, examples.x)
    if not np.isfinite(logits).all():
        return {}
    return {"loss": _cross_entropy(logits, examples.labels), **scores_of(logits, examples.labels)}


def logits_of(arrays: Arrays, x: Floats) -> Floats:
    """Give (examples, classes) logits."""
    if "w" in arrays:
        margin = x @ arrays["w"] + arrays["b"]
        return np.stack([np.zeros_like(margin), margin], axis=1)
    layers = len(arrays) // 2
    for layer in range(layers):
        x = x @ arrays[f"{2 * layer}.weight"].T + arrays[f"{2 * layer}.bias"]
        if layer + 1 < layers:
            np.maximum(x, 0, out=x)
    return x


def check_fit(sizes: Sequence[int], examples: Examples, who: str) -> None:
    """See that the network takes the examples and has an output for each label; who: has them. Raises DataUnfit."""
    classes = max(sizes[-1], 2)
    if examples.x.ndim != 2 or examples.x.shape[1] != sizes[0]:
        told = f"an example has the shape {examples.x.shape[1:]}, and layers begins with {sizes[0]}"
        raise DataUnfit(f"{who}: {told}")
    if (most := int(examples.labels.max(initial=0))) >= classes:
        raise DataUnfit(f"{who}: label {most} needs {most + 1} outputs, and the model has {classes}")


def _cross_entropy(logits: Floats, labels: Labels) -> float:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    return float((np.log(np.exp(wide).sum(axis=1)) - wide[np.arange(len(labels)), labels]).mean())
