"""demo.py where it meets the machine: ports, folders, children, and what it leaves behind."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from rich.console import Console

import demo as demo_story
from demo_rounds import cells, shown_rounds
from demo_stack import Rest, Trouble, is_taken, owner_of, recorded, sweep

ROOT = Path(__file__).resolve().parents[1]
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening


@pytest.fixture
def stubborn() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does not care for TERM."""
    child = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, start_new_session=True)
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        yield child
        child.kill()


def free_ports(count: int) -> int:
    """Find the first of so many consecutive free ports."""
    for base in range(21000 + os.getpid() % 20000, 60000, count):
        if not any(is_taken(port) for port in (*range(base, base + count), base + 1092)):
            return base
    raise AssertionError("no free ports")


def demo(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "demo.py"), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def record(folder: Path, pid: int, mark: str | None = None) -> None:
    folder.mkdir(parents=True)
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    (folder / "proc.json").write_text(json.dumps({"pid": pid, "start_mark": mark or fields[19], "name": "x", "started_at": ""}))


def test_a_port_in_use_is_told_with_the_program_that_has_it(listener: socket.socket, tmp_path: Path) -> None:
    port = listener.getsockname()[1]
    assert f"pid {os.getpid()}" in owner_of(port)
    process = demo("--home", str(tmp_path / "home"), "--ports", str(port))
    printed, told = process.communicate(timeout=30)
    assert process.returncode == 1
    assert f"port {port} is in use by" in told
    assert f"pid {os.getpid()}" in told
    assert "Traceback" not in told + printed


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    process = demo("--home", str(tmp_path / "file" / "home"), "--ports", str(free_ports(4)))
    _, told = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "cannot write to" in told
    assert "Traceback" not in told


def test_a_missing_package_is_told(tmp_path: Path) -> None:
    hidden = "import sys; sys.modules['rich'] = sys.modules['rich.console'] = None; import runpy; runpy.run_path('demo.py')"
    told = subprocess.run([sys.executable, "-c", hidden], cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert "`python3 run.py demo` installs everything" in told.stderr


def test_a_server_that_does_not_answer_is_named(tmp_path: Path) -> None:
    token = tmp_path / "admin.token"
    token.write_text("secret")
    port = free_ports(1)
    with pytest.raises(Trouble, match=f"the admin server at http://127.0.0.1:{port} does not answer"):
        Rest("admin server", port, token).get("/runs")
    with pytest.raises(Trouble, match="cannot read the token of the admin server"):
        Rest("admin server", port, tmp_path / "nowhere").get("/runs")


def test_the_cause_of_a_failed_run_is_told_whole() -> None:
    cause = {
        "node_id": "7",
        "node_name": "site-b",
        "type": "ValueError",
        "message": "no rows",
        "last_lines": ["loading", "raising"],
    }
    assert demo_story.told(cause) == "ValueError on site-b: no rows\n    loading\n    raising"
    assert "the coordinator" in demo_story.told({**cause, "node_id": None, "node_name": None})
    assert demo_story.told(None) == "no cause is recorded"


def test_a_line_is_printed_once_for_each_closed_round() -> None:
    printed = io.StringIO()
    out = Console(file=printed, width=200)
    row = {"round": 1, "status": "open", "counted": None, "expected": 3, "metrics": None, "server_metrics": None}
    row |= {"seconds": None, "bytes_down": None, "bytes_up": None}
    closed = row | {"status": "closed", "counted": 3, "metrics": {"accuracy": 0.1}, "server_metrics": {"accuracy": 0.9714}}
    closed |= {"seconds": 4.26, "bytes_down": 168_000, "bytes_up": 1_690_000}
    with shown_rounds(out) as show:
        for rows in ([row], [closed], [closed, {**row, "round": 2}]):
            show(rows, Counter({1: 2}))
    lines = [line.split() for line in printed.getvalue().splitlines()]
    assert lines[1:] == [["1", "3/3", "0.9714", "4.3", "168", "kB", "1.7", "MB"]], "the server's own accuracy goes first"


def test_the_live_table_counts_what_has_arrived() -> None:
    row = {"round": 2, "status": "open", "counted": None, "expected": 3, "metrics": None, "server_metrics": None}
    row |= {"seconds": None, "bytes_down": 168_000, "bytes_up": None}
    assert cells(row, Counter({2: 2}))[:2] == ["2", "2/3"]


def test_the_sweep_ends_what_a_record_names(tmp_path: Path, stubborn: subprocess.Popen[bytes]) -> None:
    record(tmp_path / "runs" / "1" / "attempts" / "2", stubborn.pid)
    assert list(recorded(tmp_path)) == [stubborn.pid]
    sweep(tmp_path, patience_s=0.3)
    assert stubborn.wait(5) == -signal.SIGKILL
    assert list(recorded(tmp_path)) == []


def test_the_sweep_spares_another_process_with_the_same_pid(tmp_path: Path, stubborn: subprocess.Popen[bytes]) -> None:
    record(tmp_path / "superlink", stubborn.pid, mark="1")
    sweep(tmp_path, patience_s=0.3)
    assert stubborn.poll() is None


def processes_of(home: Path) -> list[str]:
    """Describe the living processes that were started with this ESPALIER_HOME, or run in it."""
    found = []
    for process in psutil.process_iter():
        try:
            words = " ".join(process.cmdline())
            if str(home) in words or process.environ().get("ESPALIER_HOME") == str(home):
                found.append(f"{process.pid} {process.status()} {words}")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_start_leaves_no_process(number: signal.Signals, tmp_path: Path) -> None:
    home = tmp_path / "home"
    process = demo("--home", str(home), "--ports", str(free_ports(4)))
    until = time.monotonic() + 60
    while not (home / "postgres" / "proc.json").exists() and process.poll() is None:
        assert time.monotonic() < until, "the demo started no Postgres"
        time.sleep(0.05)
    process.send_signal(number)
    time.sleep(0.2)
    process.send_signal(number)  # impatience changes nothing
    printed, told = process.communicate(timeout=90)
    assert process.returncode == 128 + number, printed + told
    assert "interrupted" in told
    assert processes_of(home) == []
