"""Everything is killed at once, and the servers are started again: the run goes on by itself. A stack of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.federation.rows import assert_rows_equal_journal
from tests.federation.stack import Stack
from tests.federation.undisturbed import assert_same_training

ROUNDS = 3


@pytest.fixture
def own_stack(tmp_path: Path, apps: Path) -> Iterator[Stack]:
    stack = Stack(tmp_path, apps, sites=2)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


def test_a_run_goes_on_by_itself_after_a_power_cut(own_stack: Stack) -> None:
    undisturbed = own_stack.start_run("trouble", num_rounds=ROUNDS, min_available=1)
    assert own_stack.wait_end(undisturbed)["status"] == "completed"
    run_id = own_stack.start_run("trouble", train_s=3.0, num_rounds=ROUNDS, min_available=1)
    own_stack.wait_rounds(run_id, 1)
    own_stack.cut_power()
    own_stack.power_up()
    run = own_stack.wait_end(run_id)
    assert run["status"] == "completed", run
    assert [attempt["status"] for attempt in run["attempts"]] == ["lost", "completed"]
    assert_rows_equal_journal(own_stack, run_id)
    assert_same_training(own_stack, run_id, undisturbed)
    closed = [line["round"] for line in own_stack.journal(run_id) if line["kind"] == "round.closed"]
    assert closed == list(range(1, ROUNDS + 1))
