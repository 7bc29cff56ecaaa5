"""docs/data.md is true: its workload runs, whole groups stay together, and what cannot be split says what it quotes."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from flower_app.config import ConfigError, RunConfig
from flower_app.engine import RoundFailed
from flower_app.workloads import BUILT_IN, make_workload
from flower_app.workloads.partition import LOCAL, PARTITIONERS

if TYPE_CHECKING:
    from tests.flower_app.conftest import MakeFederation

pytestmark = pytest.mark.usefixtures("one_thread")

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text("utf-8")
(CODE,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
QUOTED = [line for block in re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
# The page's class, which tells besides how many examples of each clinic it has trained on; and the same without groups.
TOLD = """
from dataclasses import replace


class Told(Clinics):
    def train(self, arrays, settings, env):
        names, counts = np.unique(self.own_examples(env)[0].groups, return_counts=True)
        trained = super().train(arrays, settings, env)
        return replace(trained, metrics=trained.metrics | dict(zip(names, map(float, counts))))


class Nameless(Clinics):
    def load(self, cache_dir):
        return replace(super().load(cache_dir), groups=None)
"""


@pytest.fixture
def clinics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write the page's module as an app would have it, and give its name."""
    (tmp_path / "clinics_of_the_page.py").write_text(CODE + TOLD)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "clinics_of_the_page", raising=False)
    return "clinics_of_the_page"


def told(updates: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Give how many examples of each clinic each update was trained on."""
    names = {f"train_{name}": name for name in ("Aarau", "Bern", "Chur", "Davos", "Elm", "Flims", "Genf")}
    return [{names[key]: value for key, value in each["metrics"].items() if key in names} for each in updates]


def test_a_workload_with_a_natural_key_trains_each_site_on_whole_groups(make_federation: MakeFederation, clinics: str) -> None:
    federation = make_federation(workload=f"{clinics}:Told", partitioner="natural", num_rounds=2, eval_share=0.0)
    federation.run()
    assert federation.journal("run.closed")[0]["status"] == "completed"
    updates = federation.journal("update")
    assert [each["status"] for each in updates] == ["counted"] * 6
    sites = told(updates[:3])
    assert told(updates[3:]) == sites
    assert sorted(name for site in sites for name in site) == ["Aarau", "Bern", "Chur", "Davos", "Elm", "Flims", "Genf"]
    assert [sum(site.values()) for site in sites] == [each["num_examples"] for each in updates[:3]]
    workload = make_workload(RunConfig.parse({"workload": f"{clinics}:Clinics"}))
    examples = workload.load(None)  # type: ignore[attr-defined]
    shared = examples.at(workload.split(examples.labels)[0])  # type: ignore[attr-defined]
    whole = dict(zip(*np.unique(shared.groups, return_counts=True), strict=True))
    assert {name: count for site in sites for name, count in site.items()} == whole
    accuracy = [line["accuracy"] for line in federation.read("history.json")]
    assert accuracy[-1] > 0.8


def test_an_even_split_parts_the_groups(make_federation: MakeFederation, clinics: str) -> None:
    federation = make_federation(workload=f"{clinics}:Told", partitioner="iid", num_rounds=1)
    federation.run()
    assert [len(site) for site in told(federation.journal("update"))] == [7, 7, 7]


def test_a_built_in_workload_fails_the_run_before_its_first_round(make_federation: MakeFederation) -> None:
    federation = make_federation(workload="digits", partitioner="natural")
    with pytest.raises(ConfigError) as raised:
        federation.run()
    assert str(raised.value) == QUOTED[0]
    (closed,) = federation.journal()
    assert (closed["kind"], closed["status"], closed["cause"]["type"]) == ("run.closed", "failed", "ConfigError")
    assert closed["cause"]["message"] == QUOTED[0]


@pytest.mark.parametrize(("name", "sites", "sentence"), [("Clinics", 8, QUOTED[1]), ("Nameless", 3, QUOTED[2])])
def test_groups_that_cannot_be_dealt_out_fail_the_run_with_the_sites_words(
    make_federation: MakeFederation, clinics: str, name: str, sites: int, sentence: str
) -> None:
    federation = make_federation(workload=f"{clinics}:{name}", partitioner="natural")
    for node in federation.grid.nodes.values():
        node.config["num-partitions"] = sites
    with pytest.raises(RoundFailed) as raised:
        federation.run()
    assert {each["cause"]["message"] for each in federation.journal("update")} == {sentence}
    assert sentence in str(raised.value)


def test_the_page_names_every_workload_and_every_partitioner_and_why_one_has_no_key() -> None:
    tables = "".join(re.findall(r"^\| (?:workload|partitioner) \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE))
    rows = dict(re.findall(r"^\| `([\w-]+)` \|.*?([^|]*) \|$", tables, re.MULTILINE))
    assert set(rows) == {*BUILT_IN, *PARTITIONERS, LOCAL}
    for name in BUILT_IN:
        reason = refusal(name).partition("have none: ")[2]
        assert reason in rows[name]
        assert rows[name].strip().startswith("none") == bool(reason)


def refusal(workload: str) -> str:
    """Give what a workload says to `natural`, nothing where it has a natural key."""
    try:
        own = {"base-model": "any", "dataset": "any"} if workload == "causal-lora" else {}
        make_workload(RunConfig.parse({"workload": workload, "partitioner": "natural", **own}))
    except ConfigError as refused:
        return str(refused)
    return ""
