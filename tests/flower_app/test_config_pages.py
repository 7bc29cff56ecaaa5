"""The pages of docs/ name keys and defaults of a run as flower-app/pyproject.toml has them."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {path.name: path.read_text() for path in (ROOT / "docs").glob("*.md")}
CONFIG = tomllib.loads((ROOT / "flower-app" / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
UNSET = ("none", "all")


def told() -> list[tuple[str, str]]:
    """Give (key, default) of each row below a `| key | default | |`."""
    found = []
    for table in re.findall(r"^\| key \| default \| \|\n\|[-|]+\n((?:\|.*\n)+)", "\n".join(PAGES.values()), re.MULTILINE):
        for row in table.splitlines():
            keys, defaults = row.split("|")[1:3]
            found += list(zip(re.findall(r"`([\w-]+)`", keys), defaults.replace("`", "").strip().split(", "), strict=True))
    assert {"k-of-n", "local-steps"} <= {key for key, _ in found}
    return found


@pytest.mark.parametrize(("key", "default"), told())
def test_a_tables_default_is_the_apps(key: str, default: str) -> None:
    assert str(CONFIG[key]).removesuffix(".0") == ("" if default in UNSET else default)


def test_a_strategys_numbers_are_the_apps() -> None:
    numbers = dict(
        re.findall(r"`([\w-]+)` (\d+(?:\.\d+)?)", PAGES["rounds.md"].partition("| least updates |")[2].partition("\n\n")[0])
    )
    assert numbers.keys() >= {"proximal-mu", "tau", "beta-1", "trim-share"}
    assert {key: CONFIG[key] for key in numbers} == {key: float(value) for key, value in numbers.items()}


def test_every_key_of_the_app_is_in_a_page() -> None:
    ours = {"current-run-id", "initial-model"}  # set by the admin server
    assert [key for key in CONFIG.keys() - ours if not any(f"`{key}`" in page for page in PAGES.values())] == []
