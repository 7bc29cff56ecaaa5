#!/usr/bin/env python3
"""The door to Espalier: sets everything up, then starts what you name.

    python3 run.py demo [--workload NAME] [--mixed] [--rounds N] [--keep] [--home DIR] [--ports BASE]
                                        a coordinator and its sites train on real data: digits, tabular, fashion, lora-text, wasm
    python3 run.py test [PYTEST ARGS]   everything that CI runs: check, then pytest
    python3 run.py check                lint, format, types, imports, file lengths
    python3 run.py serve admin|client   one server, in the foreground
    python3 run.py bench NAME [--json FILE]
                                        one benchmark; without NAME, what there is

The first start makes .venv beside this file and installs requirements.txt into it;
pip's own environment variables (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, ...) are honoured.
"""

import ast
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

# Everything in this file must parse on Python 3.6, so that an old Python reads the sentence below and not a SyntaxError.
if sys.version_info < (3, 11):  # noqa: UP036
    newer = [name for name in ("python3.11", "python3.12", "python3.13") if shutil.which(name)]
    advice = f"start it with `{newer[0]} run.py`" if newer else "install Python 3.11 or newer and start it with that"
    sys.exit("run.py: this is Python {}.{}, and Espalier needs 3.11 or newer: {}.".format(*sys.version_info[:2], advice))
if os.name != "posix":
    sys.exit("run.py: Espalier needs Linux, macOS or another POSIX system; on Windows use WSL.")

import fcntl
import tomllib
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "espalier-installed.json"  # written last: without it nothing here counts as installed
BEGUN = VENV / "espalier-begun"  # there while pip works: found at a start, the last install was cut short
PROJECTS = ("pyproject.toml", "flower-app/pyproject.toml")
NEEDED_BYTES = 3_400_000_000  # 2.3 GB installed with a CPU torch, and pip unpacks beside it
GRACE_S = 10.0

signalled = 0


class Refusal(Exception):
    """What stands in the way and what to do about it, in one sentence."""


def main(arguments: list[str]) -> int:
    """Set up, then become the program that was asked for; the exit status where this process stays itself."""
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("help", [])
    if verb in ("help", "-h", "--help"):
        print(__doc__, end="")
        return 0
    verbs = {"demo": demo, "test": test, "check": check, "serve": serve, "bench": bench}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, note_signal)
    try:
        if verb not in verbs:
            raise Refusal(f"there is no verb {verb!r}; there are {', '.join(verbs)}.")
        set_up()
        return verbs[verb](rest)
    except Refusal as refusal:
        print(f"run.py: {refusal}", file=sys.stderr)
        return 1


def demo(rest: list[str]) -> int:
    return become([str(ROOT / "demo.py"), *rest])


def test(rest: list[str]) -> int:
    failed = check([])
    if failed:
        return failed
    return become(["-m", "pytest", *rest] if rest else [str(ROOT / "tests" / "halves.py")])


