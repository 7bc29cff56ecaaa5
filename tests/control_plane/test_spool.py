import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from control_plane.errors import SpoolInUse
from control_plane.spool import Spool
from hypothesis import given, settings
from hypothesis import strategies as st


def seqs(spool: Spool) -> list[int]:
    return [line["seq"] for line in spool.pending(100_000)]


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool")
    yield spool
    spool.close()


def test_lines_are_numbered_from_one_and_given_back_in_order(spool: Spool) -> None:
    assert [spool.append("session", {"n": n}) for n in range(3)] == [1, 2, 3]
    assert [(line["seq"], line["kind"], line["data"]) for line in spool.pending()] == [
        (1, "session", {"n": 0}),
        (2, "session", {"n": 1}),
        (3, "session", {"n": 2}),
    ]
    assert set(spool.pending()[0]) == {"seq", "kind", "at", "data"}
    assert len(spool.pending(2)) == 2


def test_only_what_was_acknowledged_is_deleted(spool: Spool) -> None:
    for n in range(5):
        spool.append("log", {"n": n}, droppable=True)
    spool.acknowledge(2)
    assert seqs(spool) == [3, 4, 5]
    spool.acknowledge(1)
    assert seqs(spool) == [3, 4, 5]
    spool.acknowledge(5)
    assert spool.pending() == []


def test_a_number_that_was_never_given_out_cannot_be_acknowledged(spool: Spool) -> None:
    spool.append("session", {})
    with pytest.raises(ValueError, match="line 2 was acknowledged, but 1 is the last"):
        spool.acknowledge(2)
    assert seqs(spool) == [1]


def test_id_numbers_and_lines_live_on_after_a_restart(tmp_path: Path) -> None:
    first = Spool(tmp_path / "s")
    for n in range(4):
        first.append("session", {"n": n})
    first.acknowledge(2)
    first.close()
    second = Spool(tmp_path / "s")
    assert second.id == first.id
    assert seqs(second) == [3, 4]
    second.acknowledge(4)
    second.close()
    third = Spool(tmp_path / "s")
    assert third.append("session", {}) == 5
    third.close()


def test_two_folders_have_two_ids(tmp_path: Path) -> None:
    one, other = Spool(tmp_path / "a"), Spool(tmp_path / "b")
    assert one.id != other.id
    one.close()
    other.close()


def test_a_second_process_is_refused(tmp_path: Path, spool: Spool) -> None:
    with pytest.raises(SpoolInUse):
        Spool(tmp_path / "spool")


@settings(max_examples=80, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=12),
    acknowledged=st.integers(0, 12),
    at=st.floats(0, 1),
    garbage=st.sampled_from([b"", b"\0" * 20, b'{"seq":', b"\n", b"[1]\n"]),
)
def test_a_spool_torn_at_any_byte_keeps_every_whole_line_and_goes_on(
    sizes: list[int], acknowledged: int, at: float, garbage: bytes
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder))
        for size in sizes:
            spool.append("log", {"text": "\u00e9" * size}, droppable=True)
        spool.acknowledge(min(acknowledged, len(sizes)))
        before = spool.pending()
        spool.close()
        [segment] = Path(folder).glob("*.jsonl")
        data = segment.read_bytes()
        cut = round(at * len(data))
        torn = data[:cut] + garbage
        segment.write_bytes(torn)
        again = Spool(Path(folder))
        lines = data.splitlines(keepends=True)
        whole = [n for n in range(1, len(lines) + 1) if torn.startswith(b"".join(lines[:n]))]
        assert again.pending() == [line for line in before if line["seq"] in whole]
        following = again.append("log", {"text": "new"})
        assert following == max([min(acknowledged, len(sizes)), *whole]) + 1
        assert [line["seq"] for line in again.pending()] == [*(n for n in whole if n > acknowledged), following]
        again.close()


def test_a_writer_that_is_killed_loses_no_line_that_it_has_told_of(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from control_plane.spool import Spool\n"
        "spool = Spool(Path(sys.argv[1]), cap_bytes=200_000_000)\n"
        "while True:\n"
        "    seq = spool.append('log', {'text': 'x' * 300}, droppable=True)\n"
        "    sys.stdout.write(f'{seq}\\n'); sys.stdout.flush()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        told = 0
        while told < 200:
            told = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        for line in writer.stdout:
            told = int(line) if line.endswith("\n") else told
    spool = Spool(tmp_path)
    kept = seqs(spool)
    assert kept == list(range(1, len(kept) + 1))
    assert len(kept) in (told, told + 1)
    spool.close()


def filled(folder: Path, cap_bytes: int, lines: int, droppable: Callable[[int], object]) -> Spool:
    spool = Spool(folder, cap_bytes)
    for n in range(lines):
        if droppable(n):
            spool.append("log", {"lines": [{"text": "x" * 200}, {"text": "y"}]}, droppable=True)
        else:
            spool.append("session", {"n": n})
    return spool


def test_at_the_cap_droppable_lines_go_first_are_counted_and_leave_no_hole(tmp_path: Path) -> None:
    spool = filled(tmp_path, 60_000, 1000, lambda n: n % 4)
    assert spool.size_bytes <= 60_000
    lines = spool.pending(10_000)
    assert [line["seq"] for line in lines] == list(range(1, 1001))
    assert [line["data"]["n"] for line in lines if line["kind"] == "session"] == list(range(0, 1000, 4))
    kept = [line for line in lines if line["kind"] == "log"]
    gone = sum(line["data"].get("log_lines", 0) for line in lines if line["kind"] == "dropped")
    assert kept
    assert kept[-1]["seq"] == 1000
    assert spool.dropped == {"log": 750 - len(kept)}
    assert gone == 2 * spool.dropped["log"]
    spool.close()
    again = Spool(tmp_path, 60_000)
    assert again.dropped == spool.dropped
    assert again.pending(10_000) == lines
    again.close()


def test_when_only_lines_that_matter_are_left_the_oldest_of_them_go(tmp_path: Path) -> None:
    spool = filled(tmp_path, 30_000, 1000, lambda _: False)
    assert spool.size_bytes <= 30_000
    lines = spool.pending(10_000)
    assert [line["seq"] for line in lines] == list(range(1, 1001))
    kept = [line["seq"] for line in lines if line["kind"] == "session"]
    assert kept == list(range(kept[0], 1001))
    assert spool.dropped == {"session": kept[0] - 1}
    spool.close()


def test_segments_that_are_acknowledged_leave_the_disk(tmp_path: Path) -> None:
    spool = filled(tmp_path, 400_000, 1000, lambda _: True)
    before = spool.size_bytes
    spool.acknowledge(900)
    assert spool.size_bytes < before / 4
    assert seqs(spool) == list(range(901, 1001))
    spool.close()


def test_a_thinned_segment_that_was_not_renamed_yet_is_forgotten(tmp_path: Path) -> None:
    spool = filled(tmp_path / "s", 1_000_000, 10, lambda _: True)
    spool.close()
    [segment] = (tmp_path / "s").glob("*.jsonl")
    shutil.copy(segment, segment.with_name(f".{segment.name}.leftover"))
    again = Spool(tmp_path / "s")
    assert len(again.pending()) == 10
    assert sorted(os.listdir(tmp_path / "s")) == [segment.name, "lock", "spool.json"]
    again.close()
