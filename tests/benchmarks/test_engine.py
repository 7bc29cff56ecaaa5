"""What `bench engine` measures: made-up answers that the real engine counts, and how memory is read."""

from __future__ import annotations

from pathlib import Path

from benchmarks.engine_cases.large import grown
from benchmarks.engine_cases.simulated import MadeUpAnswers, at, rounds


def test_made_up_answers_are_counted_and_the_round_closes_at_the_kth(tmp_path: Path) -> None:
    grid = MadeUpAnswers(nodes=5, apart_s=0.05)
    journal = rounds(grid, tmp_path, num_rounds=1, k_of_n=3)
    (closed,) = [line for line in journal if line["kind"] == "round.closed"]
    assert (closed["counted"], closed["expected"]) == (3, 5)
    assert at(closed) >= grid.ready_at[2] - 0.002, "lines are stamped in whole milliseconds"


def test_growth_is_the_peak_above_the_last_look_before() -> None:
    assert grown([(1.0, 5), (2.0, 7), (3.0, 20), (4.0, 9)], since=2.5) == 13
