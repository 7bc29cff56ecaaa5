"""Whom an attempt that goes on waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
from flower_app.engine import RoundFailed
from flower_app.gate import TooFewNodes
from flower_app.returning import PATIENCE_S, Returning
from flwr.app import Context, Error, Message

if TYPE_CHECKING:
    from tests.flower_app.conftest import Federation, MakeFederation


@pytest.fixture
def cut_short(make_federation: MakeFederation) -> Federation:
    """A run that is content with one node, was at work with three, and was cut short in its second round."""
    federation = make_federation(min_available=1)

    def ended() -> None:
        raise SystemExit(0)

    federation.clock.after(1.5, ended)
    with pytest.raises(SystemExit):
        federation.run(attempt=1)
    assert [each["round"] for each in federation.journal("round.closed")] == [1]
    return federation


def nodes_asked(federation: Federation) -> list[list[str]]:
    return [record["nodes"] for record in federation.journal("round.opened") if record["attempt"] == "2"]


ALL, TWO = ["101", "102", "103"], ["101", "103"]


def test_an_attempt_waits_for_the_nodes_of_the_round_before(cut_short: Federation) -> None:
    node = cut_short.grid.nodes[102]
    node.online = False
    cut_short.clock.after(20, lambda: setattr(node, "online", True))
    cut_short.run(attempt=2)
    assert nodes_asked(cut_short) == [ALL, ALL]


def test_it_goes_on_without_one_that_does_not_come_back(cut_short: Federation) -> None:
    cut_short.grid.nodes[102].online = False
    began = cut_short.clock.seconds
    cut_short.run(attempt=2)
    assert nodes_asked(cut_short) == [TWO, TWO]
    assert cut_short.clock.seconds - began >= PATIENCE_S


def test_it_does_not_wait_for_a_node_that_was_lost_in_that_round(make_federation: MakeFederation) -> None:
    federation = make_federation(min_available=1)
    federation.grid.nodes[102].delay_s = 600
    federation.clock.after(0.5, lambda: federation.want("run", n102="its SuperNode is failed"))

    def ended() -> None:
        raise SystemExit(0)

    federation.clock.after(0.9, ended)
    with pytest.raises(SystemExit):
        federation.run(attempt=1)
    began = federation.clock.seconds
    federation.run(attempt=2)
    assert nodes_asked(federation)[0] == TWO
    assert federation.clock.seconds - began < PATIENCE_S


def test_any_nodes_will_do_where_somebody_says_so(cut_short: Federation) -> None:
    cut_short.grid.nodes[102].online = False
    cut_short.want("run", nodes="any")
    began = cut_short.clock.seconds
    cut_short.run(attempt=2)
    assert nodes_asked(cut_short) == [TWO, TWO]
    assert cut_short.clock.seconds - began < PATIENCE_S


def test_the_same_nodes_are_waited_for_until_the_gate_closes_and_named_then(cut_short: Federation) -> None:
    cut_short.grid.nodes[102].online = False
    cut_short.want("run", nodes="same")
    with pytest.raises(TooFewNodes, match=r"2 of 3 nodes available \(not back: site-b\) after 600 s"):
        cut_short.run(attempt=2)


@pytest.mark.parametrize("round_of_death", [1, 2])
def test_the_same_nodes_are_those_of_the_last_committed_round_and_whom_it_tried_since(
    make_federation: MakeFederation, round_of_death: int
) -> None:
    federation = make_federation(min_available=1, min_updates=2, round_retries=1)
    dead, failing = federation.grid.nodes[102], federation.grid.nodes[103]
    answer, began = failing.answer, federation.clock.seconds

    def dies(message: Message, context: Context) -> Message | None:
        if message.metadata.group_id != str(round_of_death):
            return answer(message, context)
        dead.online = False
        federation.want("run", n102="its SuperNode was killed")
        return None

    def fails(message: Message, context: Context) -> Message | None:
        return (
            answer(message, context)
            if message.metadata.group_id != str(round_of_death)
            else Message(Error(8, "died"), reply_to=message)
        )

    dead.answer, failing.answer = dies, fails
    with pytest.raises(RoundFailed, match="its SuperNode was killed"):
        federation.run(attempt=1)
    assert federation.journal("round.opened")[-1]["nodes"] == TWO
    dead.answer = failing.answer = answer
    federation.want("run", nodes="same", n102="its SuperNode was killed")

    def is_repaired() -> None:
        dead.online = True
        federation.want("run", nodes="same")

    federation.clock.after(PATIENCE_S * 3, is_repaired)
    federation.run(attempt=2)
    assert federation.clock.seconds - began > PATIENCE_S * 3
    assert nodes_asked(federation)[0] == ALL


def test_an_attempt_that_nobody_asked_for_does_not_wait_for_a_node_known_to_be_gone(make_federation: MakeFederation) -> None:
    federation = make_federation(min_available=1)
    federation.clock.after(1.2, lambda: federation.want("run", n102="its SuperNode was killed"))
    federation.clock.after(1.2, lambda: setattr(federation.grid.nodes[102], "online", False))
    federation.grid.nodes[103].delay_s = 1.5

    def ended() -> None:
        raise SystemExit(0)

    federation.clock.after(2.5, ended)
    with pytest.raises(SystemExit):
        federation.run(attempt=1)
    assert federation.journal("round.opened")[-1]["nodes"] == TWO
    began = federation.clock.seconds
    federation.run(attempt=2)
    assert nodes_asked(federation)[0] == TWO
    assert federation.clock.seconds - began < PATIENCE_S


def opened(number: int, *nodes: str) -> dict[str, Any]:
    return {"kind": "round.opened", "round": number, "nodes": list(nodes)}


def lost(node: str) -> dict[str, Any]:
    return {"kind": "update", "status": "lost", "node_id": node}


CLOSED = {"kind": "round.closed"}


@pytest.mark.parametrize(
    ("past", "of_itself", "same"),
    [
        ([], [], []),
        ([opened(1, "1", "2"), lost("2"), opened(1, "1")], [1], [1, 2]),  # no committed round yet
        ([opened(1, "1", "2"), CLOSED, opened(2, "1", "2"), lost("2"), opened(2, "1")], [1], [1, 2]),
        ([opened(1, "1", "2"), lost("2"), CLOSED], [1], [1, 2]),
        ([opened(1, "1", "2"), lost("2"), opened(1, "1"), CLOSED, opened(2, "1")], [1], [1]),  # it was committed without
        ([opened(1, "1"), CLOSED, opened(2, "1", "3")], [1, 3], [1, 3]),  # one that came after the last commit
    ],
)
def test_whom_an_attempt_waits_for(past: list[dict[str, Any]], of_itself: list[int], same: list[int]) -> None:
    returning = Returning.of(past)
    assert returning.missing([], None, 0, 600) == of_itself
    assert returning.missing([], "same", 0, 600) == same
    assert returning.missing([], "any", 0, 600) == []


def test_a_gate_of_less_patience_goes_on_with_those_who_are_there(make_federation: MakeFederation) -> None:
    federation = make_federation(min_available=1, min_available_timeout_s=10.0)
    federation.clock.after(1.5, lambda: federation.want("stop"))
    federation.run(attempt=1)
    federation.want("run")
    federation.grid.nodes[102].online = False
    federation.run(attempt=2)
    assert nodes_asked(federation)[0] == TWO


def test_an_error_of_the_way_to_the_superlink_is_no_end_of_the_run(federation: Federation) -> None:
    def gone() -> None:
        raise httpx.ReadError("the SuperLink is gone")

    federation.clock.after(1.5, gone)
    with pytest.raises(httpx.ReadError):
        federation.run(attempt=1)
    assert not federation.journal("run.closed")
    assert not [each for each in federation.journal("artifact") if each["role"] == "final"], "the last round is still to come"
    federation.run(attempt=2)
    assert [each["round"] for each in federation.journal("round.closed")] == [1, 2, 3]


def test_flowers_word_that_the_run_is_over_is_no_end_of_it_either(federation: Federation) -> None:
    from flwr.supercore.run import RunNotRunningException

    def over() -> None:
        raise RunNotRunningException

    federation.clock.after(1.5, over)
    with pytest.raises(RunNotRunningException):
        federation.run(attempt=1)
    assert not federation.journal("run.closed")
