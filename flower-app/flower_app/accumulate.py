"""What a round gathers of its updates: their weighted mean, one at a time, or all of them where the rule needs them at once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flower_app.blocks import in_blocks
from flower_app.workloads.interface import Arrays, Metrics

DOUBLE_UP_TO_BYTES = 256 * 2**20
"""Models up to this size are summed in float64, so that the order of arrival does not show; larger ones in float32."""

THREADS = 2


@dataclass(frozen=True)
class Contribution:
    """One valid update. weight: num_examples, discounted where it is stale; arrays lie on the message's own bytes."""

    node_id: int
    arrays: Arrays
    num_examples: int
    metrics: Metrics
    weight: float


class Gathered(Protocol):
    """What a round has of its updates so far."""

    count: int
    num_examples: int

    def add(self, update: Contribution) -> None:
        """Take one in."""

    def metrics(self) -> Metrics:
        """Give each metric's mean over the nodes that sent it, by weight."""


class MeanMetrics:
    """Counts updates, their examples and the means of their metrics."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}
        self.num_examples = 0
        self.weight = 0.0
        self.count = 0

    def add(self, update: Contribution) -> None:
        """Count one update."""
        for name, value in update.metrics.items():
            summed, weight = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = (summed + value * update.weight, weight + update.weight)
        self.num_examples += update.num_examples
        self.weight += update.weight
        self.count += 1

    def metrics(self) -> Metrics:
        """Give each metric's mean over the nodes that sent it."""
        return {name: summed / weight for name, (summed, weight) in self._sums.items()}


class WeightedMean(MeanMetrics):
    """Sum of weight x model and of weight x metric; FedAvg's rule, and the first half of its relatives'.

    An update may be forgotten once it is added. Source: McMahan et al. 2017, Algorithm 1 (arXiv:1602.05629).
    """

    def __init__(self, like: Arrays) -> None:
        """like: a model whose names, shapes and dtypes every update has (replies.py has checked that)."""
        super().__init__()
        double = sum(values.nbytes for values in like.values()) <= DOUBLE_UP_TO_BYTES
        self._dtypes = {name: values.dtype for name, values in like.items()}
        self._totals = {name: np.zeros(values.shape, np.float64 if double else np.float32) for name, values in like.items()}

    def add(self, update: Contribution) -> None:
        """Count one update, as many times as its weight says."""
        parts = [part for name, total in self._totals.items() for part in in_blocks(total, update.arrays[name])]
        if len(parts) <= THREADS * 4:
            _add_all(parts, update.weight)
        else:
            with ThreadPoolExecutor(THREADS) as threads:  # numpy lets go of the interpreter in each of its loops
                list(threads.map(lambda first: _add_all(parts[first::THREADS], update.weight), range(THREADS)))
        super().add(update)

    def hand_over(self) -> Arrays:
        """Give the mean in the model's own dtypes, whole numbers rounded, made in the place of the sums, which are gone then.

        To be asked once, after at least one update; count, num_examples and metrics() stay.
        """
        mean: Arrays = {}
        for name in list(self._totals):
            total = self._totals.pop(name)
            np.divide(total, self.weight, out=total)
            mean[name] = in_dtype(total, self._dtypes[name])
        return mean


class HeldUpdates(MeanMetrics):
    """All updates of a round, as they came."""

    def __init__(self) -> None:
        super().__init__()
        self._held: list[Contribution] = []

    def add(self, update: Contribution) -> None:
        """Keep one."""
        self._held.append(update)
        super().add(update)

    def hand_over(self) -> Iterator[Contribution]:
        """Give them up one by one, by node id, so that the order of arrival does not show; what was given is held no more."""
        self._held.sort(key=lambda update: update.node_id, reverse=True)
        while self._held:
            yield self._held.pop()


def in_dtype(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Convert, rounding where dtype holds whole numbers; no copy where nothing changes."""
    if dtype.kind in "iub":
        values = np.rint(values)
    return np.asarray(values).astype(dtype, copy=False)


def _add_all(parts: list[tuple[NDArray[Any], ...]], weight: float) -> None:
    scratch = np.empty(max((total.size for total, _ in parts), default=0), parts[0][0].dtype if parts else None)
    with np.errstate(over="ignore", invalid="ignore"):  # a sum that leaves float32's range shows in the model, which is looked at
        for total, values in parts:
            product = scratch[: total.size]
            np.multiply(values, weight, out=product, dtype=total.dtype)
            np.add(total, product, out=total)


def staleness_discount(rounds_late: int, alpha: float) -> float:
    """Give (rounds_late + 1)^-alpha, which is 1 for an update of the round at work.

    Source: Xie et al. 2019 (arXiv:1903.03934), section 5.2.
    """
    return float((rounds_late + 1) ** -alpha)
