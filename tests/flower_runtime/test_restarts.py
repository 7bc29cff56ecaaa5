"""What outlives what: SIGKILL and restart of SuperLink, executor, node and wrapper while a run is at work."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.flower_runtime import mortal_superlink
from tests.flower_runtime.certificates import write_key
from tests.flower_runtime.stack import Node, Stack
from tests.flower_runtime.waiting import wait_for

pytestmark = pytest.mark.timeout(120)


def test_a_run_goes_on_while_the_executor_is_killed_and_started_again(small_stack: Stack) -> None:
    run = small_stack.begin("slow")
    small_stack.nodes[0].wait_clientapp(run)
    _kill(small_stack.executor)
    small_stack.start_executor()
    assert small_stack.wait_end(run) == "completed"
    assert [reply["error"] for reply in small_stack.replies(run)] == [None]


def test_superlink_may_die_between_doing_what_it_is_asked_and_saying_so(small_stack: Stack, tmp_path: Path) -> None:
    _kill(small_stack.superlink)
    deaths = tmp_path / "deaths"
    deaths.touch()
    small_stack.start_superlink(Path(mortal_superlink.__file__), deaths)
    run = small_stack.begin("answers", rounds=2)
    for _ in mortal_superlink.REQUESTS:
        assert small_stack.superlink is not None
        assert small_stack.superlink.wait(30) == -signal.SIGKILL, deaths.read_text()
        small_stack.start_superlink(Path(mortal_superlink.__file__), deaths)
    assert small_stack.wait_end(run, 60) == "completed"
    assert [(reply["round"], reply["error"]) for reply in small_stack.replies(run)] == [(1, None), (2, None)]
    assert len(small_stack.nodes[0].clientapps(run)) == 2, "no message was worked on twice"
    assert [node.process.poll() for node in small_stack.nodes if node.process] == [None]
    assert small_stack.wait_end(small_stack.begin("server-raises")) == "failed", "the executor has found SuperLink again"


def test_superlink_ends_soon_although_a_client_keeps_its_connection(small_stack: Stack) -> None:
    assert small_stack.get("/health") == 200  # the connection stays in the pool
    assert small_stack.superlink is not None
    small_stack.superlink.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    small_stack.superlink.wait(20)
    assert time.monotonic() - begin < 10
    small_stack.start_superlink()


def test_a_killed_node_takes_its_clientapp_along_and_starts_again_at_once(small_stack: Stack) -> None:
    node = small_stack.nodes[0]
    run = small_stack.begin("sleeps", wait=60.0)
    clientapp = node.wait_clientapp(run)
    _kill(node.process)
    wait_for("the ClientApp is dead", lambda: not psutil.pid_exists(clientapp["pid"]), 5)
    assert _deactivate(small_stack, node).returncode == 0
    again = _deactivate(small_stack, node)
    assert (again.returncode, again.stdout.strip()) == (0, f"node {node.id} was not online")
    node.start("--forward-logs", "none")
    folder = node.clientapps(run)[0]
    assert json.loads((folder / "exit.json").read_text())["rc"] is None
    died = node.activity()[-1]
    assert (died["event"], died["reason"], died["last_lines"]) == ("clientapp.died", "its SuperNode ended first", [])
    assert small_stack.wait_end(run) == "completed", "SuperLink answers for a node that is offline"


def test_a_node_that_forwards_nothing_says_only_how_its_clientapp_died(small_stack: Stack) -> None:
    run = small_stack.begin("exit")
    assert small_stack.wait_end(run) == "completed"
    assert [reply["error"]["reason"] for reply in small_stack.replies(run)] == ["ClientApp of site-a: exit code 3"]


def test_deactivate_refuses_a_key_that_is_not_the_nodes(small_stack: Stack, tmp_path: Path) -> None:
    write_key(tmp_path / "strange.key")
    refused = _deactivate(small_stack, small_stack.nodes[0], tmp_path / "strange.key")
    assert refused.returncode == 1
    assert "could not be deactivated: HTTP 401" in refused.stdout


def test_a_killed_wrapper_takes_its_serverapp_along(small_stack: Stack) -> None:
    run = small_stack.begin("sleeps")
    small_stack.nodes[0].wait_clientapp(run)
    pid = json.loads((small_stack.attempt(run) / "proc.json").read_text())["pid"]
    psutil.Process(pid).parent().kill()  # type: ignore[union-attr]
    wait_for("the ServerApp is dead", lambda: not psutil.pid_exists(pid), 5)
    small_stack.stop(run)
    assert not (small_stack.attempt(run) / "exit.json").exists()


def test_a_node_told_to_end_does_so_and_ends_its_clientapp(small_stack: Stack) -> None:
    node = small_stack.nodes[0]
    run = small_stack.begin("sleeps")
    clientapp = node.wait_clientapp(run)
    assert node.process is not None
    node.process.send_signal(signal.SIGTERM)
    assert node.process.wait(20) == 0
    assert not psutil.pid_exists(clientapp["pid"])
    assert json.loads((node.clientapps(run)[0] / "exit.json").read_text())["signal"] == 9
    assert small_stack.wait_end(run) == "completed"


def _kill(process: subprocess.Popen[bytes] | None) -> None:
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def _deactivate(stack: Stack, node: Node, key: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-P", "-m", "flower_runtime.deactivate", "--superlink", f"127.0.0.1:{stack.public_port}"),
            *("--root-certificates", str(stack.ca), "--key", str(key or node.key), "--node-id", str(node.id)),
        ],
        capture_output=True,
        text=True,
        timeout=30,
    )
