"""What a round does about slow, silent and failing nodes: k of n, deadlines, late updates, retries, limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from flower_app.client_app import app as client_app
from flower_app.engine import RoundFailed
from flower_app.gate import TooFewNodes
from flower_app.limits import RunTimeout, UpdatesDoNotFit
from flower_app.round import POLL_S
from flwr.app import Context, Error, Message
from safetensors.numpy import load_file

if TYPE_CHECKING:
    from tests.flower_app.conftest import Federation, MakeFederation


def fate(federation: Federation) -> list[tuple[int, str, str, int | None]]:
    """Give (round, node, status, round it counts in) of each update record."""
    return [(each["round"], each["node_id"], each["status"], each["counted_in_round"]) for each in federation.journal("update")]


def counted(federation: Federation) -> list[tuple[int, int, int]]:
    """Give (counted, carried, expected) of each closed round."""
    return [(each["counted"], each["carried"], each["expected"]) for each in federation.journal("round.closed")]


def test_a_round_closes_at_the_kth_update_and_the_slow_node_is_asked_again_when_it_is_free(
    make_federation: MakeFederation,
) -> None:
    federation = make_federation(k_of_n=2, num_rounds=3)
    federation.grid.nodes[103].delay_s = 2.5
    started = federation.clock.seconds
    federation.run()
    assert counted(federation)[0] == (2, 0, 3)
    assert federation.journal("round.closed")[0]["seconds"] <= 1 + 2 * POLL_S
    assert federation.journal("round.opened")[0]["needed"] == 2
    asked = [message.metadata.group_id for message in federation.grid.nodes[103].seen]
    assert asked[0] == "1"
    assert len(asked) == len(set(asked))
    assert federation.clock.seconds - started < 3 * (1 + 2 + 4 * POLL_S)


def test_a_deadline_closes_a_round_with_what_has_come(make_federation: MakeFederation) -> None:
    federation = make_federation(round_timeout_s=5.0, num_rounds=1)
    federation.grid.nodes[102].delay_s = 60.0
    federation.run()
    assert counted(federation) == [(2, 0, 3)]
    assert 5 <= federation.journal("round.closed")[0]["seconds"] <= 5 + 2 * POLL_S
    assert (1, "102", "late", None) in fate(federation)


def test_a_node_that_still_works_gets_no_second_message_and_one_that_is_freed_joins_the_next_round(
    make_federation: MakeFederation,
) -> None:
    federation = make_federation(k_of_n=2, num_rounds=3)
    federation.grid.nodes[103].answer = lambda message, context: None  # silent for ever
    federation.run()
    assert [message.metadata.group_id for message in federation.grid.nodes[103].seen] == ["1"]
    assert [each["expected"] for each in federation.journal("round.closed")] == [3, 2, 2]
    freed = make_federation("freed", k_of_n=2, num_rounds=3)
    cancelled = lambda message, context: Message(Error(8, "killed: its message was cancelled"), reply_to=message)  # noqa: E731
    freed.grid.nodes[103].answer, freed.grid.nodes[103].delay_s = cancelled, 1.8
    freed.run()
    assert [message.metadata.group_id for message in freed.grid.nodes[103].seen] == ["1", "2", "3"]


def test_a_late_update_is_carried_into_a_later_round_with_less_weight(make_federation: MakeFederation) -> None:
    federation = make_federation(late="carry", staleness_alpha=1.0, k_of_n=2, num_rounds=2, server_eval_every=0)
    slow = federation.grid.nodes[103]
    slow.delay_s = 1.5
    answers: dict[str, Any] = {}

    def kept(message: Message, context: Context) -> Message:
        reply: Message = client_app(message, context)
        values = reply.content.array_records["arrays"]["weight"].numpy()
        answers[f"{message.metadata.group_id}/{message.metadata.dst_node_id}"] = values
        return reply

    for node in federation.grid.nodes.values():
        node.answer = kept
    federation.clock.after(0.5, lambda: federation.want("pause"))  # so that round 2 begins when the late one is there
    federation.clock.after(4.0, lambda: federation.want("run"))
    federation.run()
    late = [each for each in fate(federation) if each[:2] == (1, "103")]
    assert late == [(1, "103", "late", None), (1, "103", "counted", 2)]
    assert counted(federation) == [(2, 0, 3), (3, 1, 3)]
    assert federation.journal("round.closed")[1]["num_examples"] == 60
    expected = np.average([answers["2/101"], answers["2/102"], answers["1/103"]], axis=0, weights=[10, 20, 30 / 2])
    np.testing.assert_allclose(load_file(federation.root / "models/final.safetensors")["weight"], expected, rtol=1e-5)


def test_an_update_that_came_with_the_kth_one_is_carried_as_any_other(make_federation: MakeFederation) -> None:
    federation = make_federation(late="carry", k_of_n=2, num_rounds=2, min_available=2)  # all three answer within one poll
    federation.clock.after(0.5, lambda: setattr(federation.grid.nodes[103], "online", False))  # no fresh one takes its place
    federation.run()
    assert [each[:3] for each in fate(federation)][2] == (1, "103", "late")
    assert (1, "103", "counted", 2) in fate(federation)


def test_an_update_that_comes_during_a_round_counts_in_it(make_federation: MakeFederation) -> None:
    federation = make_federation(late="carry", k_of_n=2, num_rounds=2)
    federation.grid.nodes[103].delay_s = 1.8  # round 2 is at work from 1.2 to 2.4 s
    federation.run()
    assert (1, "103", "counted", 2) in fate(federation)


def test_what_is_carried_into_a_round_that_is_tried_again_is_not_lost(make_federation: MakeFederation) -> None:
    federation = make_federation(late="carry", k_of_n=3, round_timeout_s=1.5, min_updates=3, min_available=2, num_rounds=1)
    slow, dead = federation.grid.nodes[103], federation.grid.nodes[102]
    slow.delay_s, answer, failures = 2.0, dead.answer, iter([True])

    def fails_once(message: Message, context: Context) -> Message | None:
        return Message(Error(8, "died"), reply_to=message) if next(failures, False) else answer(message, context)

    dead.answer = fails_once
    federation.run()
    assert federation.journal("round.closed")[0]["counted"] == 3
    assert [each[2] for each in fate(federation) if each[1] == "103"].count("counted") == 1


def test_a_node_that_died_with_an_old_message_is_asked_again(make_federation: MakeFederation) -> None:
    federation = make_federation(k_of_n=2, num_rounds=4)
    silent = federation.grid.nodes[103]
    answer = silent.answer
    silent.answer = lambda message, context: None if message.metadata.group_id == "1" else answer(message, context)
    federation.clock.after(1.6, lambda: federation.want("run", n103="its SuperNode was killed"))
    federation.clock.after(2.0, lambda: federation.want("run"))  # and is back, while a round is at work
    federation.run()
    assert [message.metadata.group_id for message in silent.seen][:2] in (["1", "2"], ["1", "3"])


def test_a_stop_is_seen_while_a_round_rests_before_its_next_try(make_federation: MakeFederation) -> None:
    federation = make_federation(min_updates=3, round_retries=6, num_rounds=1)
    federation.grid.nodes[102].answer = lambda message, context: Message(Error(8, "died"), reply_to=message)
    federation.clock.after(14.0, lambda: federation.want("stop"))  # between tries four and five, which are 8 s apart
    federation.run()
    assert federation.journal("run.closed")[0]["status"] == "stopped"
    assert federation.clock.seconds < 1000 + 14 + 2 * POLL_S + 6


def test_a_fresh_update_takes_the_place_of_a_carried_one(make_federation: MakeFederation) -> None:
    federation = make_federation(late="carry", k_of_n=2, num_rounds=2)
    slow = federation.grid.nodes[103]
    slow.delay_s = 1.5
    federation.clock.after(0.5, lambda: federation.want("pause"))
    federation.clock.after(3.9, lambda: setattr(slow, "delay_s", 0.1))
    federation.clock.after(4.0, lambda: federation.want("run"))
    federation.run()
    assert (1, "103", "counted", 2) not in fate(federation)
    assert (2, "103", "counted", 2) in fate(federation)
    assert counted(federation)[1][1] == 0


def test_a_carried_update_of_a_node_that_was_not_asked_is_refused(make_federation: MakeFederation) -> None:
    federation = make_federation(late="carry", k_of_n=2, num_rounds=2)
    answer = federation.grid.nodes[103].answer

    def posing(message: Message, context: Context) -> Message:
        reply: Any = answer(message, context)
        reply.metadata.__dict__["_src_node_id"] = 999
        return reply  # type: ignore[no-any-return]

    federation.grid.nodes[103].answer, federation.grid.nodes[103].delay_s = posing, 1.5
    federation.clock.after(0.5, lambda: federation.want("pause"))
    federation.clock.after(4.0, lambda: federation.want("run"))
    federation.run()
    assert [each[2] for each in fate(federation) if each[:2] == (1, "103")] == ["late", "refused"]


def test_a_carried_update_of_another_model_is_refused(make_federation: MakeFederation) -> None:
    federation = make_federation(late="carry", k_of_n=2, num_rounds=2)
    answer = federation.grid.nodes[103].answer

    def replayed(message: Message, context: Context) -> Message:
        reply: Any = answer(message, context)
        reply.content.config_records["answers"]["model-sha256"] = "0" * 64
        return reply  # type: ignore[no-any-return]

    federation.grid.nodes[103].answer, federation.grid.nodes[103].delay_s = replayed, 1.5
    federation.clock.after(0.5, lambda: federation.want("pause"))
    federation.clock.after(4.0, lambda: federation.want("run"))
    federation.run()
    assert [each[2] for each in fate(federation) if each[:2] == (1, "103")] == ["late", "refused"]


@pytest.mark.parametrize("late", ["drop", "carry"])
def test_updates_too_far_from_the_model_are_refused(make_federation: MakeFederation, late: str) -> None:
    federation = make_federation(max_update_norm=0.01, late=late, round_retries=0)
    with pytest.raises(RoundFailed, match=r"more than max-update-norm 0\.01"):
        federation.run()
    assert [each[2] for each in fate(federation)] == ["refused"] * 3


def test_a_round_without_enough_updates_is_tried_again_and_then_counts_once(make_federation: MakeFederation) -> None:
    federation = make_federation(min_updates=3, num_rounds=2, round_retries=2)
    answer, failures = federation.grid.nodes[102].answer, iter([True, True])

    def fails_twice(message: Message, context: Context) -> Message | None:
        return Message(Error(8, "died"), reply_to=message) if next(failures, False) else answer(message, context)

    federation.grid.nodes[102].answer = fails_twice
    federation.run()
    opened = [each["round"] for each in federation.journal("round.opened")]
    assert opened == [1, 1, 1, 2]
    assert counted(federation) == [(3, 0, 3), (3, 0, 3)]
    assert load_file(federation.root / "models/final.safetensors")["steps"] == 2


def test_after_the_last_try_the_run_fails_with_every_cause_and_keeps_the_last_model(make_federation: MakeFederation) -> None:
    federation = make_federation(min_updates=3, num_rounds=3, round_retries=1)
    answer = federation.grid.nodes[102].answer

    def dies_in_round_2(message: Message, context: Context) -> Message | None:
        return answer(message, context) if message.metadata.group_id == "1" else Message(Error(8, "died"), reply_to=message)

    federation.grid.nodes[102].answer = dies_in_round_2
    with pytest.raises(RoundFailed, match=r"round 2 had 2 valid updates of at least 3 in 2 tries\. site-b: .*died"):
        federation.run()
    final = federation.journal("artifact")[-1]
    assert (final["role"], final["round"]) == ("final", 1)
    assert federation.journal("run.closed")[0]["status"] == "failed"


def test_a_failed_round_names_the_cause_of_every_node_over_all_its_tries(make_federation: MakeFederation) -> None:
    federation = make_federation(min_updates=2, round_retries=1, round_timeout_s=5.0, num_rounds=1)
    silent, dies = federation.grid.nodes[101], federation.grid.nodes[102]
    silent.answer = lambda message, context: None
    dies.answer = lambda message, context: Message(Error(8, "died"), reply_to=message)
    federation.clock.after(1.5, lambda: federation.grid.add(104, answer=dies.answer))
    with pytest.raises(RoundFailed) as raised:
        federation.run()
    assert [each["nodes"] for each in federation.journal("round.opened")] == [["101", "102", "103"], ["102", "103", "104"]]
    message = federation.journal("run.closed")[0]["cause"]["message"]
    assert message == str(raised.value)
    assert message.startswith("round 1 had 1 valid updates of at least 2 in 2 tries. ")
    assert "node 101: RoundClosed: no answer when the round closed" in message
    assert message.count("node 102: ") == message.count("node 104: ") == 1


@pytest.mark.parametrize("late", ["drop", "carry"])
def test_a_gate_that_gives_up_in_a_round_names_its_causes_too(make_federation: MakeFederation, late: str) -> None:
    federation = make_federation(min_updates=3, round_timeout_s=5.0, min_available_timeout_s=60.0, late=late, num_rounds=1)
    federation.grid.nodes[102].answer = lambda message, context: None
    with pytest.raises(RoundFailed) as raised:
        federation.run()
    cause = federation.journal("run.closed")[0]["cause"]
    assert (cause["type"], cause["node_id"], cause["message"]) == ("RoundClosed", "102", str(raised.value))
    assert cause["message"] == (
        "round 1 had 2 valid updates of at least 3. "
        "node 102: RoundClosed: no answer when the round closed, 5 s after its message left. "
        "Then 2 of 3 nodes free to start after 60 s"
    )


def test_the_gate_waits_for_k_nodes_that_are_free_and_tells_until_when(make_federation: MakeFederation) -> None:
    federation = make_federation(k_of_n=3, min_available=1, min_available_timeout_s=60.0, num_rounds=1)
    federation.grid.nodes[103].online = False
    federation.clock.after(10.0, lambda: setattr(federation.grid.nodes[103], "online", True))
    federation.run()
    (waiting,) = federation.journal("round.waiting")
    assert (waiting["round"], waiting["available"], waiting["wanted"]) == (1, 2, 3)
    assert waiting["until"] == "2026-01-01T00:17:40.000Z"
    starving = make_federation("starving", k_of_n=4, min_available_timeout_s=60.0)
    with pytest.raises(TooFewNodes, match="3 of 4 nodes free to start after 60 s"):
        starving.run()


def test_a_round_is_not_begun_with_fewer_nodes_than_it_needs_updates(make_federation: MakeFederation) -> None:
    federation = make_federation(min_updates=3, min_available=1, num_rounds=2)
    killed = federation.grid.nodes[103]
    for node in federation.grid.nodes.values():
        node.delay_s = 0.5
    answer, deaths = killed.answer, iter([True])
    killed.answer = lambda message, context: None if next(deaths, False) else answer(message, context)

    def dies() -> None:
        killed.online = False
        federation.want("run", n103="its SuperNode was killed")

    def is_back() -> None:
        killed.online = True
        federation.want("run")

    federation.clock.after(0.3, dies)
    federation.clock.after(9.0, is_back)
    federation.run()
    assert [each["round"] for each in federation.journal("round.opened")] == [1, 1, 2]
    assert [(each["available"], each["wanted"]) for each in federation.journal("round.waiting")] == [(2, 3)]
    assert federation.journal("run.closed")[0]["status"] == "completed"


def test_the_gate_waits_for_as_many_as_the_strategy_needs(make_federation: MakeFederation) -> None:
    federation = make_federation(strategy="krum", min_available=1, num_rounds=1)
    federation.grid.nodes[103].online = False
    federation.clock.after(10.0, lambda: setattr(federation.grid.nodes[103], "online", True))
    federation.run()
    assert [each["nodes"] for each in federation.journal("round.opened")] == [["101", "102", "103"]]
    assert federation.journal("run.closed")[0]["status"] == "completed"


def test_waiting_counts_what_it_waits_for(make_federation: MakeFederation) -> None:
    federation = make_federation(k_of_n=3, min_updates=2, late="carry", round_timeout_s=2.0, num_rounds=2)
    federation.grid.nodes[103].delay_s = 10.0  # at work on round 1 while round 2 waits
    federation.run()
    assert [(each["available"], each["wanted"]) for each in federation.journal("round.waiting")] == [(2, 3)]


def test_a_run_has_so_much_time_in_all_over_its_attempts(make_federation: MakeFederation) -> None:
    federation = make_federation(run_timeout_s=20.0, num_rounds=50)
    federation.clock.after(4.5, lambda: federation.want("stop"))
    federation.run(attempt=1)
    federation.want("run")
    with pytest.raises(RunTimeout, match="longer than run-timeout-s = 20"):
        federation.run(attempt=2)
    rounds = len(federation.journal("round.closed"))
    assert 8 < rounds < 20
    assert federation.journal("artifact")[-1]["round"] == rounds
    assert federation.journal("run.closed")[-1]["cause"]["type"] == "RunTimeout"


def test_a_strategy_that_holds_updates_is_refused_when_they_do_not_fit(make_federation: MakeFederation) -> None:
    federation = make_federation(strategy="fedmedian", server_memory_limit_mb=5)
    federation.run()
    big = make_federation("big", strategy="fedmedian", server_memory_limit_mb=5, workload="toy_workload:Wide")
    with pytest.raises(UpdatesDoNotFit, match=r"fedmedian holds all updates of a round .*, 10 MB here, and 5 MB may be used"):
        big.run()
    assert big.journal("round.opened") == []
    some = make_federation("some", strategy="fedmedian", server_memory_limit_mb=5, workload="toy_workload:Wide", k_of_n=1)
    some.run()
    assert some.journal("run.closed")[0]["status"] == "completed"


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"strategy": "krum", "malicious_nodes": 1, "k_of_n": 4}, "k-of-n is 4, and krum needs at least 5 updates a round"),
        ({"strategy": "bulyan", "malicious_nodes": 1, "k_of_n": 6}, "k-of-n is 6, and bulyan needs at least 7"),
        ({"min_updates": 3, "k_of_n": 2}, "k-of-n is 2, and min-updates is 3: a round would close before it has enough"),
        ({"strategy": "krum", "min_updates": 4, "k_of_n": 3}, "k-of-n is 3, and min-updates is 4"),
        ({"strategy": "fedmedian", "late": "carry"}, "late = carry discounts an update's weight, and fedmedian has no weights"),
        ({"quick_eval_examples": 10, "workload": "toy_workload:Wide"}, "has no quick_evaluate"),
        ({"late": "keep"}, "late needs to be one of drop, carry, got 'keep'"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused_before_anything_is_sent(
    make_federation: MakeFederation, config: dict[str, Any], sentence: str
) -> None:
    federation = make_federation(**config)
    with pytest.raises(ValueError, match=sentence):
        federation.run()
    assert [each["kind"] for each in federation.journal()] == ["run.closed"]
