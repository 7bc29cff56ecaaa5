"""Attempts at a run without a SuperLink: the ServerApp waits for one, and that is enough to see who owns whom."""

import json
import os
import signal
import stat
import subprocess
from pathlib import Path

import psutil
import pytest
from flower_runtime.attempts import Attempt
from flower_runtime.procfile import ProcessRecord

from tests.flower_runtime.waiting import wait_for


def test_a_task_handed_out_again_ends_its_first_serverapp_and_term_is_passed_on(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "series", "17")
    first_wrapper, first = _start(attempt)
    assert os.getpgid(first.pid) == first.pid, "a signal to the group spares the wrapper"
    assert os.getsid(first.pid) == first_wrapper.pid
    wait_for("the token was read and deleted", lambda: not (attempt.directory / "token").exists())
    second_wrapper, second = _start(attempt)
    assert not first.is_alive()
    assert first_wrapper.wait(10) == 0
    assert not (attempt.directory / "exit.json").exists(), "the first one's end is not the second one's"
    wait_for("the token was read and deleted", lambda: not (attempt.directory / "token").exists())
    second_wrapper.send_signal(signal.SIGTERM)
    assert second_wrapper.wait(20) == 0
    assert not second.is_alive()
    ended = json.loads((attempt.directory / "exit.json").read_text())
    assert ended["rc"] is not None or ended["signal"] == signal.SIGTERM
    assert ended["last_lines"][-1].startswith("ServerApp ended: ")


def test_a_serverapp_gives_large_blocks_back_to_the_system(tmp_path: Path) -> None:
    assert Attempt(tmp_path, "series", "17").environment()["MALLOC_MMAP_THRESHOLD_"] == "1048576"


def test_a_start_that_fails_says_why_in_exit_json(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "series", "17")
    (attempt.directory / "server.log").mkdir(parents=True)
    with pytest.raises(IsADirectoryError) as caught:
        attempt.start("t", [])
    attempt.note_failed_start(f"the ServerApp could not be started: {caught.value}")
    ended = json.loads((attempt.directory / "exit.json").read_text())
    assert (ended["rc"], ended["signal"]) == (None, None)
    assert "Is a directory" in ended["last_lines"][0]
    assert not (attempt.directory / "token").exists()


def _start(attempt: Attempt) -> tuple[subprocess.Popen[bytes], ProcessRecord]:
    wrapper = attempt.start("00" * 128, ["--insecure", "--runtime-api-address", "127.0.0.1:9"])
    token = attempt.directory / "token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert "00" * 128 not in " ".join(psutil.Process(wrapper.pid).cmdline())
    record = wait_for("proc.json", lambda: ProcessRecord.read(attempt.directory / "proc.json"))
    assert record is not None
    assert record.is_alive()
    return wrapper, record
