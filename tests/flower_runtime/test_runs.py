"""Whole runs through SuperLink, executor and two nodes: what is written where, how failures come home, what stop stops."""

import json
import os
import re
import signal
import stat
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.flower_runtime.small_memory import small_memory
from tests.flower_runtime.stack import Node, Stack
from tests.flower_runtime.waiting import wait_for

pytestmark = pytest.mark.timeout(120)

SECRETS = ("postgres://u:pw@h/d", "t0ps3cret", "k3y")
HARMLESS = ("TOKENIZERS_PARALLELISM", "HF_HUB_DISABLE_IMPLICIT_TOKEN")  # switches of libraries


@pytest.fixture(scope="module")
def echo(stack: Stack) -> int:
    """Give the id of a run of two rounds that has completed."""
    run = stack.begin("echo", rounds=2)
    assert stack.wait_end(run) == "completed"
    return run


def test_a_run_leaves_its_directory_as_the_contract_says(stack: Stack, echo: int) -> None:
    attempt = stack.attempt(echo)
    wait_for("exit.json", (attempt / "exit.json").exists)
    assert sorted(each.name for each in attempt.iterdir()) == ["exit.json", "proc.json", "server.log"]
    assert [stat.S_IMODE(each.stat().st_mode) for each in (attempt, attempt.parent, stack.run_dir(echo))] == [0o700] * 3
    ended = json.loads((attempt / "exit.json").read_text())
    assert (ended["rc"], ended["signal"]) == (0, None)
    assert "server says hello" in ended["last_lines"]
    assert set(json.loads((attempt / "proc.json").read_text())) == {"pid", "start_mark", "name", "started_at"}


def test_server_log_holds_prints_native_output_and_flowers_lines_without_colours(stack: Stack, echo: int) -> None:
    text = (stack.attempt(echo) / "server.log").read_text()
    assert "server says hello\n" in text
    assert "native code says hello\n" in text
    assert "Start `flwr-serverapp` process" in text
    assert "\x1b" not in text


def test_each_message_has_its_folder_and_its_lines_in_the_activity(stack: Stack, echo: int) -> None:
    for node in stack.nodes:
        folders = node.clientapps(echo)
        assert len(folders) == 2
        for folder in folders:
            wait_for("exit.json", (folder / "exit.json").exists)
            assert sorted(each.name for each in folder.iterdir()) == ["exit.json", "output.log", "proc.json"]
            assert "client says hello" in json.loads((folder / "exit.json").read_text())["last_lines"]
        lines = _activity(node, echo, 4)
        assert [line["event"] for line in lines].count("message.ended") == 2
        assert {line["message_id"] for line in lines} == {folder.name for folder in folders}
        assert [line["seq"] for line in node.activity()] == list(range(1, len(node.activity()) + 1))


def test_a_clientapp_is_a_fork_of_its_nodes_warm_server_with_random_numbers_of_its_own(stack: Stack, echo: int) -> None:
    draws = []
    for node in stack.nodes:
        for folder in node.clientapps(echo):
            lines = (folder / "output.log").read_text().splitlines()
            draws += [number for line in lines if line.startswith("client draws ") for number in line.split()[2:]]
    assert len(draws) == len(set(draws)) == 8
    run = stack.begin("sleeps")
    warm = json.loads((stack.nodes[0].state_dir / "warm" / "proc.json").read_text())
    assert psutil.Process(stack.nodes[0].wait_clientapp(run)["pid"]).ppid() == warm["pid"]
    stack.stop(run)
    assert stack.wait_end(run) == "stopped"


def test_neither_app_finds_a_key_or_a_token_of_ours_in_its_environment(stack: Stack, echo: int) -> None:
    server = json.loads((stack.run_dir(echo) / "environment.json").read_text())
    client = json.loads((stack.nodes[0].cache_dir / "environment.json").read_text())
    for environment in (server, client):
        assert not [value for value in environment.values() if any(secret in value for secret in SECRETS)]
        forbidden = ("TOKEN", "KEY", "SECRET", "PASSWORD", "DATABASE", "SUPABASE")
        assert not [name for name in environment if name not in HARMLESS and any(word in name for word in forbidden)]
    assert server["ESPALIER_RUN_DIR"] == str(stack.run_dir(echo))
    assert server["ESPALIER_ATTEMPT"] == str(echo)
    assert client["ESPALIER_FORWARD_LOGS"] == "all"


