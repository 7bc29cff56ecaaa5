"""Dealing examples out to sites: all of them, none twice, the same on every node."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flower_app.config import ConfigError, RunConfig
from flower_app.workloads import make_workload
from flower_app.workloads.partition import PARTITIONERS, Examples, Indices, partition, stratified_split
from hypothesis import given, settings
from hypothesis import strategies as st

LABELS = np.repeat(np.arange(10), 140)
CLINICS = np.array([f"clinic {number % 23 % 14}" for number in range(len(LABELS))])


def deal(how: str, sites: int, seed: int = 5, labels: Any = LABELS, groups: Any = CLINICS, **config: Any) -> list[Indices]:
    examples = Examples(np.zeros((len(labels), 1), np.float32), labels, None if groups is None else groups[: len(labels)])
    keys = {"partitioner": how, **{key.replace("_", "-"): value for key, value in config.items()}}
    return partition(examples, sites, RunConfig.parse(keys), seed)


@pytest.mark.parametrize("how", sorted(PARTITIONERS))
@pytest.mark.parametrize("sites", [1, 3, 10])
def test_partitions_share_all_examples_out_and_none_is_too_small(how: str, sites: int) -> None:
    for seed in range(20):
        parts = deal(how, sites, seed, classes_per_site=-(-10 // sites) + (sites > 1))
        assert len(parts) == sites
        assert sorted(np.concatenate(parts)) == list(range(len(LABELS)))
        assert min(map(len, parts)) >= 10


@pytest.mark.parametrize("how", sorted({*PARTITIONERS} - {"natural"}))
def test_the_same_seed_deals_the_same_everywhere_and_another_does_not(how: str) -> None:
    one, two = (deal(how, 3, seed=5, classes_per_site=4) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert not np.array_equal(one[0], deal(how, 3, seed=6, classes_per_site=4)[0])


def test_a_small_alpha_gives_each_site_few_classes() -> None:
    def skew(alpha: float) -> float:
        parts = deal("dirichlet", 5, seed=1, dirichlet_alpha=alpha)
        return float(np.mean([np.bincount(LABELS[part], minlength=10).max() / len(part) for part in parts]))

    assert skew(0.1) > 0.3
    assert skew(100.0) < 0.15


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(1, 10), st.integers(0, 2**32))
def test_a_pathological_site_has_its_number_of_classes_and_shares_each_evenly(sites: int, count: int, seed: int) -> None:
    if sites * count < 10:
        with pytest.raises(ConfigError, match="classes-per-site"):
            deal("pathological", sites, seed, classes_per_site=count)
        return
    held = np.array(
        [np.bincount(LABELS[part], minlength=10) for part in deal("pathological", sites, seed, classes_per_site=count)]
    )
    assert set((held > 0).sum(axis=1)) == {count}
    holders = (held > 0).sum(axis=0)
    assert holders.max() - holders.min() <= 1
    for label in range(10):
        shares = held[held[:, label] > 0, label]
        assert shares.max() - shares.min() <= 1


@pytest.mark.parametrize("sites", [2, 5, 14])
def test_a_natural_split_parts_no_group_and_weighs_the_sites_out(sites: int) -> None:
    parts = deal("natural", sites)
    homes = [set(CLINICS[part]) for part in parts]
    assert sum(map(len, homes)) == len(set(CLINICS)) == 14
    largest = max(np.unique(CLINICS, return_counts=True)[1])
    assert max(map(len, parts)) - min(map(len, parts)) <= largest
    assert all(np.array_equal(a, b) for a, b in zip(parts, deal("natural", sites, seed=99), strict=True))


@pytest.mark.parametrize(
    ("how", "sites", "config", "sentence"),
    [
        ("iid", 141, {}, "num-partitions 141 is too many: 1400 examples, at least 10 a site"),
        ("dirichlet", 30, {"labels": LABELS[:400], "dirichlet_alpha": 0.001},
         "dirichlet-alpha 0.001 gives no split with at least 10 examples for each of 30 sites"),
        ("pathological", 3, {"classes_per_site": 2},
         "classes-per-site 2 is too few: 3 sites need 4 each to hold all 10 classes"),
        ("pathological", 3, {"classes_per_site": 11}, "classes-per-site 11 is too many: there are 10 classes"),
        ("pathological", 2, {"labels": np.repeat([0, 1], [95, 5]), "classes_per_site": 1},
         "classes-per-site 1 gives no split with at least 10 examples for each of 2 sites"),
        ("natural", 3, {"groups": None},
         'partitioner "natural" needs a natural key, and these data have none: they come without groups'),
        ("iid", 3, {"partitioner_options": "alpha=0.1"},
         'partitioner-options are for classes of flwr-datasets, and partitioner is "iid"'),
        ("natural", 15, {}, 'num-partitions 15 is too many for partitioner "natural": there are 14 groups'),
        ("natural", 2, {"groups": np.repeat(["a", "b"], [1395, 5])},
         "partitioner natural gives no split with at least 10 examples for each of 2 sites"),
    ],
)  # fmt: skip
def test_impossible_splits_name_the_key(how: str, sites: int, config: Any, sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        deal(how, sites, **config)
    assert str(raised.value) == sentence


@pytest.mark.parametrize(
    ("workload", "how", "sentence"),
    [
        ("digits", "shards", 'partitioner "shards" is unknown; choose one of dirichlet, iid, local, natural, pathological, '
         "or a class of flwr-datasets"),
        ("digits", "NaturalIdPartitioner",
         'partitioner "NaturalIdPartitioner" needs a natural key, and the data of digits have none: '
         "scikit-learn does not say who wrote which digit"),
        ("digits", "natural", 'partitioner "natural" needs a natural key, and the data of digits have none: '
         "scikit-learn does not say who wrote which digit"),
        ("tabular", "natural", 'partitioner "natural" needs a natural key, and the data of tabular have none: '
         "scikit-learn does not say which clinic a tumour comes from"),
        ("digits", "local", 'partitioner "local" needs data of each site\'s own, and those of digits are the same everywhere: '
         "scikit-learn brings them"),
    ],
)  # fmt: skip
def test_a_workload_refuses_a_partitioner_before_the_run_begins(workload: str, how: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        make_workload(RunConfig.parse({"workload": workload, "partitioner": how}))
    assert str(raised.value) == sentence


@pytest.mark.parametrize("how", ["local", "natural", "iid"])
def test_options_of_a_partitioner_that_takes_none_are_refused_before_the_run_begins(how: str) -> None:
    config = {"workload": "unfit_clinic:Clinic", "partitioner": how, "partitioner-options": "alpha=0.1"}
    with pytest.raises(ConfigError) as raised:
        make_workload(RunConfig.parse(config))
    assert str(raised.value) == f'partitioner-options are for classes of flwr-datasets, and partitioner is "{how}"'


def test_a_stratified_split_holds_back_a_share_of_each_class() -> None:
    kept, held = stratified_split(LABELS, 0.2, seed=3)
    assert sorted([*kept, *held]) == list(range(len(LABELS)))
    assert set(np.bincount(LABELS[held])) == {28}
    kept, held = stratified_split(np.array([0, 0, 1]), 0.9, seed=3)
    assert set(np.array([0, 0, 1])[kept]) == {0, 1}
    kept, held = stratified_split(LABELS, 0.0, seed=3)
    assert (len(kept), len(held)) == (1400, 0)
