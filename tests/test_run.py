"""run.py as a person meets it: a process in a clone, with the Python that the machine happens to have."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
FAKE_PYTHON = f"""#!{sys.executable}
import os, subprocess, sys, time
from pathlib import Path
clone = Path(__file__).parents[2]
if sys.argv[1:3] == ["-m", "pip"]:
    with (clone / "pip-calls").open("a") as calls:
        calls.write(f"{{os.getpid()}} {{os.environ.get('PIP_INDEX_URL', '')}}\\n")
    time.sleep(float(os.environ.get("FAKE_PIP_SLEEPS", "0")))
    sys.exit(int(os.environ.get("FAKE_PIP_EXITS", "0")))
sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))
"""
FAKE_BASE = """#!/bin/sh
# Stands for the machine's Python as far as `-m venv --clear DIR` goes.
for folder; do :; done
rm -rf "$folder"
cp -r "$(dirname "$0")/fake-venv" "$folder"
echo made >> "$(dirname "$0")/venv-calls"
"""


class Clone:
    """A folder with run.py in it, a Python whose venv module takes no time, and a pip that does as it is told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "run.py").write_bytes((ROOT / "run.py").read_bytes())
        (folder / "requirements.txt").write_text("anything\n")
        (folder / "benchmarks").mkdir()
        (folder / "benchmarks" / "rounds.py").write_text(
            '"""How long a round takes."""\nimport sys\nprint(sys.argv[1:])\nsys.exit(3)'
        )
        site_packages = folder / "fake-venv" / "lib" / f"python{VERSION}" / "site-packages" / "pip"
        site_packages.mkdir(parents=True)
        (folder / "fake-venv" / "bin").mkdir()
        for path, text in ((folder / "fake-venv" / "bin" / "python", FAKE_PYTHON), (folder / "base", FAKE_BASE)):
            path.write_text(text)
            path.chmod(0o755)

    def begin(self, *arguments: str, before: str = "", **environment: str) -> subprocess.Popen[str]:
        """Start run.py; before: Python that runs first, to make the machine a worse one."""
        prelude = f"import runpy, sys; sys._base_executable = {str(self.folder / 'base')!r}; {before or 'pass'}"
        start = f"sys.argv = ['run.py', *{list(arguments)!r}]; runpy.run_path('run.py', run_name='__main__')"
        return subprocess.Popen(
            [sys.executable, "-c", f"{prelude}\n{start}"],
            cwd=self.folder,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, before: str = "", **environment: str) -> tuple[int, str, str]:
        process = self.begin(*arguments, before=before, **environment)
        printed, told = process.communicate(timeout=60)
        return process.returncode, printed, told

    def count(self, name: str) -> int:
        path = self.folder / f"{name}-calls"
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def wait_for(probe: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not probe():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.02)


def test_an_old_python_is_told_what_to_install(clone: Clone) -> None:
    rc, printed, told = clone.run("demo", before="sys.version_info = (3, 9, 18, 'final', 0)", PATH="/nowhere")
    assert rc != 0
    assert told == (
        "run.py: this is Python 3.9, and Espalier needs 3.11 or newer: install Python 3.11 or newer and start it with that.\n"
    )
    assert printed == ""


def test_an_old_python_names_a_newer_one_that_is_there(clone: Clone) -> None:
    newer = clone.folder / "bin" / "python3.12"
    newer.parent.mkdir()
    newer.touch(0o755)
    _, _, told = clone.run("demo", before="sys.version_info = (3, 10, 1, 'final', 0)", PATH=str(newer.parent))
    assert "start it with `python3.12 run.py`" in told


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_a_python_without_venv_or_pip_is_told_what_to_install(clone: Clone, module: str) -> None:
    rc, _, told = clone.run("demo", before=f"sys.modules[{module!r}] = None")
    assert rc == 1
    assert told.startswith(f"run.py: this Python {VERSION} has no {module} module: install it with ")
    assert told.count("\n") == 1
    assert not (clone.folder / ".venv").exists()


def test_a_full_disk_is_told_before_anything_is_made(clone: Clone) -> None:
    rc, _, told = clone.run("demo", before="import shutil, types; shutil.disk_usage = lambda _: types.SimpleNamespace(free=5e8)")
    assert rc == 1
    assert "0.5 GB are free" in told
    assert not (clone.folder / ".venv").exists()


def test_a_folder_that_cannot_be_written_is_named(clone: Clone) -> None:
    (clone.folder / ".venv.lock").mkdir()  # root may write anywhere, but not to a folder
    rc, _, told = clone.run("demo")
    assert rc == 1
    assert str(clone.folder / ".venv.lock") in told
    assert "Traceback" not in told