def test_the_public_port_serves_the_fleet_api_and_health_alone(stack: Stack) -> None:
    def post(path: str) -> int:
        headers = {"content-type": "application/protobuf", "accept": "application/protobuf"}
        return stack.http.post(f"https://127.0.0.1:{stack.public_port}{path}", headers=headers).status_code

    assert stack.get("/health", stack.public_port) == 200
    assert [stack.get(path, stack.public_port) for path in ("/docs", "/openapi.json")] == [403, 403]
    assert [post(f"/v1/{path}") for path in ("control/list-runs", "runtime/acquire-task", "fleet/pull-messages")] == [
        403,
        403,
        401,
    ]
    assert stack.get("/docs") == 200


def test_a_dead_clientapp_is_answered_for_at_once(stack: Stack) -> None:
    run = stack.begin("exit+killed")
    assert stack.wait_end(run) == "completed"
    replies = stack.replies(run)
    assert [reply["error"]["code"] for reply in replies] == [8, 8]
    reasons = sorted(reply["error"]["reason"].splitlines() for reply in replies)
    hows = ["exit code 3", "killed by signal 9 (SIGKILL)"]
    assert [reason[0] for reason in reasons] == [f"ClientApp of site-a: {hows[0]}", f"ClientApp of site-b: {hows[1]}"]
    last_lines = ["last words", "client says hello"]
    assert [reason[-1] for reason in reasons] == last_lines
    for node, how, last_line in zip(stack.nodes, hows, last_lines, strict=True):
        died = _activity(node, run, 2)[-1]
        assert (died["event"], died["reason"], died["last_lines"][-1]) == ("clientapp.died", how, last_line)
        assert min(reply["at"] for reply in replies) - datetime.fromisoformat(died["at"]).timestamp() < 5


def test_a_clientapp_that_the_kernel_kills_for_want_of_memory_says_so_and_what_to_do(stack: Stack) -> None:
    node = stack.nodes[1]
    warm = json.loads((node.state_dir / "warm" / "proc.json").read_text())["pid"]
    assert node.process
    with small_memory([node.process.pid, warm], 256 * 2**20):
        run = stack.begin("echo+hoards")
        assert stack.wait_end(run) == "completed"
    (reason,) = [reply["error"]["reason"] for reply in stack.replies(run) if reply["error"]]
    told = r"killed by signal 9 \(SIGKILL\): memory ran out when it held at least 0\.\d GB: lower batch-size, max-length .*"
    assert re.fullmatch(f"ClientApp of site-b: {told}", reason.splitlines()[0])
    assert re.fullmatch(told, _activity(node, run, 2)[-1]["reason"])


def test_a_traceback_is_kept_and_a_terminated_clientapp_is_answered_for(stack: Stack) -> None:
    run = stack.begin("raises+terminated")
    assert stack.wait_end(run) == "completed"
    assert sorted(reply["error"]["code"] for reply in stack.replies(run)) == [2, 8]
    raised, terminated = (_activity(node, run, 2)[-1] for node in stack.nodes)
    assert (raised["event"], raised["rc"]) == ("message.ended", 1)
    assert any("no such column" in line for line in raised["last_lines"])
    assert (terminated["event"], terminated["reason"]) == ("clientapp.died", "exit code 0")


def test_stopping_a_run_ends_its_clientapps_and_frees_the_nodes(stack: Stack) -> None:
    run = stack.begin("sleeps+busy")
    pids = [node.wait_clientapp(run)["pid"] for node in stack.nodes]
    _assert_no_token_is_visible(stack, [*pids, json.loads((stack.attempt(run) / "proc.json").read_text())["pid"]])
    pids.append(_helper(stack.nodes[0].cache_dir))
    stack.stop(run)
    wait_for("every process of the run is dead", lambda: not any(_is_alive(pid) for pid in pids), 15)
    for node in stack.nodes:
        cancelled = _activity(node, run, 2)[-1]
        assert cancelled["event"] == "message.cancelled"
        assert cancelled["reason"] == "killed by signal 9 (SIGKILL): its run is over"
    assert stack.wait_end(stack.begin("echo")) == "completed"


