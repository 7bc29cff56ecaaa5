"""Where torch computes, and that what several nodes share serves one at a time."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from typing import Any

import pytest
import torch
from flower_app.workloads.devices import choose_device, turn_at, turn_of
from flower_app.workloads.memory import OutOfMemory


def test_a_device_that_is_not_there_becomes_the_cpu_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    missing = "mps" if torch.cuda.is_available() else "cuda"
    assert [choose_device(wish).type for wish in ("cpu", missing)] == ["cpu", "cpu"]
    assert capsys.readouterr().out == f"device {missing} is not to be had here: training on the CPU\n"
    with turn_at(torch.device("cpu")) as waited_s:
        assert waited_s == 0


def test_a_turn_within_a_turn_is_the_same_one() -> None:
    with turn_of(f"own-{os.getpid()}") as waited_s, turn_of(f"own-{os.getpid()}") as again_s:
        assert waited_s == again_s
    with turn_of(f"own-{os.getpid()}"):
        pass


def test_a_fit_that_raises_leaves_its_turn_to_the_next_one() -> None:
    key = f"raised-{os.getpid()}"
    for _ in range(2):
        with pytest.raises(OutOfMemory), turn_of(key):
            raise OutOfMemory
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(f"\0espalier/{key}")


@pytest.mark.parametrize("refusal", [OSError(errno.EACCES, "Permission denied"), OSError("AF_UNIX path too long")])
def test_where_the_system_gives_no_lock_nobody_waits_and_a_line_says_so(
    refusal: OSError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Refused(socket.socket):
        def bind(self, address: Any) -> None:
            raise refusal

    monkeypatch.setattr("flower_app.workloads.devices.socket.socket", Refused)
    with turn_of("refused") as waited_s:
        assert waited_s < 1
    told = capsys.readouterr().out
    assert told == f"other nodes of this machine may work at refused at the same time: there is no lock ({refusal.args[-1]})\n"


def test_a_device_serves_one_process_at_a_time_and_the_next_one_when_that_is_killed() -> None:
    key = f"test-{os.getpid()}"
    holds = f"from flower_app.workloads.devices import turn_of\nwith turn_of({key!r}):\n print('mine', flush=True)\n input()"
    first, second = (
        subprocess.Popen([sys.executable, "-c", holds], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    )
    with first, second:
        assert first.stdout
        assert second.stdout
        told = {process: process.stdout.readline() for process in (first, second) if process.stdout}
        holder, waiter = sorted(told, key=lambda process: told[process] != "mine\n")
        assert "waiting for" in told[waiter]
        holder.kill()
        assert waiter.stdout is not None
        assert waiter.stdout.readline() == "mine\n"
        waiter.communicate("\n", timeout=20)