def check(rest: list[str]) -> int:
    """Run every static check, all of them even when one fails; 1 when one failed."""
    if rest:
        raise Refusal(f"check takes no arguments, and got {' '.join(rest)!r}.")
    steps = {
        "lint": ["-m", "ruff", "check", "."],
        "format": ["-m", "ruff", "format", "--check", "."],
        "types": ["-m", "mypy"],
        "imports": [str(VENV / "bin" / "lint-imports")],
        "lengths": [str(ROOT / "tests" / "house" / "lengths.py")],
    }
    failed = []
    for name, step in steps.items():
        print(f"== {name}", flush=True)
        started = time.monotonic()
        if call([str(PYTHON), *step]) != 0:
            failed.append(name)
        print(f"== {name}: {'FAILED' if name in failed else 'ok'} ({time.monotonic() - started:.1f} s)\n", flush=True)
    if failed:
        print(f"run.py: check failed: {', '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0


def serve(rest: list[str]) -> int:
    servers = {"admin": "admin_server", "client": "client_server"}
    if not rest or rest[0] not in servers:
        raise Refusal("say which server: `serve admin` or `serve client`.")
    return become(["-m", servers[rest[0]], *rest[1:]])


def bench(rest: list[str]) -> int:
    found = {path.stem: path for path in sorted((ROOT / "benchmarks").glob("*.py")) if not path.stem.startswith("_")}
    if rest and rest[0] in found:
        return become([str(found[rest[0]]), *rest[1:]])
    if not found:
        raise Refusal("there are no benchmarks yet.")
    listing = "\n".join(f"  {name:<16} {first_line(path)}" for name, path in found.items())
    if rest and not rest[0].startswith("-"):
        raise Refusal(f"there is no benchmark {rest[0]!r}; there are:\n{listing}")
    print(f"python3 run.py bench NAME [--json FILE], with NAME one of\n{listing}")
    return 0


def first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").partition("\n")[0]


def set_up() -> None:
    """Bring .venv to what requirements.txt says; does nothing, quickly, when it is there already."""
    wanted = fingerprint()
    if installed() == wanted:
        return
    missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
    if missing:
        version = "{}.{}".format(*sys.version_info[:2])
        how = f"`apt install python{version}-venv`" if shutil.which("apt-get") else "your system's package for it"
        raise Refusal(f"this Python {version} has no {' and no '.join(missing)} module: install it with {how}.")
    try:
        with only_one() as lock:
            if installed() != wanted:
                install(wanted, lock)
    except OSError as error:
        need = f"it needs {NEEDED_BYTES / 1e9:.0f} GB in a folder that you may write to"
        raise Refusal(f"cannot set up {VENV}: {error.strerror} ({error.filename}); {need}.") from error


def fingerprint() -> dict[str, str]:
    """What an environment depends on: requirements, packaging (not lint settings), Python, and the folder in its scripts."""
    inputs = [(ROOT / "requirements.txt").read_text("utf-8")]
    for path in (ROOT / name for name in PROJECTS if (ROOT / name).exists()):
        tables = tomllib.loads(path.read_text("utf-8"))
        packaging = [tables.get("build-system"), tables.get("project"), tables.get("tool", {}).get("hatch")]
        inputs.append(json.dumps(packaging, sort_keys=True))
    digest = hashlib.sha256("\n".join(inputs).encode())
    return {"python": "{}.{}".format(*sys.version_info[:2]), "root": str(ROOT), "inputs": digest.hexdigest()}


def installed() -> dict[str, str] | None:
    try:
        stamp: dict[str, str] = json.loads(STAMP.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return stamp if PYTHON.exists() and not BEGUN.exists() else None


def install(wanted: dict[str, str], lock: int) -> None:
    """Make .venv, or mend it, and write its stamp last; begins anew where an install was cut short or nothing fits.

    lock: descriptor of the lock, which each child holds too: a pip that outlives a killed run.py keeps the next one waiting.
    """
    print(f"run.py: installing what {ROOT.name} needs into {VENV}", flush=True)
    before = installed()
    moved = before is not None and (before["python"], before["root"]) != (wanted["python"], wanted["root"])
    usable = PYTHON.exists() and (VENV / "lib" / f"python{wanted['python']}" / "site-packages" / "pip").is_dir()
    if not usable or moved or BEGUN.exists():
        free = shutil.disk_usage(ROOT).free
        if free < NEEDED_BYTES:
            raise Refusal(f"{free / 1e9:.1f} GB are free in {ROOT}: make room for {NEEDED_BYTES / 1e9:.0f} GB and start again.")
        base = getattr(sys, "_base_executable", sys.executable)
        if call([base, "-m", "venv", "--clear", str(VENV)], lock) != 0:
            raise Refusal(f"`{base} -m venv {VENV}` failed for the reason above.")
    STAMP.unlink(missing_ok=True)
    BEGUN.touch()
    if call([str(PYTHON), "-m", "pip", "install", "-r", str(ROOT / "requirements.txt")], lock) != 0:
        full = [place for place in (str(ROOT), tempfile.gettempdir()) if shutil.disk_usage(place).free < 200_000_000]
        why = f"the disk is full ({full[0]})" if full else "pip says why above; its settings are PIP_INDEX_URL, PIP_CERT, ..."
        raise Refusal(f"installing requirements.txt failed: {why}. The next start tries again.")
    BEGUN.unlink()
    unfinished = STAMP.with_suffix(".new")
    unfinished.write_text(json.dumps(wanted), "utf-8")
    unfinished.replace(STAMP)


@contextmanager
def only_one() -> Iterator[int]:
    """Hold the lock of this clone and give its descriptor: a second run.py waits until the first has installed."""
    with (ROOT / ".venv.lock").open("a") as lock:
        waiting = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waiting:
                    print("run.py: another run.py is installing; waiting for it", flush=True)
                waiting = True
            leave_if_signalled()
            time.sleep(0.1)
        yield lock.fileno()


def become(arguments: list[str]) -> NoReturn:
    """Turn into Python inside .venv with these arguments: what was asked for gets our terminal, signals and exit status."""
    leave_if_signalled()
    sys.stdout.flush()
    os.chdir(ROOT)
    os.execve(PYTHON, [str(PYTHON), *arguments], inside())  # noqa: S606  (no shell is what we want)


def call(command: list[str], *descriptors: int) -> int:
    """Run a command in a session of its own and wait for it; when we are told to go, its whole group goes first."""
    child = subprocess.Popen(command, cwd=ROOT, env=inside(), start_new_session=True, pass_fds=descriptors)
    while True:
        try:
            return child.wait(0.2)
        except subprocess.TimeoutExpired:
            if not signalled:
                continue
        os.killpg(child.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_S)
        with suppress(ProcessLookupError, PermissionError):  # what the leader left behind, if anything
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        leave_if_signalled()


def inside() -> dict[str, str]:
    return {**os.environ, "VIRTUAL_ENV": str(VENV), "PATH": f"{VENV / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}


def note_signal(number: int, _frame: FrameType | None) -> None:
    """Remember the signal for the next wait: raising here could lose a child between its start and our knowing it."""
    global signalled
    signalled = number


def leave_if_signalled() -> None:
    if signalled:
        print("\nrun.py: interrupted; nothing is left running, and the next start goes on from here.", file=sys.stderr)
        sys.exit(128 + signalled)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
