"""Which models stay: the best by its score, the last checkpoints, the milestones, the final one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from flower_app.config import ConfigError
from flower_app.journal import Journal
from flower_app.keeping import Score, score_of
from flower_app.tensor_file import sha256_of
from flwr.app import Message
from safetensors.numpy import load_file

from tests.flower_app.toy_workload import Toy

if TYPE_CHECKING:
    from tests.flower_app.conftest import Federation, MakeFederation


def models(federation: Federation) -> list[str]:
    return sorted(path.name.removesuffix(".safetensors") for path in (federation.root / "models").iterdir())


def kept(federation: Federation, role: str) -> list[int]:
    return [each["round"] for each in federation.journal("artifact") if each["role"] == role]


def scored(monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
    """Let the server measure these accuracies, round by round: a model of the toy knows its round by its steps."""
    monkeypatch.setattr(Toy, "server_evaluate", lambda self, arrays: {"accuracy": values[int(arrays["steps"]) - 1], "loss": 1.0})


@pytest.fixture
def make_scored(make_federation: MakeFederation, monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(*values: float, **run_config: Any) -> Federation:
        scored(monkeypatch, *values)
        config = {"workload": "tests.flower_app.toy_workload:Toy", "num_rounds": len(values), "eval_share": 0.0}
        return make_federation(**{**config, **run_config})

    return make


def test_the_best_model_so_far_is_kept_and_the_one_before_goes(make_scored: Any) -> None:
    federation = make_scored(0.5, 0.7, 0.6, 0.9, 0.8)
    federation.run()
    assert kept(federation, "best") == [1, 2, 4]
    assert [each["round"] for each in federation.journal("artifact.removed")] == [1, 2]
    assert models(federation) == ["best_0004", "final"]
    best = federation.journal("artifact")[-2]
    assert best["score"] == {"metric": "accuracy", "value": 0.9, "by": "server"}
    assert sha256_of(federation.root / best["path"]) == best["sha256"]
    assert load_file(federation.root / best["path"])["steps"] == 4
    assert best["parents"] == [federation.journal("round.closed")[3]["commit"]["sha256"]]


def test_the_new_best_is_in_the_journal_before_the_old_one_goes(make_scored: Any) -> None:
    federation = make_scored(0.5, 0.7)
    federation.run()
    lines = [(each["kind"], each["round"]) for each in federation.journal() if each["kind"].startswith("artifact")]
    assert lines == [("artifact", 1), ("artifact", 2), ("artifact.removed", 1), ("artifact", 2)]


def test_an_equal_score_is_no_better_one(make_scored: Any) -> None:
    federation = make_scored(0.5, 0.5)
    federation.run()
    assert kept(federation, "best") == [1]


def test_a_loss_is_best_when_it_is_least(make_federation: MakeFederation) -> None:
    federation = make_federation(best_metric="loss", best_mode="min")
    federation.run()
    losses = [each["server_metrics"]["loss"] for each in federation.journal("round.closed")]
    assert losses == sorted(losses, reverse=True)
    assert kept(federation, "best") == [1, 2, 3]


def test_without_a_metric_no_best_model_is_kept(make_scored: Any) -> None:
    federation = make_scored(0.5, 0.7, best_metric="")
    federation.run()
    assert models(federation) == ["final"]


def test_a_metric_that_nobody_measures_keeps_nothing(make_scored: Any) -> None:
    federation = make_scored(0.5, 0.7, best_metric="auc")
    federation.run()
    assert models(federation) == ["final"]


def test_the_sites_score_belongs_to_the_model_that_came_to_them(make_federation: MakeFederation) -> None:
    federation = make_federation(num_rounds=4, server_eval_every=0)
    federation.run()
    scores = [each["metrics"]["eval_accuracy"] for each in federation.journal("round.closed")]
    best = [each for each in federation.journal("artifact") if each["role"] == "best"]
    assert [each["round"] for each in best] == [1, 2, 3]  # the initial model is no round's, the last one nobody has seen
    assert [each["score"]["value"] for each in best] == scores[1:]
    assert {each["score"]["by"] for each in best} == {"clients"}
    assert load_file(federation.root / best[-1]["path"])["steps"] == 3
    assert best[-1]["parents"] == [federation.journal("round.closed")[2]["commit"]["sha256"]]


def test_a_commit_that_is_damaged_costs_the_best_model_and_not_the_run(make_federation: MakeFederation) -> None:
    federation = make_federation(num_rounds=3, server_eval_every=0)

    def damage(messages: list[Message]) -> None:
        for path in (federation.root / "commit").glob("round-1.safetensors"):
            path.write_bytes(b"damaged")

    federation.grid.on_push = damage
    federation.run()
    assert federation.journal()[-1]["status"] == "completed"
    assert kept(federation, "best") == [2]


@pytest.mark.parametrize(
    ("record", "score"),
    [
        ({"kind": "round.scored", "metrics": {"eval_accuracy": 0.1}}, Score(2, "accuracy", 0.1, "clients")),
        ({"server_metrics": {"accuracy": 0.9}, "metrics": {"eval_accuracy": 0.1}}, Score(2, "accuracy", 0.9, "server")),
        ({"server_metrics": {"loss": 0.9}, "metrics": {"eval_accuracy": 0.1}}, Score(1, "accuracy", 0.1, "clients")),
        ({"server_metrics": {}, "metrics": {"accuracy": 0.1}}, None),
        ({"server_metrics": {"accuracy": float("nan")}, "metrics": {}}, None),
    ],
)
def test_a_score_is_the_servers_over_the_sites(record: dict[str, Any], score: Score | None) -> None:
    assert score_of({"kind": "round.closed", "round": 2, **record}, "accuracy") == score


def test_a_servers_score_takes_the_place_of_the_sites_and_not_the_other_way_round(make_federation: MakeFederation) -> None:
    federation = make_federation(num_rounds=5, server_eval_every=3)
    federation.run()
    scores = [each["score"]["by"] for each in federation.journal("artifact") if each["role"] == "best"]
    assert scores == ["clients", "server", "server"]  # of round 1, told in round 2; then the server's of rounds 3 and 5


def test_a_resumed_run_knows_its_best(make_scored: Any) -> None:
    federation = make_scored(0.5, 0.9, 0.6, 0.7)
    federation.clock.after(2.5, lambda: federation.want("stop"))
    federation.run(attempt=1)
    assert federation.journal("round.closed")[-1]["round"] == 2
    federation.want("run")
    federation.run(attempt=2)
    assert kept(federation, "best") == [1, 2]
    assert models(federation) == ["best_0002", "final"]


def test_the_last_checkpoints_stay_and_the_milestones(make_scored: Any) -> None:
    config = {"checkpoint_every": 1, "keep_checkpoints": 2, "milestones_every": 3, "best_metric": ""}
    federation = make_scored(*[0.1] * 8, **config)
    federation.run()
    assert models(federation) == ["final", "round_0003", "round_0006", "round_0007", "round_0008"]
    assert [each["round"] for each in federation.journal("artifact.removed")] == [1, 2, 4, 5]


def test_nothing_goes_where_no_number_says_so(make_scored: Any) -> None:
    federation = make_scored(0.3, 0.2, 0.1, checkpoint_every=1)
    federation.run()
    assert models(federation) == ["best_0001", "final", "round_0001", "round_0002", "round_0003"]
    assert federation.journal("artifact.removed") == []


def test_a_smaller_number_holds_from_the_next_attempt_on(make_scored: Any) -> None:
    federation = make_scored(0.5, 0.4, 0.3, checkpoint_every=1)
    federation.run(attempt=1)
    for config in (federation.run_config, federation.grid.run_config):
        config["keep-checkpoints"] = 1
    federation.run(attempt=2)
    assert models(federation) == ["best_0001", "final", "round_0003"]


def test_a_file_whose_removal_was_cut_short_goes_at_the_next_attempt(make_scored: Any) -> None:
    federation = make_scored(0.5, 0.4, checkpoint_every=1, best_metric="")
    federation.run(attempt=1)
    first = federation.journal("artifact")[0]
    journal = Journal(federation.root / "journal.jsonl", "1", federation.clock)
    journal.append("artifact.removed", {name: first[name] for name in ("name", "role", "path", "sha256", "round")})
    journal.close()
    federation.run(attempt=2)
    assert models(federation) == ["final", "round_0002"]
    assert kept(federation, "checkpoint") == [1, 2]


def test_another_mode_is_refused(make_federation: MakeFederation) -> None:
    with pytest.raises(ConfigError, match="best-mode needs to be one of max, min, got 'least'"):
        make_federation(best_mode="least").run()
