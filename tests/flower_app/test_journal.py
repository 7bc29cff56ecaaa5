"""journal.jsonl: one writer, whole lines, and nothing that a crash can do to its end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from flower_app.journal import Journal, JournalBusy, JournalDamaged, read_journal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from tests.flower_app.conftest import FakeClock


def test_records_carry_seq_time_attempt_and_kind_first(tmp_path: Path, clock: FakeClock) -> None:
    journal = Journal(tmp_path / "journal.jsonl", "77", clock)
    journal.append("round.opened", {"round": 1, "nodes": ["é\u2028"], "needed": 1})
    journal.append("run.paused", {"after_round": 1}, durable=True)
    journal.close()
    first, second = (tmp_path / "journal.jsonl").read_text("utf-8").split("\n")[:2]
    assert list(json.loads(first)) == ["seq", "at", "attempt", "kind", "round", "nodes", "needed"]
    assert json.loads(first)["at"] == "2026-01-01T00:16:40.000Z"
    assert json.loads(second) == {
        "seq": 2, "at": "2026-01-01T00:16:40.000Z", "attempt": "77", "kind": "run.paused", "after_round": 1,
    }  # fmt: skip


def test_a_number_that_json_does_not_know_is_refused(tmp_path: Path, clock: FakeClock) -> None:
    journal = Journal(tmp_path / "journal.jsonl", "1", clock)
    with pytest.raises(ValueError, match="JSON"):
        journal.append("update", {"metrics": {"loss": float("nan")}})
    journal.close()
    assert (tmp_path / "journal.jsonl").read_bytes() == b""


def test_a_second_writer_ends_with_one_sentence(tmp_path: Path, clock: FakeClock) -> None:
    journal = Journal(tmp_path / "journal.jsonl", "1", clock)
    with pytest.raises(JournalBusy, match=r"another ServerApp still runs on .*journal\.jsonl; this attempt ends"):
        Journal(tmp_path / "journal.jsonl", "2", clock)
    journal.close()
    Journal(tmp_path / "journal.jsonl", "2", clock).close()


def test_a_killed_writer_leaves_no_lock(tmp_path: Path, clock: FakeClock) -> None:
    code = (
        "import os, signal, sys, fcntl; f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT); fcntl.flock(f, fcntl.LOCK_EX);"
        'os.write(f, b\'{"seq": 1, "kind": "a"}\\n{"seq": 2, "ki\'); os.kill(os.getpid(), signal.SIGKILL)'
    )
    path = tmp_path / "journal.jsonl"
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == -9
    journal = Journal(path, "2", clock)
    assert [record["seq"] for record in journal.past] == [1]
    assert journal.append("b", {})["seq"] == 2
    journal.close()


def test_damage_before_the_last_line_is_not_repaired(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"seq":1}\nnonsense\n{"seq":3}\n')
    with pytest.raises(JournalDamaged, match="line 2"):
        Journal(path, "1", clock)
    assert path.read_bytes() == b'{"seq":1}\nnonsense\n{"seq":3}\n'


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    fields=st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=20) | st.integers(), max_size=3), max_size=5),
    cut=st.integers(0, 400),
    garbage=st.sampled_from([b"", b"\0" * 7, b"\0\0\n", b'{"seq": 9', b"\n", b"[]\n", b'"text"\n', b"\xff\xfe\n"]),
)
def test_whatever_a_crash_leaves_at_the_end_the_whole_records_stay_and_seq_goes_on(
    tmp_path: Path, clock: FakeClock, fields: Any, cut: int, garbage: bytes
) -> None:
    path = Path(tmp_path, "journal.jsonl")
    path.unlink(missing_ok=True)
    journal = Journal(path, "1", clock)
    written = [journal.append("update", {"data": each}) for each in fields]
    journal.close()
    data = path.read_bytes()[:cut]
    whole = written[: data.count(b"\n")]
    path.write_bytes(data if data and not data.endswith(b"\n") else data + garbage)
    again = Journal(path, "2", clock)
    added = again.append("run.closed", {"status": "stopped"}, durable=True)
    again.close()
    assert again.past == whole
    assert added["seq"] == len(whole) + 1
    assert read_journal(path) == [*whole, added]
    assert path.read_bytes().endswith(b"\n")


def test_a_reader_beside_the_writer_sees_whole_lines_only(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"seq":1,"kind":"a"}\n{"seq":2,"ki')
    assert read_journal(path) == [{"seq": 1, "kind": "a"}]
