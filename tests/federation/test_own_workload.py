"""docs/workloads.md takes a user to a model of their own: its blocks, and no more, make an app, give sites data and run it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.federation.stack import ROOT

if TYPE_CHECKING:
    from tests.federation.stack import Stack

PAGE = (ROOT / "docs" / "workloads.md").read_text("utf-8")
WALK = PAGE.partition("\n## One of your own\n")[2].partition("\n## ")[0]
BLOCKS = re.findall(r"```(\w+)\n(# ([^\n]+)\n.*?)```", WALK, re.DOTALL)
FILES = {place: text for language, text, place in BLOCKS if language != "sh"}
AT_THE_SITE, START, LOOK = (text for language, text, _ in BLOCKS if language == "sh")
APP = "readmission"


@pytest.fixture(scope="module")
def app(apps: Path) -> str:
    """Make the page's app below APPS_DIR, from its blocks."""
    for place, text in FILES.items():
        (apps / place).parent.mkdir(exist_ok=True)
        (apps / place).write_text(text)
    return APP


@pytest.fixture(scope="module")
def own_tables(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Have each site put a table of its own where the page says, with the page's command."""
    for index in range(len(stack.sites)):
        folder = tmp_path_factory.mktemp("table")
        write_table(folder / "patients.csv", index)
        shell(AT_THE_SITE, folder, ESPALIER_HOME=str(stack.site_folder(index)))


def write_table(path: Path, seed: int) -> None:
    """Write made-up patients, of whom half come back: those who are old, stay long and have a fast pulse, as a rule."""
    random = np.random.default_rng(seed)
    measures = random.normal([65 + 5 * seed, 7, 80, 130], [15, 4, 15, 20], (300, 4))
    risk = ((measures - [65 + 5 * seed, 7, 80, 130]) / [15, 4, 15, 20]) @ [1.0, 1.0, 0.5, 0.0]
    came_back = risk + random.normal(scale=0.3, size=300) > 0
    np.savetxt(path, np.column_stack([measures, came_back]), "%.1f", ",", header="age,days,pulse,pressure,came_back", comments="")


def shell(commands: str, folder: Path, **environment: str) -> str:
    told = subprocess.run(
        ["sh", "-e"],
        input=commands,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    return told.stdout


def answers(printed: str) -> Iterator[Any]:
    """Read the JSON documents that curl has printed, one behind the other."""
    while printed := printed.strip():
        answer, end = json.JSONDecoder().raw_decode(printed)
        yield answer
        printed = printed[end:]


def test_the_walk_is_short_and_every_block_of_it_says_where_it_goes() -> None:
    assert sum(text.count("\n") for _, text, _ in BLOCKS) < 40
    assert len(BLOCKS) == WALK.count("```") / 2
    assert set(FILES) == {f"{APP}/pyproject.toml", f"{APP}/{APP}.py"}


def test_a_reference_that_leads_nowhere_is_the_cause_of_the_runs_failure(stack: Stack, app: str) -> None:
    run = stack.wait_end(stack.start_run(app, workload=f"{APP}:Readmision"))
    assert (run["status"], run["cause"]["type"], run["rounds_done"]) == ("failed", "ConfigError", 0)
    assert run["cause"]["message"] == f'workload "{APP}:Readmision": module {APP} has no class Readmision'


@pytest.mark.usefixtures("own_tables")
def test_the_blocks_of_the_page_train_a_model_on_what_each_site_has(stack: Stack, app: str, tmp_path: Path) -> None:
    there = {"ESPALIER_HOME": str(stack.home), "ADMIN_PORT": str(stack.admin.port)}
    (started,) = answers(shell(START, tmp_path, **there))
    run = stack.wait_end(started["id"])
    assert run["status"] == "completed", run["cause"]
    *_, listed = answers(shell(f"{START.splitlines()[1]}\n{LOOK}", tmp_path, **there))
    (seen,) = listed["items"]
    assert (seen["id"], seen["app"], seen["status"], seen["rounds_done"]) == (started["id"], app, "completed", 3)
    assert seen["metrics"]["train_accuracy"] > 0.8, "half of the patients come back"
    assert seen["metrics"]["eval_accuracy"] > 0.8
    updates = stack.admin.items(f"/runs/{run['id']}/updates")
    assert [(each["status"], each["num_examples"]) for each in updates] == [("counted", 240)] * 6, "300 each, a fifth held back"
