"""When a model is scored and by whom, and when it is good enough."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import pytest
from flower_app.config import ConfigError

if TYPE_CHECKING:
    from tests.flower_app.conftest import Federation, MakeFederation


def asked(federation: Federation, kind: str) -> dict[int, list[str]]:
    """Give the groups of the messages of a kind that each node got."""
    return {
        node.node_id: [each.metadata.group_id for each in node.seen if each.metadata.message_type == kind]
        for node in federation.grid.nodes.values()
    }


def test_sites_score_the_models_that_rounds_made_at_a_cadence_of_their_own(make_federation: MakeFederation) -> None:
    federation = make_federation(client_eval_every=2, num_rounds=5, server_eval_every=1)
    federation.run()
    assert asked(federation, "evaluate") == {node: ["2-evaluate", "4-evaluate", "5-evaluate"] for node in (101, 102, 103)}
    scored = federation.journal("round.scored")
    assert [(each["round"], each["counted"], each["expected"]) for each in scored] == [(2, 3, 3), (4, 3, 3), (5, 3, 3)]
    closed = {each["round"]: each for each in federation.journal("round.closed")}
    for each in scored:  # the toy's sites score as its server does, so both are scores of the same model
        assert each["metrics"]["eval_accuracy"] == pytest.approx(closed[each["round"]]["server_metrics"]["accuracy"])
    trained = [each for each in federation.journal("update") if each["update_kind"] == "train"]
    assert not [each for each in trained if "eval_accuracy" in each["metrics"]]
    assert (federation.root / "clients/site-a-101/round_2_evaluate.json").is_file()
    assert federation.read("clients/site-a-101/round_2.json")["update_kind"] == "train"


def test_a_fraction_of_the_named_nodes_scores_and_the_same_ones_in_a_repeated_run(make_federation: MakeFederation) -> None:
    chosen = []
    for name in ("one", "two"):
        federation = make_federation(
            name, client_eval_every=1, client_eval_fraction=0.5, client_eval_nodes="site-a, 103", num_rounds=6
        )
        federation.run()
        chosen.append(asked(federation, "evaluate"))
    assert chosen[0] == chosen[1]
    assert chosen[0][102] == []
    assert sorted(int(group[0]) for groups in chosen[0].values() for group in groups) == [1, 2, 3, 4, 5, 6]
    assert all(0 < len(chosen[0][node]) < 6 for node in (101, 103))


def test_a_site_that_does_not_score_holds_nobody_up_and_costs_no_round(make_federation: MakeFederation) -> None:
    federation = make_federation(client_eval_every=1, num_rounds=3, min_available=2, client_eval_timeout_s=10.0)
    answer = federation.grid.nodes[103].answer
    federation.grid.nodes[103].answer = lambda message, context: (
        None if message.metadata.message_type == "evaluate" else answer(message, context)
    )
    federation.run()
    assert [each["counted"] for each in federation.journal("round.scored")] == [2, 2, 2]
    assert federation.journal("run.closed")[0]["status"] == "completed"
    assert [each["expected"] for each in federation.journal("round.closed")] == [3, 2, 2]  # it still owes its score
    began, ended = federation.journal("run.opened")[0]["at"], federation.journal("run.closed")[0]["at"]
    took_s = (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds()
    assert took_s < 10 + 6 * 2, "it was waited for once, for ten seconds"


def test_a_part_of_the_test_set_is_scored_between_whole_ones(make_federation: MakeFederation) -> None:
    federation = make_federation(server_eval_every=3, quick_eval_examples=5, num_rounds=4)
    federation.run()
    names = [sorted(each["server_metrics"]) for each in federation.journal("round.closed")]
    assert names == [["quick_loss"], ["quick_loss"], ["accuracy", "loss"], ["accuracy", "loss"]]


def test_a_run_ends_early_when_its_model_is_good_enough(make_federation: MakeFederation) -> None:
    federation = make_federation(stop_metric="accuracy", stop_at=0.8, num_rounds=50)
    federation.run()
    (closed,) = federation.journal("run.closed")
    last = federation.journal("round.closed")[-1]
    assert (closed["status"], closed["last_round"]) == ("completed", last["round"])
    assert last["round"] < 50
    assert last["server_metrics"]["accuracy"] >= 0.8
    assert closed["ended_early"].startswith("accuracy is 0.8")
    assert federation.journal("artifact")[-1]["round"] == last["round"]
    loss = make_federation("loss", stop_metric="loss", stop_at=0.5, stop_mode="min", server_eval_every=0, num_rounds=50)
    loss.run()
    assert loss.journal("round.closed")[-1]["metrics"]["eval_loss"] <= 0.5
    assert loss.journal("round.closed")[-2]["metrics"]["eval_loss"] > 0.5


def test_the_best_model_is_the_one_that_sites_scored_best_where_the_server_scores_none(make_federation: MakeFederation) -> None:
    federation = make_federation(client_eval_every=1, server_eval_every=0, num_rounds=3)
    federation.run()
    best = [each for each in federation.journal("artifact") if each["role"] == "best"]
    scored = {each["round"]: each["metrics"]["eval_accuracy"] for each in federation.journal("round.scored")}
    assert best[-1]["score"] == {"metric": "accuracy", "value": max(scored.values()), "by": "clients"}
    assert scored[best[-1]["round"]] == max(scored.values())


def test_an_attempt_that_goes_on_after_a_good_enough_model_trains_no_more(make_federation: MakeFederation) -> None:
    federation = make_federation(stop_metric="accuracy", stop_at=0.8, num_rounds=50)
    federation.run()
    lines = (federation.root / "journal.jsonl").read_text().splitlines(keepends=True)
    end = next(number for number, line in enumerate(lines) if '"kind":"run.closed"' in line)
    closed = max(number for number, line in enumerate(lines) if '"kind":"round.closed"' in line)
    assert closed < end
    (federation.root / "journal.jsonl").write_text("".join(lines[: closed + 1]))  # as if it died right after the commit
    federation.run(attempt=8)
    rounds = [each["round"] for each in federation.journal("round.closed")]
    assert rounds == list(range(1, len(rounds) + 1)), "no round more"
    assert federation.journal("run.closed")[-1]["ended_early"].startswith("accuracy is 0.8")


def test_scores_that_are_not_finite_are_left_out(make_federation: MakeFederation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toy_workload.Toy.server_evaluate", lambda self, arrays: {"loss": float("nan"), "accuracy": 0.5})
    federation = make_federation(num_rounds=1, eval_share=0.0)
    federation.run()
    assert federation.journal("round.closed")[0]["server_metrics"] == {"accuracy": 0.5}


def test_sites_with_nothing_to_score_on_are_not_asked_to(make_federation: MakeFederation) -> None:
    with pytest.raises(ConfigError, match="eval-share 0"):
        make_federation(client_eval_every=1, eval_share=0.0).run()
