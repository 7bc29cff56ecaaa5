"""Partitioners of flwr-datasets by class name: arguments filled in, every fault a ConfigError, the same answer everywhere."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from flower_app.config import ConfigError, RunConfig
from flower_app.workloads.flwr_partitioners import options_of
from flower_app.workloads.partition import Examples, Indices, partition

if TYPE_CHECKING:
    from tests.flower_app.conftest import MakeFederation

LABELS = np.repeat(np.arange(10), 140)
WARDS = np.array([f"ward {number % 7}" for number in range(len(LABELS))])


def deal(how: str, options: str = "", sites: int = 5, seed: int = 2**62, groups: Any = WARDS) -> list[Indices]:
    config = RunConfig.parse({"partitioner": how, "partitioner-options": options})
    return partition(Examples(np.zeros((len(LABELS), 1)), LABELS, groups), sites, config, seed)


def digest() -> str:
    parts = deal("PathologicalPartitioner", "num_classes_per_partition=3")
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


@pytest.fixture
def installed() -> None:
    """Ask for flwr-datasets."""
    pytest.importorskip("flwr_datasets", reason="flwr-datasets is not installed here: it brings 330 MB")


def test_options_are_values_of_toml() -> None:
    assert options_of("") == {}
    assert options_of(" num_shards_per_partition=2   shard_size = 20 ") == {"num_shards_per_partition": 2, "shard_size": 20}
    told = "alpha=[0.1, 0.2] mode='allow-bigger' shuffle=false"
    assert options_of(told) == {"alpha": [0.1, 0.2], "mode": "allow-bigger", "shuffle": False}
    with pytest.raises(ConfigError, match=r"^partitioner-options needs name=value pairs, values as in TOML, got 'alpha=\[': "):
        options_of("alpha=[")


def test_a_machine_without_the_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flwr_datasets.partitioner", None)
    monkeypatch.setitem(sys.modules, "flwr_datasets", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError) as raised:
        deal("ShardPartitioner")
    told = 'partitioner "ShardPartitioner" is one of flwr-datasets, which is not here: pip install flwr-datasets'
    assert str(raised.value) == told


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("how", "options", "sites"),
    [
        ("ContinuousPartitioner", "strictness=0.9", 5),
        ("DirichletPartitioner", "alpha=0.5", 5),
        ("DistributionPartitioner", f"distribution_array={[[0.5, 0.5]] * 10} num_unique_labels_per_partition=2 "
         "preassigned_num_samples_per_label=5", 10),
        ("ExponentialPartitioner", "", 3),
        ("GroupedNaturalIdPartitioner", "group_size=2", 4),
        ("IidPartitioner", "", 5),
        ("InnerDirichletPartitioner", "partition_sizes=[100, 200, 300, 400, 400] alpha=0.3", 5),
        ("LinearPartitioner", "", 5),
        ("NaturalIdPartitioner", "", 7),
        ("PathologicalPartitioner", "num_classes_per_partition=2", 5),
        ("ShardPartitioner", "num_shards_per_partition=2", 5),
        ("SizePartitioner", "partition_sizes=[100, 200, 300, 400, 400]", 5),
        ("SquarePartitioner", "", 5),
    ],
)  # fmt: skip
def test_a_class_deals_each_example_to_one_site_and_the_same_seed_to_the_same_one(how: str, options: str, sites: int) -> None:
    parts = deal(how, options, sites)
    assert len(parts) == sites
    dealt = np.concatenate(parts)
    assert len(np.unique(dealt)) == len(dealt)
    assert len(dealt) == len(LABELS) or how == "PathologicalPartitioner", "which leaves out a class that it gives nobody"
    assert all(np.array_equal(one, two) for one, two in zip(parts, deal(how, options, sites), strict=True))
    other = zip(parts, deal(how, options, sites, seed=1), strict=True)
    assert all(np.array_equal(one, two) for one, two in other) == (how == "NaturalIdPartitioner")


@pytest.mark.usefixtures("installed")
def test_shards_are_of_few_classes_and_as_many_as_asked_for() -> None:
    parts = deal("ShardPartitioner", "num_shards_per_partition=2 shard_size=20")
    assert [len(part) for part in parts] == [40] * 5
    assert max(len(np.unique(LABELS[part])) for part in parts) <= 4


@pytest.mark.usefixtures("installed")
def test_a_natural_id_is_the_group() -> None:
    parts = deal("NaturalIdPartitioner", sites=7)
    assert [len(set(WARDS[part])) for part in parts] == [1] * 7


@pytest.mark.usefixtures("installed")
def test_another_process_deals_the_same() -> None:
    ask = "from tests.flower_app import test_flwr_partitioners as here; print(here.digest())"
    code = f"import sys; sys.path[:0] = {sys.path!r}; {ask}"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == digest()


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("how", "options", "sentence"),
    [
        ("NosuchPartitioner", "", 'partitioner "NosuchPartitioner" is unknown; flwr-datasets has ContinuousPartitioner, '),
        ("VerticalEvenPartitioner", "", 'partitioner "VerticalEvenPartitioner" is unknown; flwr-datasets has Cont'),
        ("ShardPartitioner", "shards=3", "partitioner-options has shards, and ShardPartitioner takes num_partitions, "),
        ("DirichletPartitioner", "", "partitioner-options lacks alpha of DirichletPartitioner"),
        ("DirichletPartitioner", "alpha=-1",
         'partitioner "DirichletPartitioner" with partitioner-options "alpha=-1": Alpha values should be strictly greater'),
        ("ShardPartitioner", "num_shards_per_partition=2 shard_size=2",
         "partitioner-options num_shards_per_partition=2 shard_size=2 gives no split with at least 10 examples for each"),
        ("NaturalIdPartitioner", "", 'partitioner "NaturalIdPartitioner" makes 7 parts of these examples, and there are 5 sites'),
        ("SizePartitioner", "partition_sizes=[700, 700]",
         'partitioner "SizePartitioner" makes 2 parts of these examples, and there are 5 sites'),
    ],
)  # fmt: skip
def test_what_cannot_be_dealt_is_told(how: str, options: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        deal(how, options)
    assert str(raised.value).startswith(sentence)


@pytest.mark.usefixtures("installed")
def test_natural_ids_need_a_natural_key() -> None:
    with pytest.raises(ConfigError, match='"NaturalIdPartitioner" needs a natural key, and these data have none'):
        deal("NaturalIdPartitioner", groups=None)


@pytest.mark.usefixtures("installed", "one_thread")
def test_a_run_trains_on_what_a_class_deals(make_federation: MakeFederation) -> None:
    federation = make_federation(
        workload="tabular", partitioner="ShardPartitioner", partitioner_options="num_shards_per_partition=3 shard_size=20",
        num_rounds=1, eval_share=0.0, local_epochs=1,
    )  # fmt: skip
    federation.run()
    assert [update["num_examples"] for update in federation.journal("update")] == [60] * 3
