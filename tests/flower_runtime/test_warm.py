"""The warm server as a process: what it forks, what it imports, and what happens when it or its forks end."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from flower_runtime.procfile import ProcessRecord
from flower_runtime.warm import WarmProcess, WarmServer

from tests.flower_runtime.waiting import wait_for


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WarmServer]:
    """Make one whose ClientApps wait for the answer of a SuperNode that gives none."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        made = WarmServer(tmp_path / "warm", f"127.0.0.1:{silent.getsockname()[1]}", environment, tmp_path)
        yield made
        made.close()


def begin(server: WarmServer) -> None:
    server.start()
    wait_for("it is warm", lambda: not server.is_warming)


def fork(server: WarmServer, folder: Path) -> WarmProcess:
    folder.mkdir(parents=True)
    (folder / "token").write_text("none")
    process = server.fork(folder)
    assert process is not None
    return process


def wait_for_gone(path: Path) -> None:
    wait_for(f"{path.name} is gone", lambda: not path.exists())


def own_pid(tmp_path: Path) -> int:
    record = ProcessRecord.read(tmp_path / "warm" / "proc.json")
    assert record is not None
    return record.pid


def test_each_message_has_a_fork_that_leads_its_group_and_writes_into_its_folder(server: WarmServer, tmp_path: Path) -> None:
    begin(server)
    processes = [fork(server, tmp_path / name) for name in ("first", "second")]
    for name, process in zip(("first", "second"), processes, strict=True):
        assert psutil.Process(process.pid).ppid() == own_pid(tmp_path)
        assert os.getpgid(process.pid) == process.pid
        folder = tmp_path / name
        wait_for_gone(folder / "token")
        assert [os.readlink(f"/proc/{process.pid}/fd/{number}") for number in (1, 2)] == [str(folder / "output.log")] * 2
        assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        processes[0].wait(0.1)
    os.killpg(processes[0].pid, signal.SIGKILL)
    assert processes[0].wait(5) == -signal.SIGKILL
    assert processes[1].poll() is None, "the other lives on"


def test_a_server_that_dies_takes_its_forks_along_and_is_there_again_for_the_message_after_the_next(
    server: WarmServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(server)
    process = fork(server, tmp_path / "first")
    os.kill(own_pid(tmp_path), signal.SIGKILL)
    assert process.wait(5) == -signal.SIGKILL
    wait_for("the fork is gone", lambda: not psutil.pid_exists(process.pid), 5)
    assert "ClientApps are started anew: it has ended" in capsys.readouterr().out
    assert server.fork(tmp_path / "second") is None
    server.close()
    begin(server)
    fork(server, tmp_path / "third")


def test_it_imports_what_clientapps_needed_and_says_what_it_cannot(server: WarmServer, tmp_path: Path) -> None:
    (tmp_path / "heavy.py").write_text("print('heavy is imported')")
    (tmp_path / "broken.py").write_text("raise RuntimeError('no GPU here')")
    (tmp_path / "modules.json").write_text(json.dumps(["heavy", "broken"]))
    begin(server)
    server.learn(tmp_path)
    wait_for("it is warm", lambda: not server.is_warming)
    said = (tmp_path / "warm" / "output.log").read_text()
    assert "heavy is imported" in said
    assert "broken is not preloaded: RuntimeError('no GPU here')" in said
    assert not (tmp_path / "modules.json").exists()
    before = own_pid(tmp_path)
    (tmp_path / "modules.json").write_text(json.dumps(["heavy"]))
    server.learn(tmp_path)
    assert own_pid(tmp_path) == before, "it has all of these"


def test_it_does_not_fork_beside_threads(server: WarmServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "threaded.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()"
    )
    (tmp_path / "warm").mkdir()
    (tmp_path / "warm" / "modules.json").write_text(json.dumps(["threaded"]))
    begin(server)
    assert "not forking beside 1 threads, which importing ['threaded'] has started" in capsys.readouterr().out
    assert server.fork(tmp_path / "first") is None
