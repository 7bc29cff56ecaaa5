import asyncio
import os
import signal
import subprocess
from pathlib import Path

import pytest
from control_plane.identity import ProcessRecord, start_mark

from tests.control_plane.conftest import Python


def test_a_process_has_a_mark_and_one_that_is_gone_has_none(python: Python) -> None:
    with subprocess.Popen(python("input()"), stdin=subprocess.PIPE) as child:
        assert start_mark(child.pid) == start_mark(child.pid)
        assert start_mark(child.pid) is not None
        assert start_mark(child.pid) != start_mark(1)
        child.kill()
    assert start_mark(child.pid) is None


def test_the_name_of_a_process_may_hold_brackets_and_blanks(tmp_path: Path) -> None:
    odd = tmp_path / "a) Z 1 (b"
    odd.symlink_to("/bin/sleep")
    with subprocess.Popen([odd, "600"]) as child:
        record = ProcessRecord.of(child.pid, "odd")
        assert record is not None
        assert record.is_alive()
        child.kill()


def test_a_zombie_counts_as_dead(python: Python) -> None:
    child = subprocess.Popen(python("input()"), stdin=subprocess.PIPE)
    record = ProcessRecord.of(child.pid, "child")
    assert record is not None
    assert record.is_alive()
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert start_mark(child.pid) == record.start_mark
    assert not record.is_alive()
    child.communicate()


def test_another_process_with_the_same_pid_is_neither_alive_nor_signalled(bystander: subprocess.Popen[bytes]) -> None:
    record = ProcessRecord(bystander.pid, "1", "child", "2026-11-22T08:00:00.000Z")
    assert not record.is_alive()
    assert record.group_members() == []
    assert not record.signal_group(signal.SIGKILL)
    assert bystander.poll() is None


def test_a_process_in_our_own_group_is_signalled_alone(python: Python) -> None:
    with subprocess.Popen(python("input()"), stdin=subprocess.PIPE) as child:
        record = ProcessRecord.of(child.pid, "child")
        assert record is not None
        assert record.group_members() == []
        assert record.signal_group(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL


def test_a_record_of_an_earlier_boot_has_no_group(bystander: subprocess.Popen[bytes]) -> None:
    now = ProcessRecord.of(bystander.pid, "child")
    assert now is not None
    assert now.group_members() == [bystander.pid]
    assert ProcessRecord(now.pid, now.start_mark, "child", "1999-11-22T08:00:00.000Z").group_members() == []


def test_a_record_comes_back_as_it_was_written_and_a_damaged_one_is_none(tmp_path: Path) -> None:
    record = ProcessRecord(7, "12345", "child", "2026-11-22T08:00:00.000Z")
    record.write(tmp_path / "proc.json")
    assert ProcessRecord.read(tmp_path / "proc.json") == record
    assert ProcessRecord.read(tmp_path / "absent.json") is None
    for damaged in ('{"pid": 7', "[]", '{"pid": "x", "start_mark": "1", "name": "n", "started_at": ""}', "{}"):
        (tmp_path / "proc.json").write_text(damaged)
        assert ProcessRecord.read(tmp_path / "proc.json") is None


@pytest.mark.parametrize("has_pidfd", [True, False])
async def test_the_end_of_a_process_is_seen_also_where_the_kernel_has_no_pidfd(
    bystander: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, has_pidfd: bool
) -> None:
    if not has_pidfd:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    record = ProcessRecord.of(bystander.pid, "child")
    assert record is not None
    assert not await record.ends_within(0.01)
    bystander.kill()
    assert await asyncio.wait_for(record.ends_within(5), 2)
