"""How a run ended: the table of who outweighs whom, and the cause that is told."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from admin_server.flower import FlowerRun
from admin_server.watch.outcome import Outcome, cause_of, derive
from admin_server.watch.process_end import Attempt, ProcessEnd

CLEAN, CRASHED, KILLED, GONE = ProcessEnd(0, None), ProcessEnd(1, None), ProcessEnd(None, 9), ProcessEnd(None, None)


def flower(status: str, sub_status: str = "", details: str = "") -> FlowerRun:
    return FlowerRun("7", "9", "lab/app", "f" * 64, status, sub_status, details, {})


RUNNING, COMPLETED = flower("running"), flower("finished", "completed")
FAILED, STOPPED = flower("finished", "failed", "ServerApp failed"), flower("finished", "stopped")


@pytest.mark.parametrize(
    ("noted", "said", "end", "status"),
    [
        (None, RUNNING, None, None),
        (None, None, None, None),
        (None, COMPLETED, CLEAN, "completed"),
        (None, COMPLETED, None, "completed"),
        (None, FAILED, CRASHED, "failed"),
        (None, STOPPED, CLEAN, "stopped"),
        (None, None, CLEAN, None),  # code 0 alone is never an end: a stopped ServerApp exits so too
        (None, RUNNING, CLEAN, None),
        (None, RUNNING, CRASHED, "failed"),
        (None, None, KILLED, "failed"),
        (None, None, GONE, "failed"),
        ("stop asked", RUNNING, CLEAN, "stopped"),
        ("stop asked", FAILED, KILLED, "stopped"),
        ("stop asked: the SuperLink is stopped", None, None, "stopped"),
        ("ServerApp died: killed by signal 9 (SIGKILL)", STOPPED, KILLED, "failed"),
    ],
)
def test_what_was_noted_outweighs_flower_and_flower_the_process(
    noted: str | None, said: FlowerRun | None, end: ProcessEnd | None, status: str | None
) -> None:
    outcome = derive(noted, said, end)
    assert (outcome.status if outcome else None) == status


def test_a_signal_is_named_in_the_reason() -> None:
    assert derive(None, None, KILLED) == Outcome("failed", "ServerApp died: killed by signal 9 (SIGKILL)")


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    lines = [
        "INFO :      starting",
        "Traceback (most recent call last):",
        '  File "server.py", line 3, in main',
        "    load()",
        "lab.errors.ModelMissing: the model file is missing",
        "ServerApp ended: exit code 1",
    ]
    (tmp_path / "server.log").write_text("\n".join(lines) + "\n")
    return Attempt(tmp_path)


def test_the_cause_of_an_exception_is_the_last_traceback(attempt: Attempt) -> None:
    told = cause_of("ServerApp failed", attempt, CRASHED, "Coordinator")
    assert (told["type"], told["message"]) == ("ModelMissing", "the model file is missing")
    assert told["traceback"].startswith("Traceback (most recent call last):")
    assert told["node_name"] == "Coordinator"
    assert told["last_lines"][-1] == "ServerApp ended: exit code 1"


def test_the_cause_of_a_kill_is_the_signal_and_not_an_old_traceback(attempt: Attempt) -> None:
    told = cause_of("ServerApp died: killed by signal 9 (SIGKILL)", attempt, KILLED, "Coordinator")
    assert (told["type"], told["traceback"]) == ("ServerAppDied", None)
    assert "SIGKILL" in told["message"]
    assert "INFO :      starting" in told["last_lines"]


def test_a_failed_start_tells_what_its_exit_file_says(tmp_path: Path) -> None:
    (tmp_path / "exit.json").write_text('{"rc": null, "signal": null, "last_lines": ["could not be started: no space"]}')
    end = Attempt(tmp_path).end()
    assert end is not None
    assert derive(None, None, end) == Outcome("failed", "ServerApp died: could not be started: no space")
    assert cause_of("x", Attempt(tmp_path), end, "c")["last_lines"] == ["could not be started: no space"]


def test_a_process_that_was_never_started_has_no_end(tmp_path: Path) -> None:
    assert Attempt(tmp_path).end() is None


def test_a_dead_process_has_an_end_once_its_wrapper_has_left(tmp_path: Path) -> None:
    (tmp_path / "proc.json").write_text('{"pid": 2147483646, "start_mark": "1", "name": "serverapp", "started_at": ""}')
    attempt = Attempt(tmp_path)
    with wrapper_of(tmp_path):
        assert attempt.end() is None
    assert attempt.end() == GONE
    with wrapper_of(tmp_path):
        (tmp_path / "exit.json").write_text('{"rc": null, "signal": 9, "last_lines": []}')
        assert attempt.end() == KILLED


@contextlib.contextmanager
def wrapper_of(folder: Path) -> Iterator[None]:
    """Hold a folder as a living wrapper does."""
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    try:
        yield
    finally:
        os.close(descriptor)
