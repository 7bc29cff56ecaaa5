"""Splitting labelled examples: between sites, and into a part for training and one held back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flower_app.config import ConfigError, RunConfig
from flower_app.workloads.flwr_partitioners import deal_by_class, is_of_flwr_datasets

Indices = NDArray[np.int64]
Labels = NDArray[np.int64]
Random = np.random.Generator
MIN_PARTITION_SIZE = 10
NATURAL, LOCAL = "natural", "local"


@dataclass(frozen=True)
class Examples:
    """Labelled examples; groups, where the data have them, name whom each comes from (clinic, author, device).

    x: numbers (examples, ...). labels: int64 (examples,). groups: any dtype that sorts, (examples,).
    """

    x: NDArray[Any]
    labels: Labels
    groups: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, indices: Indices) -> "Examples":
        """Give some of them, in that order."""
        return Examples(self.x[indices], self.labels[indices], None if self.groups is None else self.groups[indices])


def check_partitioner(config: RunConfig, workload: str, no_natural_key: str | None, same_everywhere: str | None = None) -> None:
    """Raise ConfigError for a partitioner that there is not, or that makes no sense of a workload's data.

    no_natural_key: why they fall into no groups, as one clause. same_everywhere: who brings the same to each site.
    """
    how = config.partitioner
    if how not in {*PARTITIONERS, LOCAL} and not is_of_flwr_datasets(how):
        ours = ", ".join(sorted({*PARTITIONERS, LOCAL}))
        raise ConfigError(f'partitioner "{how}" is unknown; choose one of {ours}, or a class of flwr-datasets')
    if is_by_nature(how) and how != LOCAL and no_natural_key:
        raise ConfigError(f'partitioner "{how}" needs a natural key, and the data of {workload} have none: {no_natural_key}')
    if how == LOCAL and same_everywhere:
        why = f"those of {workload} are the same everywhere: {same_everywhere}"
        raise ConfigError(f'partitioner "{how}" needs data of each site\'s own, and {why}')
    _check_options(config)


def _check_options(config: RunConfig) -> None:
    if config.partitioner_options and not is_of_flwr_datasets(config.partitioner):
        raise ConfigError(f'partitioner-options are for classes of flwr-datasets, and partitioner is "{config.partitioner}"')


def is_by_nature(how: str) -> bool:
    """Is a site's part what the data say, and not what a partitioner makes of them?"""
    return how in (LOCAL, NATURAL) or (is_of_flwr_datasets(how) and "NaturalId" in how)


def partition(examples: Examples, num_partitions: int, config: RunConfig, seed: int) -> list[Indices]:
    """Deal all examples out to num_partitions sites as `partitioner` says, each with at least MIN_PARTITION_SIZE of them.

    iid: evenly. dirichlet: each class's shares are drawn from Dirichlet(dirichlet-alpha), so that a small one gives each
    site few classes. pathological: each site has classes-per-site classes. natural: whole groups, the largest first,
    each to the site that has least. A class of flwr-datasets: as it does. Every node computes the same answer from the same seed.
    Raises ConfigError naming the key.
    """
    if len(examples) < num_partitions * MIN_PARTITION_SIZE:
        least = f"{len(examples)} examples, at least {MIN_PARTITION_SIZE} a site"
        raise ConfigError(f"num-partitions {num_partitions} is too many: {least}")
    _check_options(config)
    random = np.random.default_rng(seed)
    partitioner = PARTITIONERS.get(config.partitioner) or OF_FLWR_DATASETS
    for _ in range(partitioner.draws):
        parts = partitioner.deal(examples, num_partitions, config, random)
        if min(map(len, parts)) >= MIN_PARTITION_SIZE:
            return parts
    raise ConfigError(
        f"{partitioner.key} {config.values[partitioner.key]} gives no split with at least {MIN_PARTITION_SIZE} examples "
        f"for each of {num_partitions} sites"
    )


def stratified_split(labels: Labels, share: float, seed: int) -> tuple[Indices, Indices]:
    """Split into (kept, held back): about `share` of each class is held back, one example of a class always stays."""
    random = np.random.default_rng(seed)
    held: list[Indices] = []
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        held.append(members[: min(round(share * len(members)), len(members) - 1)])
    back = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), back), back


