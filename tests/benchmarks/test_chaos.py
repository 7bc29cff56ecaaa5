"""What `bench chaos` counts in a run's record."""

from typing import Any

import pytest

from benchmarks.chaos_cases.record import double_counts, lost_rounds


def closed(number: int, seq: int, examples: int = 3) -> dict[str, Any]:
    return {"seq": seq, "kind": "round.closed", "attempt": "1", "round": number, "num_examples": examples}


def update(seq: int, node: str, attempt: str = "1") -> dict[str, Any]:
    told = {"seq": seq, "kind": "update", "attempt": attempt, "round": 1, "node_id": node}
    return {**told, "status": "counted", "num_examples": 3}


ROWS: dict[str, list[dict[str, Any]]] = {
    "rounds": [{"round": 1, "status": "closed"}],
    "updates": [{"round": 1, "flower_node_id": "7", "kind": "train", "wave": 0}],
    "artifacts": [{"uri": "models/final.safetensors"}],
}
JOURNAL = [update(1, "7", attempt="0"), update(2, "7"), closed(1, 3)]


def test_a_good_record_counts_nothing_twice_and_misses_no_round() -> None:
    assert double_counts(JOURNAL, ROWS) == 0
    assert lost_rounds(JOURNAL, ROWS["rounds"], 1) == 0


@pytest.mark.parametrize(
    "journal",
    [
        [*JOURNAL, closed(1, 4)],
        [*JOURNAL[:2], update(3, "7"), closed(1, 4, examples=6)],
        [*JOURNAL[:2], closed(1, 3, examples=6)],
        [*JOURNAL[:2], closed(1, 2)],
    ],
)
def test_what_stands_twice_in_a_journal_is_counted(journal: list[dict[str, Any]]) -> None:
    assert double_counts(journal, ROWS) == 1


@pytest.mark.parametrize("what", ROWS)
def test_a_row_that_is_there_twice_is_counted(what: str) -> None:
    assert double_counts(JOURNAL, {**ROWS, what: ROWS[what] * 2}) == 1


def test_a_round_without_its_commit_or_its_row_is_lost() -> None:
    assert lost_rounds(JOURNAL, ROWS["rounds"], 2) == 1
    assert lost_rounds(JOURNAL, [], 1) == 1
