"""What travels to the nodes: our package, small, and nothing else."""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from pathlib import Path

import pytest

APP = Path(__file__).parents[2] / "flower-app"
LARGEST_BYTES = 550_000
GUEST = "flower_app/workloads/wasm/task.wasm.json"


@pytest.fixture(scope="module")
def fab() -> zipfile.ZipFile:
    from flwr.cli.build import build_fab_from_disk

    with warnings.catch_warnings():  # Flower names a pattern of pathspec as it was called before 1.0
        warnings.simplefilter("ignore", DeprecationWarning)
        return zipfile.ZipFile(io.BytesIO(build_fab_from_disk(APP)))


def test_the_fab_holds_the_package_and_its_config_only(fab: zipfile.ZipFile) -> None:
    expected = {path.relative_to(APP).as_posix() for path in (APP / "flower_app").rglob("*.py")}
    names = {name for name in fab.namelist() if not name.startswith(".info")}
    assert names - {"README.md", "LICENSE"} == expected | {"pyproject.toml", GUEST}
    assert "flower_app/server_app.py" in names


def test_the_fab_is_small(fab: zipfile.ZipFile) -> None:
    assert sum(each.file_size for each in fab.infolist()) < LARGEST_BYTES


def test_the_fab_holds_no_secret_and_no_path_of_this_machine(fab: zipfile.ZipFile) -> None:
    secret = re.compile(
        rb"-----BEGIN|postgres(ql)?://|SUPABASE|DATABASE_URL|sb_secret_|eyJhbGciOi|AKIA[0-9A-Z]{16}|/home/\w|/root/|"
        rb"(?i:(password|api_?key|token|secret)\s*=\s*[\"'][^\"']{6,})"
    )
    for name in fab.namelist():
        assert not secret.search(fab.read(name)), name
        assert str(APP.parent).encode() not in fab.read(name), name


def test_the_fab_asks_for_flower_alone(fab: zipfile.ZipFile) -> None:
    import tomllib

    project = tomllib.loads(fab.read("pyproject.toml").decode())["project"]
    assert project["dependencies"] == ["flwr==1.41.0"]
