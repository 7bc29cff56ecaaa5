"""The warm server as a process: what it forks, what it imports, and what happens when it or its forks end."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from flower_runtime import warm
from flower_runtime.clientapp import forget_modules_of, installed_modules
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


def warm_up(server: WarmServer) -> None:
    wait_for("it is warm", lambda: not server.is_warming)


def begin(server: WarmServer) -> None:
    server.start()
    warm_up(server)


def fork(server: WarmServer, folder: Path) -> WarmProcess:
    folder.mkdir(parents=True)
    (folder / "token").write_text("none")
    process = server.fork(folder)
    assert process is not None
    return process


def preload(tmp_path: Path, name: str, source: str) -> Path:
    """Have the server import a module of this source; give the list of what it imports."""
    (tmp_path / f"{name}.py").write_text(source)
    (tmp_path / "warm").mkdir(exist_ok=True)
    path = tmp_path / "warm" / "modules.json"
    path.write_text(json.dumps([name]))
    return path


def own_pid(tmp_path: Path) -> int:
    record = ProcessRecord.read(tmp_path / "warm" / "proc.json")
    assert record is not None
    return record.pid


def wait_for_gone(path: Path) -> None:
    wait_for(f"{path.name} is gone", lambda: not path.exists())


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
    assert psutil.Process(processes[0].pid).status() == psutil.STATUS_ZOMBIE, "its pid is nobody else's until it is released"
    processes[0].release()
    wait_for("it is reaped", lambda: not psutil.pid_exists(processes[0].pid), 5)
    assert processes[0].poll() == -signal.SIGKILL
    assert processes[1].poll() is None, "the other lives on"


def test_a_fork_that_has_ended_unseen_is_not_taken_for_the_next(server: WarmServer, tmp_path: Path) -> None:
    begin(server)
    first = fork(server, tmp_path / "first")
    os.killpg(first.pid, signal.SIGKILL)
    wait_for("it has ended", lambda: psutil.Process(first.pid).status() == psutil.STATUS_ZOMBIE)
    second = fork(server, tmp_path / "second")
    assert second.pid != first.pid
    assert (first.poll(), second.poll()) == (-signal.SIGKILL, None)


def test_a_server_that_dies_takes_its_forks_along_and_is_there_again_for_the_message_after_the_next(
    server: WarmServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(server)
    process = fork(server, tmp_path / "first")
    os.kill(own_pid(tmp_path), signal.SIGKILL)
    assert process.wait(5) == -signal.SIGKILL
    process.release()
    wait_for("the fork is gone", lambda: not psutil.pid_exists(process.pid), 5)
    assert "ClientApps are started anew: it has ended" in capsys.readouterr().out
    assert server.fork(tmp_path / "second") is None
    warm_up(server)
    fork(server, tmp_path / "third")


def test_a_server_that_hangs_is_killed_and_there_again(
    server: WarmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm, "_FORK_S", 0.2)
    begin(server)
    hanging = own_pid(tmp_path)
    os.kill(hanging, signal.SIGSTOP)
    assert server.fork(tmp_path / "first") is None
    assert not psutil.pid_exists(hanging)
    warm_up(server)
    fork(server, tmp_path / "second")


def test_it_imports_what_clientapps_needed_and_says_what_it_cannot(server: WarmServer, tmp_path: Path) -> None:
    (tmp_path / "heavy.py").write_text("print('heavy is imported')")
    (tmp_path / "broken.py").write_text("raise SystemExit('no GPU here')")
    (tmp_path / "modules.json").write_text(json.dumps(["heavy", "broken"]))
    begin(server)
    server.learn(tmp_path)
    warm_up(server)
    said = (tmp_path / "warm" / "output.log").read_text()
    assert "heavy is imported" in said
    assert "broken is not preloaded: SystemExit('no GPU here')" in said
    assert not (tmp_path / "modules.json").exists()
    before = own_pid(tmp_path)
    (tmp_path / "modules.json").write_text(json.dumps(["heavy"]))
    server.learn(tmp_path)
    assert own_pid(tmp_path) == before, "it has all of these"


def test_a_list_of_modules_that_is_no_file_changes_nothing(server: WarmServer, tmp_path: Path) -> None:
    begin(server)
    before = own_pid(tmp_path)
    os.mkfifo(tmp_path / "modules.json")
    server.learn(tmp_path)
    (tmp_path / "modules.json").mkdir()
    server.learn(tmp_path)
    assert own_pid(tmp_path) == before


@pytest.mark.parametrize("garbled", ["[[1]]", "[{}]", "{}", "[" * 200_000, "\x00", ""])
def test_a_list_of_modules_that_a_clientapp_has_garbled_changes_nothing(server: WarmServer, tmp_path: Path, garbled: str) -> None:
    begin(server)
    before = own_pid(tmp_path)
    (tmp_path / "modules.json").write_text(garbled)
    server.learn(tmp_path)
    assert own_pid(tmp_path) == before
    assert not (tmp_path / "modules.json").exists()


@pytest.mark.parametrize("daemon", [True, False])
def test_it_does_not_fork_beside_threads_and_forgets_what_started_them(
    server: WarmServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], daemon: bool
) -> None:
    modules = preload(
        tmp_path, "threaded", f"import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon={daemon}).start()"
    )
    begin(server)
    assert "has started 1 threads" in capsys.readouterr().out
    assert not modules.exists()
    fork(server, tmp_path / "first")


def test_it_does_not_fork_where_an_import_has_started_cuda_and_forgets_it(
    server: WarmServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    modules = preload(tmp_path, "torch", "class cuda:\n    is_initialized = staticmethod(lambda: True)")
    begin(server)
    assert "has started CUDA, which no fork could use" in capsys.readouterr().out
    assert not modules.exists()
    fork(server, tmp_path / "first")


def test_second_names_of_modules_are_not_taught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil_by_another_name", psutil)
    names = installed_modules()
    assert "psutil" in names
    assert "psutil_by_another_name" not in names, "it could not be imported, and would be said to be missing for ever"


def test_an_import_that_hangs_is_given_up_and_forgotten(
    server: WarmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = preload(tmp_path, "patient", "import time\ntime.sleep(600)")
    server.start()
    monkeypatch.setattr(warm, "_WARM_UP_S", 0.0)
    assert server.is_warming, "it is started again without the module"
    assert not modules.exists()
    monkeypatch.undo()
    warm_up(server)
    fork(server, tmp_path / "first")


def test_one_that_cannot_be_started_is_not_tried_for_ever(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = WarmServer(tmp_path / "warm", "127.0.0.1:9", {}, tmp_path / "missing")
    server.start()
    assert "it cannot be started" in capsys.readouterr().out
    assert not server.is_warming
    assert [server.fork(tmp_path) for _ in range(3)] == [None] * 3
    assert capsys.readouterr().out == ""


def test_children_of_imported_modules_are_neither_told_nor_left_behind(server: WarmServer, tmp_path: Path) -> None:
    source = (
        "import subprocess\nsubprocess.Popen(['true'])\nopen('child', 'w').write(str(subprocess.Popen(['sleep', '600']).pid))"
    )
    preload(tmp_path, "starting", source)
    begin(server)
    process = fork(server, tmp_path / "first")
    assert process.poll() is None
    server.close()
    child = int((tmp_path / "child").read_text())
    wait_for("the child is gone", lambda: not psutil.pid_exists(child), 5)


def test_an_apps_own_modules_win_over_what_was_imported_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed, app = tmp_path / "installed", tmp_path / "app"
    for folder in (installed, app):
        (folder / "shared_name").mkdir(parents=True)
        (folder / "shared_name" / "__init__.py").write_text(f"WHERE = {folder.name!r}")
    monkeypatch.syspath_prepend(str(installed))
    import shared_name  # type: ignore[import-not-found]

    assert shared_name.WHERE == "installed"
    forget_modules_of(app)
    monkeypatch.syspath_prepend(str(app))
    import shared_name as found

    assert found.WHERE == "app"
    forget_modules_of(app)
    import shared_name as again

    assert again is found, "its own stay"
