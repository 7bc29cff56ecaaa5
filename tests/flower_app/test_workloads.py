"""The registry of workloads and their seeds."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest
from flower_app import workloads
from flower_app.config import ConfigError, ConfigValue, RunConfig
from flower_app.workloads import make_workload
from flower_app.workloads.interface import derived_seed


def test_a_built_in_name_a_reference_and_an_entry_point_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_workload(RunConfig.parse({})).name == "digits"
    assert make_workload(RunConfig.parse({"workload": "toy_workload:Toy"})).name == "toy"
    installed = EntryPoint("my-toy", "toy_workload:Toy", workloads.GROUP)
    monkeypatch.setattr(workloads, "entry_points", lambda group: [installed] if group == "espalier.workloads" else [])
    assert make_workload(RunConfig.parse({"workload": "my-toy"})).name == "toy"
    with pytest.raises(ConfigError) as raised:
        make_workload(RunConfig.parse({"workload": "nosuch"}))
    choices = ", ".join(sorted({*workloads.BUILT_IN, "my-toy"}))
    assert str(raised.value) == f'workload "nosuch" is unknown; choose one of {choices}, or give package.module:Class'


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


@pytest.mark.parametrize(
    ("workload", "key", "value", "readers"),
    [
        ("digits", "dataset", "texts", "causal-lora and wasm"),
        ("lora-text", "dataset", "texts", "causal-lora and wasm"),
        ("tabular", "base-model", "tiny", "causal-lora and lora-text"),
        ("fashion", "num-layers", 2, "causal-lora and lora-text"),
        ("digits", "max-length", 64, "causal-lora and lora-text"),
        ("digits", "lora-targets", "query", "causal-lora and lora-text"),
    ],
)
def test_a_key_that_a_built_in_workload_does_not_read_is_refused(
    workload: str, key: str, value: ConfigValue, readers: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        make_workload(RunConfig.parse({"workload": workload, key: value}))
    assert str(raised.value) == f"{key} is a key of {readers}; workload {workload} does not read it"


def test_a_workload_of_ones_own_may_read_any_key() -> None:
    config = RunConfig.parse({"workload": "toy_workload:Toy", **dict.fromkeys(("dataset", "base-model"), "own"), "max-length": 9})
    assert make_workload(config).name == "toy"
    assert make_workload(RunConfig.parse({"workload": "digits", "dataset": "", "num-layers": 0})).name == "digits"


def test_seeds_differ_by_each_part_and_fit_torch() -> None:
    seeds = {derived_seed(seed, part, number) for seed in range(5) for part in range(5) for number in range(5)}
    assert len(seeds) == 125
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derived_seed(42, 0, 1) == derived_seed(42, 0, 1)
