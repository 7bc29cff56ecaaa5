"""proc.json, exit.json, activity.jsonl, wanted.json, output files and environments."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from flower_runtime.activity import Activity
from flower_runtime.environment import child_environment
from flower_runtime.folders import remove_old_folders
from flower_runtime.output import last_lines
from flower_runtime.procfile import ProcessRecord, describe_end, start_mark, write_exit
from flower_runtime.wanted import Wanted, WantedFile


def test_a_record_knows_its_process_and_no_later_one_of_that_pid(tmp_path: Path) -> None:
    ours = ProcessRecord.of(os.getpid(), "test")
    ours.write(tmp_path / "proc.json")
    read = ProcessRecord.read(tmp_path / "proc.json")
    assert read == ours
    assert ours.is_alive()
    assert not ProcessRecord(os.getpid(), "1", "test", ours.started_at).is_alive()
    assert stat.S_IMODE((tmp_path / "proc.json").stat().st_mode) == 0o600


def test_a_zombie_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert start_mark(child.pid) is None
    child.wait()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"pid": "x", "start_mark": "", "name": "", "started_at": ""}'])
def test_what_is_no_record_reads_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "proc.json").write_text(text)
    assert ProcessRecord.read(tmp_path / "proc.json") is None


@pytest.mark.parametrize(("code", "rc", "signal"), [(0, 0, None), (3, 3, None), (-9, None, 9), (None, None, None)])
def test_exit_json_says_code_or_signal(tmp_path: Path, code: int | None, rc: int | None, signal: int | None) -> None:
    write_exit(tmp_path / "exit.json", code, ["line"])
    content = json.loads((tmp_path / "exit.json").read_text())
    assert (content["rc"], content["signal"], content["last_lines"]) == (rc, signal, ["line"])
    assert content["ended_at"].endswith("Z")


def test_an_end_is_described_in_words() -> None:
    assert [describe_end(code) for code in (3, -9, -11)] == [
        "exit code 3",
        "killed by signal 9 (SIGKILL)",
        "killed by signal 11 (SIGSEGV)",
    ]
    assert describe_end(-250) == "killed by signal 250 (unknown)"


def test_last_lines_are_plain_short_and_not_empty(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    path.write_bytes(b"".join(b"line %d\n\n" % number for number in range(9000)) + b"\x1b[91mred\x1b[0m \xff\n" + b"x" * 900)
    lines = last_lines(path)
    assert lines[-3:] == ["line 8999", "red \ufffd", "x" * 500]
    assert len(lines) == 20
    assert last_lines(tmp_path / "nothing") == []


def test_activity_goes_on_counting_and_cuts_off_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "activity.jsonl"
    first = Activity(path)
    first.note("message.started", flower_run_id="1", message_id="m", pid=7)
    first.note("message.ended", flower_run_id="1", message_id="m", rc=0, seconds=1.23456)
    with path.open("ab") as file:
        file.write(b'{"seq": 3, "eve')
    Activity(path).note("clientapp.died", flower_run_id="1", message_id="n", reason="exit code 3")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["seq"] for line in lines] == [1, 2, 3]
    assert (lines[1]["seconds"], lines[2]["reason"]) == (1.235, "exit code 3")
    keys = ["seq", "at", "event", "flower_run_id", "message_id", "pid", "rc", "signal", "reason", "last_lines", "seconds"]
    assert list(lines[0]) == keys


def test_activity_survives_a_line_that_is_not_its_own(tmp_path: Path) -> None:
    path = tmp_path / "activity.jsonl"
    path.write_text('{"seq": 41}\nnot json\n')
    Activity(path).note("message.started", flower_run_id="1", message_id="m")
    assert json.loads(path.read_text().splitlines()[-1])["seq"] == 42


def test_the_wanted_file_is_read_again_when_it_was_replaced(tmp_path: Path) -> None:
    path = tmp_path / "wanted.json"
    file = WantedFile(path)
    assert file.read().over_runs == frozenset()
    path.write_text('{"seq": 1, "over_runs": ["12"], "cancelled_messages": ["m"]}')
    assert file.read() == Wanted(frozenset({"12"}), frozenset({"m"}))
    (tmp_path / "new").write_text('{"seq": 2, "over_runs": ["12", "13"]}')
    (tmp_path / "new").replace(path)
    assert file.read() == Wanted(frozenset({"12", "13"}), frozenset())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"over_runs": 3}', "\x00"])
def test_a_malformed_wanted_file_changes_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "wanted.json"
    path.write_text('{"over_runs": ["12"]}')
    file = WantedFile(path)
    file.read()
    path.write_text(text)
    assert file.read().over_runs == {"12"}


def test_a_childs_environment_is_an_allow_list() -> None:
    ours = {
        "PATH": "/bin", "LC_ALL": "C", "CUDA_VISIBLE_DEVICES": "0", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
        "FLWR_HOME": "/f", "DATABASE_URL": "x", "SUPABASE_KEY": "x", "ADMIN_TOKEN": "x", "INVITATION": "x", "HF_TOKEN": "x",
        "PYTHON_KEYRING_BACKEND": "x", "AWS_SECRET_ACCESS_KEY": "x", "ESPALIER_HOME": "x", "LD_PRELOAD": "x", "HTTP_PROXY": "x",
        "ESPALIER_DATA_DIRS": "/d", "ESPALIER_WASM_MODULES": "ab",
    }  # fmt: skip
    child = child_environment(ours, {"ESPALIER_RUN_DIR": "/r"})
    passed = {"PATH", "LC_ALL", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM", "FLWR_HOME"}
    passed |= {"ESPALIER_DATA_DIRS", "ESPALIER_WASM_MODULES"}
    assert {name for name in child if name in ours} == passed
    assert child["ESPALIER_RUN_DIR"] == "/r"
    assert child["FLWR_TELEMETRY_ENABLED"] == "0"


def test_only_the_newest_folders_of_messages_are_kept(tmp_path: Path) -> None:
    for age, name in enumerate(["2/new", "2/old", "1/older", "1/oldest"]):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "output.log").touch()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    remove_old_folders(tmp_path, 2, {tmp_path / "1/older"})
    assert sorted(str(each.relative_to(tmp_path)) for each in tmp_path.glob("*/*")) == ["1/older", "2/new", "2/old"]
    remove_old_folders(tmp_path, 2, set())
    assert [each.name for each in tmp_path.iterdir()] == ["2"]
