"""The streaming weighted mean: one update at a time is added and may be forgotten."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flower_app.workloads.interface import Arrays, Metrics

DOUBLE_UP_TO_BYTES = 256 * 2**20
"""Models up to this size are summed in float64, so that the order of arrival does not show; larger ones in float32."""


class WeightedMean:
    """Sum of num_examples x model and of num_examples x metric; FedAvg's rule, and the first half of its relatives'.

    Source: McMahan et al. 2017, Algorithm 1 (arXiv:1602.05629).
    """

    def __init__(self, like: Arrays) -> None:
        """like: a model whose names, shapes and dtypes every update has (replies.py has checked that)."""
        double = sum(values.nbytes for values in like.values()) <= DOUBLE_UP_TO_BYTES
        self._dtypes = {name: values.dtype for name, values in like.items()}
        self._sums = {name: np.zeros(values.shape, np.float64 if double else np.float32) for name, values in like.items()}
        self._metrics: dict[str, tuple[float, int]] = {}
        self.num_examples = 0
        self.count = 0

    def add(self, arrays: Arrays, num_examples: int, metrics: Mapping[str, float]) -> None:
        """Count one update, as many times as it has examples (>= 1)."""
        for name, total in self._sums.items():
            total += np.multiply(arrays[name], num_examples, dtype=total.dtype)
        for name, value in metrics.items():
            summed, weight = self._metrics.get(name, (0.0, 0))
            self._metrics[name] = (summed + value * num_examples, weight + num_examples)
        self.num_examples += num_examples
        self.count += 1

    def arrays(self) -> Arrays:
        """Give the mean in the model's own dtypes; whole numbers are rounded. At least one update was added."""
        return {name: in_dtype(total / self.num_examples, self._dtypes[name]) for name, total in self._sums.items()}

    def metrics(self) -> Metrics:
        """Give each metric's mean over the nodes that sent it."""
        return {name: summed / weight for name, (summed, weight) in self._metrics.items()}


def in_dtype(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Convert, rounding where dtype holds whole numbers; no copy where nothing changes."""
    if dtype.kind in "iub":
        values = np.rint(values)
    return np.asarray(values).astype(dtype, copy=False)
