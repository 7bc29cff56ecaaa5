"""Products of two factors, as LoRA trains them: the mean of B @ A over a round's updates, as factors of the model's rank."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flower_app.accumulate import Contribution, WeightedMean, in_dtype
from flower_app.config import RunConfig
from flower_app.rules import Rule, see_that_products_may_be_averaged
from flower_app.workloads.interface import Arrays, Workload

Products = Sequence[tuple[str, str]]
"""Names of pairs (B, A) of which only B @ A counts. B: (outputs, rank), A: (rank, inputs)."""

Doubles = NDArray[np.float64]


class NoProduct(ValueError):
    """Two arrays cannot be the factors of the model's product."""


def products_of(workload: Workload, config: RunConfig, rule: Rule) -> Products:
    """Give the pairs of which a run averages the products: the workload's under lora-aggregation = svd, else none.

    Raises ConfigError where the strategy cannot do that.
    """
    offered = getattr(workload, "products", None)
    products = tuple(offered()) if offered and config.lora_aggregation == "svd" else ()
    if products:
        see_that_products_may_be_averaged(config, rule)
    return products


def see_that_they_are_factors(products: Products, model: Arrays) -> None:
    """Check what a workload calls products against its model. Raises NoProduct."""
    seen: set[str] = set()
    for pair in products:
        for name in pair:
            if name not in model or name in seen:
                raise NoProduct(f"products() names {name}, which {'the model has not' if name not in model else 'stands twice'}")
            seen.add(name)
        b, a = (model[name] for name in pair)
        if b.ndim != 2 or a.ndim != 2 or b.shape[1] != a.shape[0] or not b.size * a.size or {b.dtype.kind, a.dtype.kind} != {"f"}:
            told = " and ".join(f"{name} {each.dtype} {each.shape}" for name, each in zip(pair, (b, a), strict=True))
            raise NoProduct(f"products() needs floats of shapes (outputs, rank) and (rank, inputs), names {told}")


def in_full_rank(arrays: Arrays, like: Arrays, products: Products) -> Arrays:
    """Fill factors of a smaller rank up with zeros to the model's shapes, which leaves their product as it is.

    What else differs from the model stays as it is. Raises NoProduct for a rank that the model cannot take.
    """
    filled = dict(arrays)
    for pair in products:
        b, a = (arrays.get(name) for name in pair)
        if b is None or a is None or b.ndim != 2 or a.ndim != 2:
            continue
        (outputs, full), inputs = like[pair[0]].shape, like[pair[1]].shape[1]
        if b.shape[1] != a.shape[0]:
            raise NoProduct(f"array {pair[0]} has rank {b.shape[1]}, and array {pair[1]} has rank {a.shape[0]}")
        if not 1 <= b.shape[1] <= full:
            raise NoProduct(f"arrays {pair[0]} and {pair[1]} have rank {b.shape[1]}, the model takes 1 to {full}")
        if b.shape[0] != outputs:
            raise NoProduct(f"array {pair[0]} has {b.shape[0]} outputs, the model's has {outputs}")
        if a.shape[1] != inputs:
            raise NoProduct(f"array {pair[1]} has {a.shape[1]} inputs, the model's has {inputs}")
        for name, values in zip(pair, (b, a), strict=True):
            if values.shape != like[name].shape and values.dtype == like[name].dtype:
                filled[name] = np.zeros(like[name].shape, values.dtype)
                filled[name][: values.shape[0], : values.shape[1]] = values
    return filled


