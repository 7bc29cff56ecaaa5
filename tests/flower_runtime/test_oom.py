"""What the kernel's count of processes that it killed for want of memory says of one that was ours."""

import functools
import os
import signal
import socket
from pathlib import Path

import pytest
from flower_runtime import clientapp_process
from flower_runtime.clientapp_process import ClientAppProcess
from flower_runtime.handover import ClientAppTask
from flower_runtime.oom import OomKills, peak_bytes

KILLED = "killed by signal 9 (SIGKILL)"
PLAIN, V1, V2 = "proc/vmstat", "sys/fs/cgroup/memory/", "sys/fs/cgroup/"


def count(root: Path, path: str, kills: int) -> None:
    """Have the kernel of this root count so many in this file."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(f"oom {kills + 5}\noom_kill_disable 0\noom_kill {kills}\noom_group_kill 0\n")


def in_groups(root: Path, text: str) -> None:
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/self/cgroup").write_text(text)


@pytest.mark.parametrize(
    ("groups", "counter"),
    [
        ("0::/user.slice/run-7.scope\n", f"{V2}user.slice/run-7.scope/memory.events"),
        ("0::/user.slice/run-7.scope\n", f"{V2}user.slice/memory.events"),
        ("0::/\n", f"{V2}memory.events"),
        ("8:pids:/\n4:cpu,memory:/docker/ab12\n0::/\n", f"{V1}docker/ab12/memory.oom_control"),
        ("4:memory:/docker/ab12\n0::/docker/ab12\n", f"{V1}memory.oom_control"),
        ("0::/\n", PLAIN),
        ("1:name=systemd:/\n", PLAIN),
        ("", PLAIN),
    ],
)
def test_the_kernels_count_is_found_where_this_process_is_counted(tmp_path: Path, groups: str, counter: str) -> None:
    in_groups(tmp_path, groups)
    count(tmp_path, PLAIN, 40)
    count(tmp_path, counter, 3)
    looked = OomKills(tmp_path)
    count(tmp_path, counter, 4)
    assert looked.describe_end(-9, "eat less") == f"{KILLED}: memory ran out: eat less"
    assert looked.describe_end(-9, "", 7_340_000_000) == f"{KILLED}: memory ran out when it held at least 7.3 GB: "


def test_nothing_is_claimed_of_another_end_or_while_nobody_was_killed_in_this_cgroup(tmp_path: Path) -> None:
    in_groups(tmp_path, "0::/mine\n")
    count(tmp_path, f"{V2}mine/memory.events", 3)
    count(tmp_path, PLAIN, 3)
    looked = OomKills(tmp_path)
    count(tmp_path, PLAIN, 4)
    assert looked.describe_end(-9, "eat less") == KILLED, "the machine's other processes are not ours"
    count(tmp_path, f"{V2}mine/memory.events", 4)
    assert [looked.describe_end(code, "eat less") for code in (1, -15)] == ["exit code 1", "killed by signal 15 (SIGTERM)"]


def test_nothing_is_claimed_where_the_kernel_does_not_count(tmp_path: Path) -> None:
    looked = OomKills(tmp_path)
    assert looked.describe_end(-9, "eat less") == KILLED
    count(tmp_path, PLAIN, 1)
    assert looked.describe_end(-9, "eat less") == KILLED
    (tmp_path / PLAIN).write_text("nr_free_pages 12\n")
    assert OomKills(tmp_path).describe_end(-9, "eat less") == KILLED


def test_the_memory_of_a_process_is_seen_while_it_lives() -> None:
    assert peak_bytes(os.getpid()) > 10**7
    assert peak_bytes(2**22 + 1) == 0, "no pid is as large as this"


def test_a_clientapp_says_that_memory_ran_out_unless_we_have_killed_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = tmp_path / "kernel"
    monkeypatch.setattr(clientapp_process, "OomKills", functools.partial(OomKills, kernel))
    count(kernel, PLAIN, 0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        runtime_api = f"127.0.0.1:{silent.getsockname()[1]}"
        task = ClientAppTask(1, 11, "m" * 8, "token")
        shot, cancelled = (
            ClientAppProcess(tmp_path / "clientapps" / name, task, runtime_api, {"PATH": os.environ["PATH"]}, tmp_path, None)
            for name in ("shot", "cancelled")
        )
        assert (shot.poll(), cancelled.poll()) == (None, None)
        count(kernel, PLAIN, 1)
        os.kill(shot.pid, signal.SIGKILL)
        cancelled.kill("its run is over")
        how = [process.describe_end(process.close(10)) for process in (shot, cancelled)]
    assert how[0].startswith(f"{KILLED}: memory ran out when it held at least 0.")
    assert how[0].endswith(" GB: lower batch-size, max-length or lora-r, or give the node more memory")
    assert how[1] == f"{KILLED}: its run is over"
