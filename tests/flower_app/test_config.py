"""Run config and node config: read once, every error names its key."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from flower_app.config import ConfigError, ConfigValue, NodeConfig, RunConfig
from flower_app.rules import RULES as STRATEGIES
from flower_app.workloads import BUILT_IN, GROUP
from flower_app.workloads.flwr_partitioners import is_of_flwr_datasets
from flower_app.workloads.partition import LOCAL, PARTITIONERS

APP = Path(__file__).parents[2] / "flower-app"
WITH_CHOICES = ("workload", "strategy", "partitioner", "layers", "wasm-module")
DECLARED = tomllib.loads((APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]


def test_the_declared_defaults_are_the_parsed_ones() -> None:
    names = {each.name.replace("_", "-") for each in fields(RunConfig)} - {"values"}
    assert set(DECLARED) == names
    assert RunConfig.parse(DECLARED) == RunConfig.parse({})
    for key, value in DECLARED.items():
        assert type(getattr(RunConfig.parse({}), key.replace("-", "_"))) is type(value), key


def test_a_key_of_a_workloads_own_stays_in_values() -> None:
    config = RunConfig.parse({"num-rounds": 2, "prompt-style": "short"})
    assert config.values["prompt-style"] == "short"
    assert config.values["num-rounds"] == config.num_rounds == 2
    assert config.values["lr"] == config.lr


def test_a_whole_number_is_a_number() -> None:
    config = RunConfig.parse({"lr": 1})
    assert config.lr == 1.0
    assert type(config.values["lr"]) is float


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("num-rounds", "three", "num-rounds needs an integer, got 'three'"),
        ("num-rounds", 2.5, "num-rounds needs an integer, got 2.5"),
        ("num-rounds", True, "num-rounds needs an integer, got True"),
        ("num-rounds", 0, "num-rounds needs to be at least 1, got 0"),
        ("lr", -1, "lr needs to be at least 0, got -1.0"),
        ("lr", float("nan"), "lr needs a finite number, got nan"),
        ("lr", False, "lr needs a number, got False"),
        ("eval-share", 1.0, "eval-share needs to be below 1, got 1.0"),
        ("workload", 7, "workload needs a text, got 7"),
        ("round-timeout-s", -1, "round-timeout-s needs to be above 0, got -1.0"),
    ],
)
def test_an_unusable_value_names_the_key(key: str, value: Any, sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        RunConfig.parse({key: value})
    assert str(raised.value) == sentence


def test_what_a_run_leaves_open_is_its_workloads_and_what_neither_says_is_everybodys() -> None:
    open_run = RunConfig.parse({})
    assert (open_run.lr, open_run.optimizer, open_run.batch_size, open_run.partitioner) == (0.0, "", 0, "")
    settled = open_run.left_to({"lr": 0.001, "optimizer": "adamw", "local-steps": 15, "prompt": "short"})
    assert (settled.lr, settled.optimizer, settled.batch_size, settled.partitioner) == (0.001, "adamw", 32, "dirichlet")
    assert (settled.local_steps, settled.local_epochs, settled.local_seconds) == (15, 0, 0.0)
    assert (settled.values["lr"], settled.values["prompt"]) == (0.001, "short")
    assert open_run.left_to({}).local_epochs == 5
    said = RunConfig.parse({"lr": 0.1, "local-seconds": 2, "prompt": "long"})
    kept = said.left_to({"lr": 0.001, "local-steps": 15, "prompt": "short"})
    assert (kept.lr, kept.local_seconds, kept.local_steps, kept.local_epochs) == (0.1, 2.0, 0, 0)
    assert kept.values["prompt"] == "long"
    assert kept.left_to({"lr": 0.001, "local-steps": 15}) == kept
    with pytest.raises(ConfigError, match="batch-size needs to be at least 0, got -1"):
        open_run.left_to({"batch-size": -1})


@pytest.mark.parametrize(
    ("name", "value", "declared"), [("lr-schedule", "cosine", "'constant'"), ("eval-share", 0.1, "0.2"), ("num-rounds", 3, "10")]
)
def test_a_default_for_what_a_run_never_leaves_open_is_refused(name: str, value: Any, declared: str) -> None:
    with pytest.raises(ConfigError) as raised:
        RunConfig.parse({"workload": "own:Own", name: value}).left_to({"lr": 0.1, name: value})
    assert str(raised.value) == (
        f'workload "own:Own" cannot have a default of its own for {name}: nobody could tell a run that says {declared} '
        "from one that says nothing"
    )


def test_a_default_for_what_is_0_or_nothing_is_taken_and_the_runs_word_goes_before() -> None:
    own: dict[str, ConfigValue] = {
        "weight-decay": 0.01,
        "warmup-share": 0.1,
        "base-model": "tiny",
        "dataset": "texts",
        "own-key": 3,
    }
    settled = RunConfig.parse({"dataset": "letters"}).left_to(own)
    assert (settled.weight_decay, settled.warmup_share, settled.base_model, settled.dataset) == (0.01, 0.1, "tiny", "letters")
    assert settled.values["own-key"] == 3
    assert RunConfig.parse({"weight-decay": 0.0}).left_to(own).weight_decay == 0.01, "0 leaves it open"


def test_a_node_knows_its_part() -> None:
    node = NodeConfig.parse({"partition-id": 2, "num-partitions": 3, "node-name": "site-c"}, 99)
    assert (node.node_id, node.name, node.partition_id, node.num_partitions) == ("99", "site-c", 2, 3)
    assert NodeConfig.parse({"partition-id": 0, "num-partitions": 1}, 99).name == "99"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"num-partitions": 3}, 'partition-id of node "s" is missing: start its SuperNode with --node-config'),
        ({"partition-id": 0}, 'num-partitions of node "s" is missing'),
        ({"partition-id": 3, "num-partitions": 3}, 'partition-id of node "s" needs to lie in 0..2 (num-partitions is 3), got 3'),
        ({"partition-id": -1, "num-partitions": 3}, 'partition-id of node "s" needs to lie in 0..2'),
        ({"partition-id": "0", "num-partitions": 3}, "partition-id of node \"s\" needs an integer, got '0'"),
        ({"partition-id": 0, "num-partitions": 0}, 'num-partitions of node "s" needs to be at least 1, got 0'),
    ],
)
def test_a_wrong_partition_names_key_and_node(values: Any, sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        NodeConfig.parse({**values, "node-name": "s"}, 99)
    assert sentence in str(raised.value)


def test_what_is_refused_before_a_run_starts_is_what_the_engine_refuses() -> None:
    told = tomllib.loads((APP / "pyproject.toml").read_text())["tool"]["espalier"]["run-config"]
    assert told["workload"]["choices"] == list(BUILT_IN)
    assert told["workload"]["entry-points"] == GROUP
    assert told["strategy"]["choices"] == sorted(STRATEGIES)
    assert told["partitioner"]["choices"] == sorted({"", *PARTITIONERS, LOCAL})
    assert all(map(is_of_flwr_datasets, ["IidPartitioner", "MyOwnPartitioner"]))
    assert re.fullmatch(told["partitioner"]["pattern"], "IidPartitioner")
    assert re.fullmatch(told["layers"]["pattern"], "64-32-10")
    assert not any(re.fullmatch(told["layers"]["pattern"], wrong) for wrong in ("64", "64-0-10", "64-32-", "a-b"))
    digest = f"sha256:{64 * '0'}"
    pinned = [f"file:mine.wasm@{digest}", f"fab:mine@{digest}", f"oci://registry.example:5000/a/b@{digest}"]
    assert all(re.fullmatch(told["wasm-module"]["pattern"], each) for each in [*pinned, "data:application/wasm;base64,AGFzbQ=="])
    assert not any(
        re.fullmatch(told["wasm-module"]["pattern"], each) for each in ("file:mine.wasm", "oci://a/b:latest", "data:,")
    )
    bounds = {
        each.name.replace("_", "-"): {
            name.replace("_", "-"): list(limit) if name == "choices" else limit
            for name, limit in each.metadata.items()
            if limit is not None
        }
        for each in fields(RunConfig)
        if each.name != "values"
    }
    assert {key: limits for key, limits in told.items() if key not in WITH_CHOICES} == {
        key: {name: list(limit) if name == "choices" else limit for name, limit in limits.items()}
        for key, limits in bounds.items()
        if limits
    }
