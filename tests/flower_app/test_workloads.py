"""The registry of workloads and the numpy that they share."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import numpy as np
import pytest
from flower_app import workloads
from flower_app.config import ConfigError, RunConfig
from flower_app.workloads import make_workload
from flower_app.workloads.interface import derived_seed
from flower_app.workloads.partition import partition, stratified_split

LABELS = np.repeat(np.arange(10), 140)


def test_a_built_in_name_a_reference_and_an_entry_point_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_workload(RunConfig.parse({})).name == "digits"
    assert make_workload(RunConfig.parse({"workload": "toy_workload:Toy"})).name == "toy"
    installed = EntryPoint("my-toy", "toy_workload:Toy", workloads.GROUP)
    monkeypatch.setattr(workloads, "entry_points", lambda group: [installed] if group == "espalier.workloads" else [])
    assert make_workload(RunConfig.parse({"workload": "my-toy"})).name == "toy"
    with pytest.raises(ConfigError, match=r'workload "nosuch" is unknown; choose one of digits, my-toy, or give'):
        make_workload(RunConfig.parse({"workload": "nosuch"}))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("no_such_module:X", 'workload "no_such_module:X": there is no module no_such_module'),
        ("flower_app.nosuch:X", 'workload "flower_app.nosuch:X": there is no module flower_app.nosuch'),
        ("toy_workload:Nosuch", 'workload "toy_workload:Nosuch": module toy_workload has no class Nosuch'),
        ("toy_workload:", 'workload "toy_workload:": module toy_workload has no class (none named)'),
    ],
)
def test_a_reference_that_leads_nowhere_is_told(name: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        make_workload(RunConfig.parse({"workload": name}))
    assert str(raised.value) == sentence


def test_finding_digits_does_not_import_torch_and_reading_them_not_sklearn() -> None:
    code = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "from flower_app.config import RunConfig; from flower_app.workloads import make_workload\n"
        "make_workload(RunConfig.parse({})); assert 'torch' not in sys.modules\n"
        "from flower_app.workloads.digits_data import load_digits\n"
        "images, labels = load_digits(None); assert 'sklearn' not in sys.modules\n"
        "print(images.shape, images.dtype, images.max(), labels.dtype, len(labels))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "(1797, 1, 8, 8) float32 1.0 int64 1797"


@pytest.mark.parametrize("how", ["iid", "dirichlet"])
@pytest.mark.parametrize("sites", [1, 3, 10])
def test_partitions_share_all_examples_out_and_none_is_too_small(how: str, sites: int) -> None:
    for seed in range(20):
        parts = partition(LABELS, sites, how, alpha=0.3, seed=seed)
        assert len(parts) == sites
        assert sorted(np.concatenate(parts)) == list(range(len(LABELS)))
        assert min(map(len, parts)) >= 10


def test_the_same_seed_deals_the_same_everywhere_and_another_does_not() -> None:
    one, two = (partition(LABELS, 3, "dirichlet", alpha=0.3, seed=5) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert not np.array_equal(one[0], partition(LABELS, 3, "dirichlet", alpha=0.3, seed=6)[0])


def test_a_small_alpha_gives_each_site_few_classes() -> None:
    def skew(alpha: float) -> float:
        parts = partition(LABELS, 5, "dirichlet", alpha=alpha, seed=1)
        return float(np.mean([np.bincount(LABELS[part], minlength=10).max() / len(part) for part in parts]))

    assert skew(0.1) > 0.3
    assert skew(100.0) < 0.15


def test_impossible_splits_name_the_key() -> None:
    with pytest.raises(ConfigError, match='partitioner "shards" is unknown; choose one of dirichlet, iid'):
        partition(LABELS, 3, "shards", alpha=1, seed=1)
    with pytest.raises(ConfigError, match="num-partitions 141 is too many: 1400 examples, at least 10 a site"):
        partition(LABELS, 141, "iid", alpha=1, seed=1)
    with pytest.raises(ConfigError, match=r"dirichlet-alpha 0\.001 is too small: 1000 draws"):
        partition(LABELS[:400], 30, "dirichlet", alpha=0.001, seed=1)
    with pytest.raises(ConfigError, match='partitioner "shards" is unknown'):
        make_workload(RunConfig.parse({"partitioner": "shards"}))


def test_a_stratified_split_holds_back_a_share_of_each_class() -> None:
    kept, held = stratified_split(LABELS, 0.2, seed=3)
    assert sorted([*kept, *held]) == list(range(len(LABELS)))
    assert set(np.bincount(LABELS[held])) == {28}
    kept, held = stratified_split(np.array([0, 0, 1]), 0.9, seed=3)
    assert set(np.array([0, 0, 1])[kept]) == {0, 1}
    kept, held = stratified_split(LABELS, 0.0, seed=3)
    assert (len(kept), len(held)) == (1400, 0)


def test_seeds_differ_by_each_part_and_fit_torch() -> None:
    seeds = {derived_seed(seed, part, number) for seed in range(5) for part in range(5) for number in range(5)}
    assert len(seeds) == 125
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derived_seed(42, 0, 1) == derived_seed(42, 0, 1)