def test_the_second_start_installs_nothing(clone: Clone) -> None:
    assert clone.run("bench", PIP_INDEX_URL="some-index")[0] == 0
    assert (clone.folder / "pip-calls").read_text().split()[1] == "some-index", "pip's own variables pass through"
    rc, printed, _ = clone.run("bench")
    assert rc == 0
    assert "installing" not in printed
    assert (clone.count("venv"), clone.count("pip")) == (1, 1)


def test_changed_requirements_are_installed_into_the_same_environment(clone: Clone) -> None:
    clone.run("bench")
    (clone.folder / "requirements.txt").write_text("something else\n")
    clone.run("bench")
    assert (clone.count("venv"), clone.count("pip")) == (1, 2)


def test_of_pyproject_only_the_packaging_counts(clone: Clone) -> None:
    pyproject = clone.folder / "pyproject.toml"
    for text, installs in (("", 1), ("[tool.ruff]\nline-length = 99\n", 1), ("[project]\ndependencies = ['x']\n", 2)):
        pyproject.write_text(text)
        clone.run("bench")
        assert clone.count("pip") == installs, text


@pytest.mark.parametrize("changed", [{"python": "3.99"}, {"root": "/somewhere/else"}])
def test_another_python_or_a_moved_clone_begins_anew(clone: Clone, changed: dict[str, str]) -> None:
    clone.run("bench")
    stamp = clone.folder / ".venv" / "espalier-installed.json"
    stamp.write_text(json.dumps({**json.loads(stamp.read_text()), **changed}))
    clone.run("bench")
    assert clone.count("venv") == 2


def test_a_failed_install_is_told_and_tried_again(clone: Clone) -> None:
    rc, _, told = clone.run("bench", FAKE_PIP_EXITS="1")
    assert rc == 1
    assert "installing requirements.txt failed" in told
    assert clone.run("bench")[0] == 0
    assert (clone.count("venv"), clone.count("pip")) == (2, 2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_install_leaves_no_process_and_is_begun_anew(clone: Clone, number: signal.Signals) -> None:
    process = clone.begin("bench", FAKE_PIP_SLEEPS="60")
    wait_for(lambda: clone.count("pip") == 1)
    process.send_signal(number)
    _, told = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert "interrupted" in told
    pip = int((clone.folder / "pip-calls").read_text().split()[0])
    assert not psutil.pid_exists(pip)
    assert clone.run("bench")[0] == 0
    assert clone.count("venv") == 2


def test_a_killed_install_is_noticed(clone: Clone) -> None:
    process = clone.begin("bench", FAKE_PIP_SLEEPS="1")
    wait_for(lambda: clone.count("pip") == 1)
    process.kill()
    rc, printed, _ = clone.run("bench")
    process.communicate(timeout=20)
    assert rc == 0
    assert "another run.py is installing" in printed, "the pip that was left behind is waited for"
    assert clone.count("venv") == 2


def test_two_at_once_install_once(clone: Clone) -> None:
    both = [clone.begin("bench", FAKE_PIP_SLEEPS="1") for _ in range(2)]
    told = [process.communicate(timeout=30)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert (clone.count("venv"), clone.count("pip")) == (1, 1)
    assert any("another run.py is installing" in text for text in told)


def test_a_program_gets_its_arguments_and_gives_its_exit_status(clone: Clone) -> None:
    rc, printed, _ = clone.run("bench", "rounds", "--json", "out.json")
    assert rc == 3
    assert "['--json', 'out.json']" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bench", "nothing"], ["there is no benchmark 'nothing'", "rounds", "How long a round takes."]),
        (["serve"], ["`serve admin` or `serve client`"]),
        (["serve", "database"], ["`serve admin` or `serve client`"]),
        (["dmeo"], ["there is no verb 'dmeo'", "demo, test, check, serve, bench"]),
        (["check", "now"], ["check takes no arguments"]),
    ],
)
def test_a_wrong_word_is_answered_with_the_right_ones(clone: Clone, arguments: list[str], words: list[str]) -> None:
    rc, _, told = clone.run(*arguments)
    assert rc == 1
    assert all(word in told for word in words), told


def test_bench_without_a_name_lists_what_there_is(clone: Clone) -> None:
    rc, printed, _ = clone.run("bench")
    assert rc == 0
    assert "rounds" in printed
    assert "How long a round takes." in printed


def test_help_needs_no_environment(clone: Clone) -> None:
    rc, printed, _ = clone.run()
    assert rc == 0
    assert "python3 run.py demo" in printed
    assert not (clone.folder / ".venv").exists()


def test_a_real_environment_is_made_from_nothing_but_python(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_bytes((ROOT / "run.py").read_bytes())
    (tmp_path / "requirements.txt").write_text("# nothing\n")
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "where.py").write_text("import sys; print(sys.prefix)")
    printed = subprocess.run(
        [sys.executable, "run.py", "bench", "where"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert printed.stdout.splitlines()[-1] == str(tmp_path / ".venv")