def test_a_clientapp_that_spoils_its_folder_and_leaves_a_daemon_harms_nobody_after_it(stack: Stack) -> None:
    run = stack.begin("spoils")
    assert stack.wait_end(run) == "completed"
    assert [reply["error"]["reason"].splitlines()[0] for reply in stack.replies(run) if "site-a" in reply["error"]["reason"]] == [
        "ClientApp of site-a: exit code 1"
    ]
    wait_for("the daemons are dead", lambda: not any(_is_alive(_helper(node.cache_dir)) for node in stack.nodes), 15)
    assert stack.wait_end(again := stack.begin("echo")) == "completed"
    assert [reply["error"] for reply in stack.replies(again)] == [None, None]


def test_the_wanted_file_ends_clientapps_without_asking_superlink(stack: Stack) -> None:
    run = stack.begin("sleeps", wait=60.0)
    pids = [node.wait_clientapp(run)["pid"] for node in stack.nodes]
    over, cancelled = stack.nodes
    _write_wanted(over.wanted_file, {"seq": 1, "over_runs": [str(run)], "cancelled_messages": []})
    _write_wanted(cancelled.wanted_file, {"seq": 1, "over_runs": [], "cancelled_messages": [cancelled.clientapps(run)[0].name]})
    wait_for("the ClientApps are dead", lambda: not any(_is_alive(pid) for pid in pids), 10)
    assert stack.wait_end(run) == "completed", "to SuperLink the run went on"
    reasons = sorted(reply["error"]["reason"].splitlines()[0] for reply in stack.replies(run))
    assert reasons == [
        "ClientApp of site-a: killed by signal 9 (SIGKILL): its run is over",
        "ClientApp of site-b: killed by signal 9 (SIGKILL): its message was cancelled",
    ]
    for node in stack.nodes:
        node.wanted_file.unlink()


def test_a_serverapp_that_raises_leaves_its_traceback(stack: Stack) -> None:
    run = stack.begin("server-raises")
    assert stack.wait_end(run) == "failed"
    ended = _ended(stack, run)
    assert (ended["rc"], ended["signal"]) == (1, None)
    assert any("ValueError: the server has a bad day" in line for line in ended["last_lines"])


def test_a_killed_serverapp_is_said_to_be_killed(stack: Stack) -> None:
    run = stack.begin("sleeps")
    stack.nodes[0].wait_clientapp(run)
    os.killpg(json.loads((stack.attempt(run) / "proc.json").read_text())["pid"], signal.SIGKILL)
    ended = _ended(stack, run)
    assert (ended["rc"], ended["signal"]) == (None, 9)
    stack.stop(run)
    assert stack.wait_end(run) == "stopped"


def test_a_serverapp_that_the_kernel_kills_for_want_of_memory_says_so_at_the_end_of_its_log(stack: Stack) -> None:
    assert stack.executor
    with small_memory([stack.executor.pid], 256 * 2**20):
        run = stack.begin("server-hoards")
        ended = _ended(stack, run)
    assert ended["signal"] == 9
    assert re.match(r"ServerApp ended: .*\(SIGKILL\): memory ran out: lower server-memory-limit-mb", ended["last_lines"][-1])
    stack.stop(run)
    assert stack.wait_end(run) == "stopped"


def _activity(node: Node, run: int, count: int) -> list[dict[str, Any]]:
    """Wait for so many lines of a run in a node's activity."""

    def lines() -> list[dict[str, Any]]:
        found = [line for line in node.activity() if line["flower_run_id"] == str(run)]
        return found if len(found) >= count else []

    return wait_for("activity", lines)


def _ended(stack: Stack, run: int) -> dict[str, Any]:
    path = stack.attempt(run) / "exit.json"
    wait_for("exit.json", path.exists)
    return dict(json.loads(path.read_text()))


def _assert_no_token_is_visible(stack: Stack, pids: list[int]) -> None:
    """Assert that no command line and no file shows a task's token or a node's SuperExec secret."""
    assert not [word for pid in pids for word in psutil.Process(pid).cmdline() if len(word) >= 200]
    for pattern in ("runs/*/attempts/*/token", "site-*/supernode/clientapps/*/*/token", "site-*/supernode/superexec.secret"):
        assert not list(stack.home.glob(pattern))


def _helper(cache: Path) -> int:
    return int((cache / "helper.pid").read_text())


def _is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _write_wanted(path: Path, content: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content))
    part.replace(path)
