"""Who has which texts: the sites, each a part to train on and one that it holds back, and the server."""

import math

import numpy as np

from flower_app.config import RunConfig
from flower_app.workloads.guards import check_labels
from flower_app.workloads.interface import NodeEnv, derived_seed
from flower_app.workloads.partition import LOCAL, Indices, is_by_nature, partition, stratified_split
from flower_app.workloads.texts import Texts

TEST_SHARE = 0.2
HELD_TEXTS = 200
"""The most texts that a site scores; on a CPU each takes some 20 ms of MiniLM."""

SPLIT, SITES, HOLD_BACK, TEST = 1, 2, 3, 5  # one stream of random numbers for each purpose


def split(texts: Texts, config: RunConfig) -> tuple[Indices, Indices]:
    """Tell what the sites share out from the test split, a fifth of each label."""
    return stratified_split(texts.labels, TEST_SHARE, derived_seed(config.seed, SPLIT))


def own_part(texts: Texts, config: RunConfig, env: NodeEnv, classes: int) -> tuple[Texts, Texts]:
    """Give a partition's texts to train on, and those held back: eval-share of each label, HELD_TEXTS at most.

    classes: the fewest labels that the texts need, and a site's own where they are so by nature. Raises DataUnfit, ConfigError.
    """
    check_labels(texts.labels, env.node_name, classes=classes)
    if config.partitioner != LOCAL:
        texts = texts.at(split(texts, config)[0])
        parts = partition(texts.places(), env.num_partitions, config, derived_seed(config.seed, SITES))
        texts = texts.at(parts[env.partition_id])
    if is_by_nature(config.partitioner):
        check_labels(texts.labels, env.node_name, classes=classes)
    seed = derived_seed(config.seed, HOLD_BACK, env.partition_id)
    kept, held = stratified_split(texts.labels, config.eval_share, seed)
    return texts.at(kept), texts.at(np.random.default_rng(seed).permutation(held)[:HELD_TEXTS])


def test_groups(texts: Texts, config: RunConfig, most: int, *, in_all: bool) -> dict[str, Texts]:
    """Give the test split by group, `most` texts of each, or in all, the same ones at each call; none under `local`."""
    if config.partitioner == LOCAL:
        return {}
    _, test = split(texts, config) if len(texts) else (None, np.arange(0))
    random = np.random.default_rng(derived_seed(config.seed, TEST))
    names = np.unique(texts.groups[test])
    each = math.ceil(most / max(len(names), 1)) if in_all else most
    return {str(name): texts.at(random.permutation(test[texts.groups[test] == name])[:each]) for name in names}
