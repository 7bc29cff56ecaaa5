"""What no tracked file says, and what each pin must say."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNTRACKED = {".git", ".venv", "__pycache__", "dist", "node_modules"}
# Put together here, so that this file does not say them itself.
FORBIDDEN = re.compile(
    "|".join(
        [
            re.escape("/work") + r"/(main|shared)\b",
            re.escape("/tmp") + "/espalier/",
            "/root" + r"/\w",
            re.escape("/opt") + "/(pypi|wheels)",
            r"(^|[^\w.])(pypi|files\.pythonhosted|registry\.npmjs|download\.pytorch)" + r"\.(org|com)\b",
        ]
    )
)


def tracked() -> Iterator[Path]:
    """Yield our files: what git tracks or would add, and without git whatever is not a cache."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
        yield from (ROOT / name for name in names if name and (ROOT / name).is_file())
        return
    for path in ROOT.rglob("*"):
        parts = path.relative_to(ROOT).parts
        if path.is_file() and not any(part in UNTRACKED or part.endswith((".egg-info", "_cache")) for part in parts):
            yield path


def test_no_file_names_a_machine_or_a_registry() -> None:
    found = []
    for path in tracked():
        text = path.read_bytes().decode("utf-8", errors="ignore")
        found += [f"{path.relative_to(ROOT)}: {hit.group()}" for hit in FORBIDDEN.finditer(text)]
    assert found == []


@pytest.mark.parametrize("text", ["see /work" + "/main/x", "index https://pypi" + ".org/simple", "in /root" + "/cache"])
def test_the_search_finds_what_it_looks_for(text: str) -> None:
    assert FORBIDDEN.search(text)


def test_each_pin_has_its_reason() -> None:
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    pins = [line for line in lines if line.strip() and not line.startswith(("-e ", "#"))]
    assert pins, "nothing is pinned"
    assert [pin for pin in pins if not re.fullmatch(r"[\w.\[\]-]+==\S+  # \S.{10,}", pin)] == []


def test_ci_runs_what_a_person_runs() -> None:
    assert "python3 run.py test" in (ROOT / ".ci" / "run").read_text("utf-8")
