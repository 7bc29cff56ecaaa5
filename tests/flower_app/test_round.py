"""One round in the air, on its own: when it closes, and what it takes in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from flower_app.accumulate import WeightedMean
from flower_app.config import RunConfig
from flower_app.control import Control
from flower_app.replies import Asked, read_update
from flower_app.round import Around, OpenRound
from flower_app.strategies import StrategyDriver
from flower_app.updates import TRAIN, Update
from flower_app.wire import digest
from flower_app.workloads import make_workload
from flwr.app import Context, Message

if TYPE_CHECKING:
    from tests.flower_app.conftest import Federation


Round = OpenRound[WeightedMean]


@pytest.fixture
def sent(federation: Federation) -> Round:
    """Give round 1 of the toy model, its three messages on their way."""
    return send(federation, [])


def send(federation: Federation, told: list[Update], max_norm: float = 0.0) -> Round:
    config = RunConfig.parse(federation.run_config)
    like = make_workload(config).initial_arrays()
    messages = StrategyDriver(config).messages(1, like, [101, 102, 103], federation.grid)
    names: dict[int, str] = {}
    around = Around(federation.grid, federation.clock, Control, told.append, names.get)
    asked = Asked(1, digest(like), max_norm, like)
    opened = Round(TRAIN, asked, like, read_update, WeightedMean(like), around, federation.clock.seconds)
    opened.send(messages)
    return opened


def test_it_closes_at_the_kth_valid_update_and_calls_the_rest_late(federation: Federation) -> None:
    federation.grid.nodes[101].delay_s = 50.0
    told: list[Update] = []
    opened = send(federation, told)
    started = federation.clock.seconds
    opened.collect(needed=2, deadline=started + 3600)
    assert federation.clock.seconds - started < 1.5
    owed = opened.close()
    assert [sent.node_id for sent in owed.values()] == [101]
    assert [(update.node_id, update.status) for update in told] == [(102, "counted"), (103, "counted"), (101, "late")]
    assert told == opened.updates
    assert opened.gathered.num_examples == 50


def test_an_update_beyond_the_kth_that_came_with_it_is_late_too(federation: Federation, sent: Round) -> None:
    sent.collect(needed=1, deadline=federation.clock.seconds + 3600)
    assert sent.gathered.count == 1
    assert [update.status for update in sent.updates] == ["counted", "late", "late"]
    assert sent.updates[1].facts["node_name"] == "site-b"
    assert sent.close() == {}  # nobody owes anything


def test_an_answer_from_a_node_that_was_not_asked_is_refused(federation: Federation) -> None:
    def posing(message: Message, context: Context) -> Message:
        reply: Message = answer(message, context) or pytest.fail("no answer")
        reply.metadata.__dict__["_src_node_id"] = 999
        return reply

    answer = federation.grid.nodes[101].answer
    federation.grid.nodes[102].answer = posing
    opened = send(federation, [])
    opened.collect(needed=3, deadline=federation.clock.seconds + 10)
    refused = {update.node_id: update.cause for update in opened.updates if update.status == "refused"}
    assert [str(cause and cause.message) for cause in refused.values()] == ["it comes from node 999, which was not asked"]
    assert list(refused) == [102]


def test_an_answer_counts_once_however_often_it_comes(federation: Federation, sent: Round) -> None:
    pull = federation.grid.pull_messages
    federation.grid.__dict__["pull_messages"] = lambda ids: [reply for reply in pull(ids) for _ in range(2)]
    sent.collect(needed=4, deadline=federation.clock.seconds + 10)
    assert sent.gathered.count == 3
    assert sent.gathered.num_examples == 60


def test_a_refused_update_does_not_bring_the_round_nearer_to_its_end(federation: Federation) -> None:
    def poisoned(message: Message, context: Context) -> Message:
        reply: Any = answer(message, context)
        reply.content.metric_records["metrics"]["train_loss"] = float("nan")
        return reply  # type: ignore[no-any-return]

    answer = federation.grid.nodes[101].answer
    federation.grid.nodes[101].answer = poisoned
    federation.grid.nodes[101].delay_s = 0.1
    opened = send(federation, [])
    opened.collect(needed=2, deadline=federation.clock.seconds + 10)
    assert [update.status for update in opened.updates] == ["refused", "counted", "counted"]
    assert opened.updates[0].bytes_up > 0
    assert opened.updates[0].facts["node_name"] == "site-a"


def test_a_superlink_that_takes_fewer_messages_than_it_got_is_an_error(federation: Federation) -> None:
    federation.grid.__dict__["push_messages"] = lambda messages: []
    with pytest.raises(RuntimeError, match="the SuperLink took 0 of 3 messages"):
        send(federation, [])
