"""The final model that the admin server makes of a commit is the one that the engine would have kept, to the byte."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from admin_server.journal import parse_line
from admin_server.rundir import RunDirectory
from admin_server.watch.final_model import make_final
from flower_app.clock import SystemClock
from flower_app.commit import Commit
from flower_app.record import RecordedRun
from flower_app.updates import ClosedRound
from flower_app.workloads.interface import Arrays
from safetensors.numpy import load_file

ARRAYS: Arrays = {
    "z": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a/größe": np.array(7, dtype=np.int64),
    "none": np.zeros((0, 4), dtype=np.float16),
    "b": np.array([True, False, True]),
}
STATE: Arrays = {"m_t/z": np.ones((2, 3), dtype=np.float64)}
NUMBERS: dict[str, Any] = {
    "counted": 1,
    "carried": 0,
    "expected": 1,
    "num_examples": 8,
    "metrics": {},
    "server_metrics": {},
    "seconds": 1.0,
    "aggregate_s": 0.1,
    "bytes_down": 1,
    "bytes_up": 1,
}


def committed(root: Path, rounds: int, *, keeps: bool) -> list[str]:
    """Commit rounds with the engine's own record; give the journal's lines."""
    record = RecordedRun(root, "77", SystemClock())
    for number in range(1, rounds + 1):
        arrays: Arrays = {name: values * number for name, values in ARRAYS.items()}
        record.round_closed(ClosedRound(round=number, **NUMBERS), Commit(number, arrays, STATE), "fedadam")
    if keeps:
        record.keep_final(rounds, arrays)
    record.release()
    return (root / "journal.jsonl").read_text().splitlines()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def keep(folder: Path) -> list[dict[str, Any]]:
    make_final(RunDirectory(folder))
    return [parse_line(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


def test_file_and_line_are_those_of_the_engine(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    expected = parse_line(committed(tmp_path / "engine", 3, keeps=True)[-1])
    committed(folder, 3, keeps=False)
    *_, line = keep(folder)
    assert {**line, "at": ""} == {**expected, "at": ""}
    assert abs(datetime.fromisoformat(line["at"]) - datetime.now(UTC)).total_seconds() < 60
    made = folder / "models/final.safetensors"
    assert made.read_bytes() == (tmp_path / "engine/models/final.safetensors").read_bytes()
    assert load_file(made)["a/größe"] == 21


def test_twice_does_no_more_and_what_the_engine_kept_stays(folder: Path) -> None:
    committed(folder, 2, keeps=False)
    once = keep(folder)
    assert keep(folder) == once
    assert [line["role"] for line in once if line["kind"] == "artifact"] == ["final"]


def test_what_the_engine_kept_is_not_kept_again_until_there_is_a_later_round(folder: Path) -> None:
    lines = committed(folder, 2, keeps=True)
    assert len(keep(folder)) == len(lines)
    record = RecordedRun(folder, "78", SystemClock())
    record.round_closed(ClosedRound(round=3, **NUMBERS), Commit(3, ARRAYS, STATE), "fedadam")
    record.release()
    *_, line = keep(folder)
    assert (line["kind"], line["round"], line["attempt"], line["seq"]) == ("artifact", 3, "78", len(lines) + 2)


def test_the_engine_goes_on_after_the_line(folder: Path) -> None:
    committed(folder, 2, keeps=False)
    seq = keep(folder)[-1]["seq"]
    record = RecordedRun(folder, "78", SystemClock())
    record.keep_final(2, ARRAYS)
    record.closed("stopped")
    record.release()
    *_, line = (folder / "journal.jsonl").read_text().splitlines()
    assert (parse_line(line)["kind"], parse_line(line)["seq"]) == ("run.closed", seq + 1)


@pytest.mark.parametrize("left", [b'{"seq":99,"kind":"upd', b"\x00\x00\n", b'\x00\n{"se'])
def test_half_a_line_that_a_crash_left_is_cut_off(folder: Path, left: bytes) -> None:
    lines = committed(folder, 1, keeps=False)
    with (folder / "journal.jsonl").open("ab") as file:
        file.write(left)
    assert [line["seq"] for line in keep(folder)] == [*range(1, len(lines) + 2)]


def test_a_file_that_a_crash_left_without_its_line_is_written_again(folder: Path) -> None:
    committed(folder, 1, keeps=False)
    (folder / "models").mkdir()
    for name in ("final.safetensors", ".final.safetensors.part"):
        (folder / "models" / name).write_bytes(b"half")
    *_, line = keep(folder)
    assert (folder / "models/final.safetensors").stat().st_size == line["size_bytes"]
    assert [path.name for path in (folder / "models").iterdir()] == ["final.safetensors"]


def test_without_a_commit_nothing_is_made(folder: Path) -> None:
    (folder / "journal.jsonl").touch()
    assert keep(folder) == []
    assert not (folder / "models").exists()


@pytest.mark.parametrize("damage", ["another", "missing", "damaged journal"])
def test_damage_is_told_and_nothing_is_made(folder: Path, damage: str) -> None:
    committed(folder, 1, keeps=False)
    commit, journal = folder / "commit/round-1.safetensors", folder / "journal.jsonl"
    if damage == "missing":
        commit.unlink()
    elif damage == "another":
        commit.write_bytes(commit.read_bytes()[:-1] + b"x")
    else:
        journal.write_text("{\n" + journal.read_text())
    before = journal.read_bytes()
    with pytest.raises(ValueError, match=r"missing|sha256 differs|not a journal record"):
        keep(folder)
    assert journal.read_bytes() == before
    assert not (folder / "models/final.safetensors").exists()


def test_a_journal_that_a_serverapp_writes_is_left_alone(folder: Path) -> None:
    committed(folder, 1, keeps=False)
    record = RecordedRun(folder, "78", SystemClock())
    with pytest.raises(BlockingIOError):
        keep(folder)
    record.release()
