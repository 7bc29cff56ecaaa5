"""A benchmark's rows: what is met, what is missed, and the JSON that programs read."""

import json
from pathlib import Path

import pytest

from benchmarks.measure.table import Row, percentile, report, table


@pytest.mark.parametrize(
    ("row", "ratio", "met"),
    [
        (Row("page", "ms", 20, peer=40, goal=50), 2.0, True),
        (Row("page", "ms", 51, goal=50), None, False),
        (Row("intake", "lines/s", 30_000, peer=10_000, goal=20_000, higher_is_better=True), 3.0, True),
        (Row("intake", "lines/s", 19_999, goal=20_000, higher_is_better=True), None, False),
        (Row("step", "ms", 10, peer=15, goal=1.4, bars_ratio=True), 1.5, True),
        (Row("step", "ms", 10, peer=13, goal=1.4, bars_ratio=True), 1.3, False),
        (Row("memory", "MB", 120), None, None),
        (Row("power cut", "s", None, goal=25), None, None),
    ],
)
def test_a_row_knows_its_ratio_and_whether_its_bar_is_met(row: Row, ratio: float | None, met: bool | None) -> None:
    assert (row.ratio, row.met) == (ratio, met)


def test_the_file_has_the_rows_in_order_and_a_missed_bar_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row("page", "ms", 20, peer=40, goal=50), Row("memory", "MB", 151, goal=150), Row("note", "MB", 3)]
    assert report(rows, "peer", tmp_path / "out.json", {"cores": 2}) == 1
    assert "missed: memory" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text()) == {
        "machine": {"cores": 2},
        "rows": [
            {"case": "page", "unit": "ms", "ours": 20, "peer": 40, "ratio": 2.0, "goal": 50, "met": True},
            {"case": "memory", "unit": "MB", "ours": 151, "peer": None, "ratio": None, "goal": 150, "met": False},
            {"case": "note", "unit": "MB", "ours": 3, "peer": None, "ratio": None, "goal": None, "met": None},
        ],
    }
    assert report(rows[:1], "peer", None, {}) == 0


def test_the_table_lines_up() -> None:
    rows = [Row("a longer case", "ms", 1234.5, goal=50), Row("b", "lines/s", 0.1234, peer=2.0), Row("c", "s", None, goal=25)]
    lines = table(rows, "peer").splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split() == ["a", "longer", "case", "ms", "1,234", "≤", "50", "MISSED"]
    assert lines[2].split() == ["b", "lines/s", "0.123", "2", "16.2"]
    assert lines[3].split() == ["c", "s", "none", "≤", "25"]


def test_a_percentile_is_one_that_so_many_do_not_exceed() -> None:
    assert percentile([float(number) for number in range(1, 102)], 95) == 96
