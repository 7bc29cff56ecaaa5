"""What `bench chaos` counts in a run's record."""

import random
from typing import Any, cast

import pytest

from benchmarks.chaos import Seen, rows
from benchmarks.chaos_cases.record import double_counts, lost_rounds, rounds_with_fewer
from benchmarks.chaos_cases.victims import OF_NODES, POWER_CUT, Victims
from tests.federation.stack import Stack


def closed(number: int, seq: int, examples: int = 3) -> dict[str, Any]:
    return {"seq": seq, "kind": "round.closed", "attempt": "1", "round": number, "num_examples": examples}


def update(seq: int, node: str, attempt: str = "1") -> dict[str, Any]:
    told = {"seq": seq, "kind": "update", "attempt": attempt, "round": 1, "node_id": node}
    return {**told, "status": "counted", "counted_in_round": 1, "num_examples": 3}


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


def test_a_committed_round_without_every_sites_update_is_counted() -> None:
    counted = [("closed", 3), ("closed", 2), ("open", None), ("closed", 3)]
    assert rounds_with_fewer([{"status": status, "counted": number} for status, number in counted], sites=3) == 1


def test_the_kinds_that_may_cost_an_update_are_kinds_that_are_killed() -> None:
    assert set(Victims(cast(Stack, None), random.Random(1)).kinds) >= OF_NODES


def test_a_figure_of_what_did_not_happen_is_not_met() -> None:
    seen = Seen(kills=2, fewer=1)
    seen.resumed_s["SuperLink"] += [1.5, 0.5]
    first = rows(seen)[:6]
    assert [(row.case, row.ours, row.met) for row in first] == [
        ("kills", 2, None),
        ("lost rounds", 0, True),
        ("double counts", 0, True),
        ("resume, slowest (s)", 1.5, True),
        ("power cut, slowest (s)", None, None),
        ("rounds with fewer updates, though no node was killed", 1, False),
    ]
    seen.resumed_s[POWER_CUT].append(26.0)
    assert [(row.ours, row.met) for row in rows(seen)[3:5]] == [(1.5, True), (26.0, False)]