class ProductMean(WeightedMean):
    """The weighted mean of products, each given as factors of the model's rank; of all other arrays the mean itself.

    Of the mean product the nearest one of that rank is taken. The factors of each update are held until then.
    Source: FlexLoRA, Bai et al. 2024 (arXiv:2402.11505).
    """

    def __init__(self, like: Arrays, products: Products) -> None:
        """like: a model whose names, shapes and dtypes every update has."""
        factors = {name for pair in products for name in pair}
        super().__init__({name: values for name, values in like.items() if name not in factors})
        self._dtypes |= {name: like[name].dtype for name in factors}
        self._ranks = {pair: like[pair[0]].shape[1] for pair in products}
        self._held: list[tuple[int, float, Arrays]] = []

    def add(self, update: Contribution) -> None:
        """Count one update, and hold its factors."""
        factors = {name: update.arrays[name] for pair in self._ranks for name in pair}
        self._held.append((update.node_id, update.weight, factors))
        super().add(update)

    def hand_over(self) -> Arrays:
        """Give the mean as WeightedMean does; computed in float64, by node id, so that the order of arrival does not show."""
        mean = super().hand_over()
        self._held.sort(key=itemgetter(0))
        weights = np.array([weight for _, weight, _ in self._held])
        with _one_thread(), np.errstate(all="ignore"):  # what leaves the range of numbers shows in the model, which is looked at
            shares = np.sqrt(weights / math.fsum(weights))
            for (b, a), rank in self._ranks.items():
                scales = np.repeat(shares, rank)  # half of a weight on either factor
                made = nearest_factors(self._joined(b, 1, scales), self._joined(a, 0, scales[:, None]), rank)
                for name, values in zip((b, a), made, strict=True):
                    mean[name] = in_dtype(values, self._dtypes[name])
        self._held.clear()
        return mean

    def _joined(self, name: str, axis: int, scales: Doubles) -> Doubles:
        joined = np.concatenate([factors.pop(name) for _, _, factors in self._held], axis=axis, dtype=np.float64)
        joined *= scales
        return joined


def nearest_factors(b: Doubles, a: Doubles, rank: int) -> tuple[Doubles, Doubles]:
    """Give factors of the matrix of that rank that is nearest to b @ a (Frobenius norm): B = U sqrt(S), A = sqrt(S) V^T.

    b: (outputs, n), a: (n, inputs). Nothing of b @ a's shape is made where n is smaller. A part that b @ a has not, as its rank
    is less, is 0 in B; in A it is as long as rows of `a` are, so that it can be trained: where both are 0, no gradient is.
    NaN where the numbers leave float64's range. Source: Eckart and Young 1936.
    """
    length = np.linalg.norm(a) / math.sqrt(rank)
    qb, rb = _reduced(b)
    qa, ra = _reduced(a.T)
    core = rb @ ra.T
    del b, a, rb, ra
    if not np.isfinite(core).all():
        return np.full((len(qb), rank), np.nan), np.full((rank, len(qa)), np.nan)
    u, s, vt = np.linalg.svd(core, full_matrices=False)
    kept = min(rank, len(s))
    root = np.sqrt(s[:kept])
    is_there = s[:kept] > s[0] * max(core.shape) * np.finfo(s.dtype).eps
    made_b, made_a = np.zeros((len(qb), rank)), np.zeros((rank, len(qa)))
    made_b[:, :kept] = (qb @ u[:, :kept]) * np.where(is_there, root, 0.0)
    made_a[:kept] = (vt[:kept] @ qa.T) * np.where(is_there, root, length)[:, None]
    return made_b, made_a


def _reduced(matrix: Doubles) -> tuple[Doubles, Doubles]:
    """Give Q and R of a tall matrix; a wide one is as small as its R."""
    if matrix.shape[0] <= matrix.shape[1]:
        return np.eye(len(matrix)), matrix
    q, r = np.linalg.qr(matrix)
    return q, r


def _one_thread() -> AbstractContextManager[Any]:
    """Have BLAS compute with one thread: several wait for each other in LAPACK's many small steps.

    24 products of four updates (384 x 16 x 384) take 0.13 s with one thread, and on two busy cores 3.7 s with two.
    """
    try:
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
    except ImportError:  # it comes with scikit-learn
        return nullcontext()
    limited: AbstractContextManager[Any] = threadpool_limits(1, user_api="blas")
    return limited
