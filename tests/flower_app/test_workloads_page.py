"""docs/workloads.md is true of the workloads that there are, of one without torch, and of what goes wrong with one's own."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from flower_app.config import BUDGET, ConfigError, RunConfig
from flower_app.workloads import BUILT_IN, make_workload, settled
from flower_app.workloads.data_dirs import DataMissing, find_data

if TYPE_CHECKING:
    from tests.flower_app.conftest import MakeFederation

PAGE = (Path(__file__).parents[2] / "docs" / "workloads.md").read_text("utf-8")
ELSEWHERE = PAGE.partition("\n## Where a workload comes from\n")[2]
(PACKAGE,) = re.findall(r"```toml\n(.*?)```", ELSEWHERE, re.DOTALL)
(NUMPY,) = re.findall(r"```python\n(.*?)```", ELSEWHERE, re.DOTALL)
(QUOTED,) = re.findall(r"```text\n(.*?)```", ELSEWHERE, re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder of modules, in which those of the page are written."""
    for name in ("readmission", "means"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def rows(head: str) -> list[list[str]]:
    """Give the cells of the table whose head begins so."""
    table = re.search(rf"^\| {re.escape(head)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert table, head
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table[1].splitlines()]


def test_the_page_has_every_built_in_workload() -> None:
    assert {row[0].strip("`") for row in rows("workload")} == set(BUILT_IN)


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_page_says_what_a_workload_trains_with_where_a_run_leaves_it_open(name: str) -> None:
    (row,) = (row for row in rows("left to") if f"`{name}`" in row[0])
    config = settled(RunConfig.parse({"workload": name}))
    round_ = ", ".join(f"`{key}` {config.values[key]}" for key in BUDGET if config.values[key])
    told = [f"{config.lr:g}", f"`{config.optimizer}`", str(config.batch_size), round_, f"`{config.partitioner}`"]
    assert row[1:] == told


def test_a_package_is_found_by_its_entry_point(folder: Path) -> None:
    (folder / "readmission.py").write_text("class Readmission:\n    name = 'found'\n    def __init__(self, config): ...\n")
    groups = tomllib.loads(PACKAGE)["project"]["entry-points"]
    installed = folder / "readmission-1.0.0.dist-info"  # as pip writes it
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: readmission\nVersion: 1.0.0\n")
    points = [f"[{group}]\n{name} = {at}\n" for group, names in groups.items() for name, at in names.items()]
    (installed / "entry_points.txt").write_text("".join(points))
    assert make_workload(RunConfig.parse({"workload": "readmission"})).name == "found"


def test_the_pages_workload_without_torch_trains(
    make_federation: MakeFederation, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measures = np.random.default_rng(7).normal([65, 7, 80, 130], 1.0, (50, 4)).astype(np.float32)
    (folder / "means.py").write_text(NUMPY)
    np.savetxt(folder / "patients.csv", measures, delimiter=",", header="age,days,pulse,pressure", comments="")
    monkeypatch.setenv("ESPALIER_DATA_DIRS", str(folder))
    federation = make_federation(workload="means:Means", num_rounds=2)
    federation.run()
    first, last = federation.journal("round.closed")
    assert first["metrics"]["eval_loss"] > 70, "zeros arrive"
    assert last["metrics"]["eval_loss"] < 1, "the means do"


def test_what_the_page_quotes_is_what_is_said(make_federation: MakeFederation, folder: Path) -> None:
    reference, missing = QUOTED.splitlines()
    (folder / "readmission.py").touch()
    federation = make_federation(workload="readmission:Readmision")
    with pytest.raises(ConfigError) as raised:
        federation.run()
    (closed,) = federation.journal()
    assert str(raised.value) == closed["cause"]["message"] == reference
    with pytest.raises(DataMissing) as gone:
        find_data("patients.csv", [Path("/srv/data"), Path("/usr/share/datasets")], "each site puts its own there")
    assert str(gone.value) == missing
