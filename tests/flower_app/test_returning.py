"""Whom an attempt that goes on waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest
from flower_app.gate import TooFewNodes
from flower_app.returning import PATIENCE_S

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
    with pytest.raises(TooFewNodes, match=r"2 of 3 nodes available \(not back from the round before: site-b\) after 600 s"):
        cut_short.run(attempt=2)


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
