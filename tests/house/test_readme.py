"""The README is short, and what it tells people to type exists."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
TYPED = "\n".join(re.findall(r"```console\n(.*?)```", README, re.DOTALL))
HELP = subprocess.run([sys.executable, ROOT / "run.py", "help"], capture_output=True, text=True, check=True).stdout


def test_the_readme_is_read_in_two_minutes() -> None:
    assert len(README.splitlines()) <= 120


def test_both_commands_come_first() -> None:
    assert re.findall(r"python3 run\.py (\w+)", TYPED)[:2] == ["demo", "test"]


@pytest.mark.parametrize("verb", sorted(set(re.findall(r"python3 run\.py (\w+)", README))))
def test_a_verb_exists(verb: str) -> None:
    assert f"python3 run.py {verb}" in HELP


@pytest.mark.parametrize("page", ["README.md", "docs/operations.md"])
def test_a_program_that_a_page_starts_exists(page: str) -> None:
    for name in set(re.findall(r"\.venv/bin/([\w-]+)", (ROOT / page).read_text("utf-8"))):
        assert Path(sys.executable).with_name(name).exists(), name


def test_every_room_has_its_row() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    rooms = {package.replace("_", "-") for package in config["tool"]["importlinter"]["root_packages"]}
    assert rooms - set(re.findall(r"^\| \[`([\w-]+)/`\]", README, re.MULTILINE)) == set()


def test_it_shows_a_picture() -> None:
    assert (ROOT / "docs" / "pictures" / "architecture.svg").read_text("utf-8").lstrip().startswith("<svg")
    assert "docs/pictures/architecture.svg" in README
