"""Splitting labelled data: between sites, and into a part for training and one held back."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flower_app.config import ConfigError

Indices = NDArray[np.int64]
MIN_PARTITION_SIZE = 10
DRAWS = 1000


def check_partitioner(how: str) -> None:
    """Raise ConfigError for a partitioner that there is not."""
    if how not in PARTITIONERS:
        raise ConfigError(f'partitioner "{how}" is unknown; choose one of {", ".join(sorted(PARTITIONERS))}')


def partition(
    labels: NDArray[Any], num_partitions: int, how: str, *, alpha: float, seed: int, min_size: int = MIN_PARTITION_SIZE
) -> list[Indices]:
    """Deal the examples out to num_partitions sites, each with at least min_size of them.

    how: "iid" deals evenly; "dirichlet" draws each class's shares from Dirichlet(alpha), so that a small alpha
    gives each site few classes. Every node computes the same answer from the same seed.
    Raises ConfigError naming the key.
    """
    check_partitioner(how)
    if len(labels) < num_partitions * min_size:
        raise ConfigError(f"num-partitions {num_partitions} is too many: {len(labels)} examples, at least {min_size} a site")
    random = np.random.default_rng(seed)
    for _ in range(DRAWS):
        parts = PARTITIONERS[how](labels, num_partitions, alpha, random)
        if min(map(len, parts)) >= min_size:
            return parts
    raise ConfigError(
        f"dirichlet-alpha {alpha:g} is too small: {DRAWS} draws gave no split with at least {min_size} examples "
        f"for each of {num_partitions} sites"
    )


def stratified_split(labels: NDArray[Any], share: float, seed: int) -> tuple[Indices, Indices]:
    """Split into (kept, held back): about `share` of each class is held back, one example of a class always stays."""
    random = np.random.default_rng(seed)
    held: list[Indices] = []
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        held.append(members[: min(round(share * len(members)), len(members) - 1)])
    back = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), back), back


def _dirichlet(labels: NDArray[Any], num_partitions: int, alpha: float, random: np.random.Generator) -> list[Indices]:
    parts: list[list[Indices]] = [[] for _ in range(num_partitions)]
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        shares = random.dirichlet(np.full(num_partitions, alpha))
        cuts = np.round(np.cumsum(shares)[:-1] * len(members)).astype(int)
        for part, chunk in zip(parts, np.split(members, cuts), strict=True):
            part.append(chunk)
    return [np.sort(np.concatenate(part)) for part in parts]


def _iid(labels: NDArray[Any], num_partitions: int, alpha: float, random: np.random.Generator) -> list[Indices]:
    return [np.sort(part) for part in np.array_split(random.permutation(len(labels)), num_partitions)]


PARTITIONERS: dict[str, Callable[[NDArray[Any], int, float, np.random.Generator], list[Indices]]] = {
    "iid": _iid,
    "dirichlet": _dirichlet,
}