def _iid(examples: Examples, num_partitions: int, config: RunConfig, random: Random) -> list[Indices]:
    return [np.sort(part) for part in np.array_split(random.permutation(len(examples)), num_partitions)]


def _dirichlet(examples: Examples, num_partitions: int, config: RunConfig, random: Random) -> list[Indices]:
    parts: list[list[Indices]] = [[] for _ in range(num_partitions)]
    for label in np.unique(examples.labels):
        members = random.permutation(np.flatnonzero(examples.labels == label))
        shares = random.dirichlet(np.full(num_partitions, config.dirichlet_alpha))
        cuts = np.round(np.cumsum(shares)[:-1] * len(members)).astype(int)
        for part, chunk in zip(parts, np.split(members, cuts), strict=True):
            part.append(chunk)
    return [np.sort(np.concatenate(part)) for part in parts]


def _pathological(examples: Examples, num_partitions: int, config: RunConfig, random: Random) -> list[Indices]:
    """Deal the classes round in one random order, then each class evenly to the sites that have it."""
    classes, count = random.permutation(np.unique(examples.labels)), config.classes_per_site
    if count > len(classes):
        raise ConfigError(f"classes-per-site {count} is too many: there are {len(classes)} classes")
    if num_partitions * count < len(classes):
        needed = -(-len(classes) // num_partitions)
        raise ConfigError(
            f"classes-per-site {count} is too few: {num_partitions} sites need {needed} each to hold all {len(classes)} classes"
        )
    parts: list[list[Indices]] = [[] for _ in range(num_partitions)]
    places = np.arange(num_partitions * count)
    for place, label in enumerate(classes):
        members = random.permutation(np.flatnonzero(examples.labels == label))
        sites = places[place :: len(classes)] // count
        for site, chunk in zip(sites, np.array_split(members, len(sites)), strict=True):
            parts[site].append(chunk)
    return [np.sort(np.concatenate(part)) for part in parts]


def groups_of(examples: Examples, how: str) -> NDArray[Any]:
    """Give the natural key. Raises ConfigError where there is none."""
    if examples.groups is None:
        raise ConfigError(f'partitioner "{how}" needs a natural key, and these data have none: they come without groups')
    return examples.groups


def _natural(examples: Examples, num_partitions: int, config: RunConfig, random: Random) -> list[Indices]:
    _, group_of, sizes = np.unique(groups_of(examples, NATURAL), return_inverse=True, return_counts=True)
    if len(sizes) < num_partitions:
        raise ConfigError(
            f'num-partitions {num_partitions} is too many for partitioner "{NATURAL}": there are {len(sizes)} groups'
        )
    loads = np.zeros(num_partitions, np.int64)
    site_of = np.zeros(len(sizes), np.int64)
    for group in np.argsort(-sizes, kind="stable"):
        site_of[group] = loads.argmin()
        loads[site_of[group]] += sizes[group]
    return [np.flatnonzero(site_of[group_of] == site) for site in range(num_partitions)]


def _of_flwr_datasets(examples: Examples, num_partitions: int, config: RunConfig, random: Random) -> list[Indices]:
    columns, how = {"label": examples.labels}, config.partitioner
    if is_by_nature(how) or examples.groups is not None:
        columns["group"] = groups_of(examples, how)
    by = "group" if is_by_nature(how) else "label"
    least = {"num_partitions": num_partitions, "min_partition_size": MIN_PARTITION_SIZE}
    return deal_by_class(columns, config, random, partition_by=by, **least)


@dataclass(frozen=True)
class Partitioner:
    """One way to deal; key: what to change in the run config where none of so many draws gives each site enough."""

    deal: Callable[[Examples, int, RunConfig, Random], list[Indices]]
    key: str
    draws: int


PARTITIONERS = {
    "iid": Partitioner(_iid, "num-partitions", draws=1),
    "dirichlet": Partitioner(_dirichlet, "dirichlet-alpha", draws=1000),
    "pathological": Partitioner(_pathological, "classes-per-site", draws=1000),
    NATURAL: Partitioner(_natural, "partitioner", draws=1),
}
OF_FLWR_DATASETS = Partitioner(_of_flwr_datasets, "partitioner-options", draws=1)
