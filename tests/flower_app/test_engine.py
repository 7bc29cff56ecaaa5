"""The round engine on an in-process federation: what a run of three sites leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
from flower_app.causes import Cause
from flower_app.client_app import app as client_app
from flower_app.commit import CommitFolder
from flower_app.engine import RoundFailed
from flower_app.gate import TooFewNodes
from flower_app.round import POLL_S
from flower_app.tensor_file import sha256_of
from flower_app.updates import Update
from flower_app.workloads.interface import EvalResult
from flwr.app import Context, Error, Message
from safetensors.numpy import load_file

if TYPE_CHECKING:
    from tests.flower_app.conftest import Federation, MakeFederation


def test_a_run_of_three_sites_is_written_down_from_opening_to_end(federation: Federation) -> None:
    federation.run()
    kinds = [record["kind"] for record in federation.journal()]
    round_kinds = ["round.opened", "update", "update", "update", "round.closed"]
    best = ["artifact", "artifact.removed"]  # each round is better than the one before, whose model goes
    assert kinds == ["run.opened", *round_kinds, "artifact", *(round_kinds + best) * 2, "artifact", "run.closed"]
    assert [record["seq"] for record in federation.journal()] == list(range(1, len(kinds) + 1))
    assert {record["attempt"] for record in federation.journal()} == {"7"}
    opened = federation.journal("run.opened")[0]
    assert (opened["workload"], opened["strategy"], opened["num_rounds"]) == ("toy_workload:Toy", "fedavg", 3)
    assert opened["model"] == {"parameters": 13, "size_bytes": 56, "whole_parameters": None, "whole_size_bytes": None}
    assert opened["config"]["round-timeout-s"] == 3600.0
    assert federation.journal("run.closed")[0] | {"seq": 0, "at": ""} == {
        "seq": 0, "at": "", "attempt": "7", "kind": "run.closed", "status": "completed", "last_round": 3, "cause": None,
        "ended_early": None,
    }  # fmt: skip


def test_the_model_is_the_mean_of_the_sites_weighted_by_their_examples(federation: Federation) -> None:
    replies = []

    def keep(message: Message, context: Context) -> Message:
        replies.append(client_app(message, context))
        return replies[-1]

    for node in federation.grid.nodes.values():
        node.answer = keep
    federation.run_config["num-rounds"] = 1
    federation.run()
    weights = [reply.content.array_records["arrays"]["weight"].numpy() for reply in replies]
    expected = np.average(weights, axis=0, weights=[10, 20, 30])
    final = load_file(federation.root / "models/final.safetensors")
    np.testing.assert_allclose(final["weight"], expected, rtol=1e-6)
    assert final["weight"].dtype == np.float32
    assert final["steps"] == 1
    assert final["steps"].dtype == np.int64


def test_a_node_gets_one_message_a_round_and_answers_with_score_and_training(federation: Federation) -> None:
    federation.run()
    for node in federation.grid.nodes.values():
        assert [message.metadata.group_id for message in node.seen] == ["1", "2", "3"]
        assert {message.metadata.message_type for message in node.seen} == {"train"}
    for update in federation.journal("update"):
        assert set(update["metrics"]) == {"train_loss", "train_accuracy", "eval_loss", "eval_accuracy"}
        assert update["status"] == "counted"
        assert (update["update_kind"], update["wave"], update["cause"]) == ("train", 0, None)
        assert update["bytes_down"] > 56
        assert update["bytes_up"] > 56
        assert update["timings"]["round_trip_s"] == pytest.approx(1.0, abs=POLL_S)
        assert update["timings"]["train_s"] >= 0
        assert update["facts"]["rss_bytes"] > 10_000_000
    assert {update["facts"]["node_name"] for update in federation.journal("update")} == {"site-a", "site-b", "site-c"}


def test_a_closed_round_sums_its_updates_up(federation: Federation) -> None:
    federation.run()
    for closed in federation.journal("round.closed"):
        updates = [each for each in federation.journal("update") if each["round"] == closed["round"]]
        assert (closed["counted"], closed["expected"], closed["num_examples"]) == (3, 3, 60)
        assert closed["bytes_up"] == sum(update["bytes_up"] for update in updates)
        assert closed["bytes_down"] == sum(update["bytes_down"] for update in updates)
        mean = sum(update["metrics"]["train_loss"] * update["num_examples"] for update in updates) / 60
        assert closed["metrics"]["train_loss"] == pytest.approx(mean)
        assert set(closed["server_metrics"]) == {"loss", "accuracy"}


def test_a_commit_is_the_file_that_its_line_proves_and_the_last_two_stay(federation: Federation) -> None:
    federation.run()
    assert sorted(path.name for path in (federation.root / "commit").iterdir()) == ["round-2.safetensors", "round-3.safetensors"]
    for closed in federation.journal("round.closed")[1:]:
        path = federation.root / closed["commit"]["file"]
        assert sha256_of(path) == closed["commit"]["sha256"]
        assert path.stat().st_size == closed["commit"]["size_bytes"]
        commit = CommitFolder(path.parent).read(closed["round"], closed["commit"])
        assert commit.arrays["steps"] == closed["round"]


def test_what_people_read_is_there_after_the_run(federation: Federation) -> None:
    federation.run()
    assert federation.read("config.json")["num-rounds"] == 3
    for number in (1, 2, 3):
        for site in ("site-a-101", "site-b-102", "site-c-103"):
            assert federation.read(f"clients/{site}/round_{number}.json")["round"] == number
        assert federation.read(f"server/round_{number}_aggregated.json")["commit"]["sha256"]
    history = federation.read("history.json")
    assert [entry["round"] for entry in history] == [1, 2, 3]
    assert history[-1]["accuracy"] == federation.journal("round.closed")[-1]["server_metrics"]["accuracy"]
    assert (federation.root / "chart.png").is_file()


def test_the_final_model_is_an_artifact_with_its_hash_and_its_parent(federation: Federation) -> None:
    federation.run()
    (artifact,) = (each for each in federation.journal("artifact") if each["role"] == "final")
    path = federation.root / artifact["path"]
    assert (artifact["name"], artifact["role"], artifact["format"], artifact["round"]) == ("final", "final", "safetensors", 3)
    assert sha256_of(path) == artifact["sha256"]
    assert path.stat().st_size == artifact["size_bytes"]
    assert artifact["parents"] == [federation.journal("round.closed")[-1]["commit"]["sha256"]]


def test_checkpoints_are_kept_every_few_rounds(make_federation: MakeFederation) -> None:
    federation = make_federation(num_rounds=5, checkpoint_every=2, best_metric="")
    federation.run()
    kept = [(each["role"], each["round"], each["path"]) for each in federation.journal("artifact")]
    assert kept == [
        ("checkpoint", 2, "models/round_0002.safetensors"),
        ("checkpoint", 4, "models/round_0004.safetensors"),
        ("final", 5, "models/final.safetensors"),
    ]
    assert load_file(federation.root / "models/round_0004.safetensors")["steps"] == 4


def test_the_server_evaluates_as_often_as_asked_and_after_the_last_round(make_federation: MakeFederation) -> None:
    federation = make_federation(num_rounds=5, server_eval_every=2)
    federation.run()
    assert [bool(each["server_metrics"]) for each in federation.journal("round.closed")] == [False, True, False, True, True]


def test_without_a_share_to_evaluate_on_no_site_scores(make_federation: MakeFederation) -> None:
    federation = make_federation(eval_share=0.0, server_eval_every=0)
    federation.run()
    assert set(federation.journal("update")[0]["metrics"]) == {"train_loss", "train_accuracy"}
    assert federation.read("history.json")[0]["accuracy"] is None


def test_a_failing_site_is_recorded_with_its_cause_and_the_others_go_on(federation: Federation) -> None:
    def fail(message: Message, context: Context) -> Message:
        raise KeyError("patient 17")

    federation.grid.nodes[102].answer = lambda message, context: _in_the_app(fail, message, context)
    federation.run()
    failed = [update for update in federation.journal("update") if update["status"] == "failed"]
    assert [update["node_id"] for update in failed] == ["102"] * 3
    assert failed[0]["cause"]["type"] == "KeyError"
    assert failed[0]["cause"]["node_name"] == "site-b"
    assert failed[0]["num_examples"] is None
    assert federation.journal("round.closed")[0]["counted"] == 2
    assert federation.journal("run.closed")[0]["status"] == "completed"
    assert federation.read("clients/site-b-102/round_1.json")["cause"]["type"] == "KeyError"


def test_a_round_without_a_valid_update_fails_the_run_and_names_every_node(federation: Federation) -> None:
    federation.grid.nodes[101].answer = lambda message, context: _error(message, 5, "Error: Node Unavailable — gone")
    federation.grid.nodes[102].answer = lambda message, context: _in_the_app(_raise_out_of_memory, message, context)
    federation.grid.nodes[103].answer = lambda message, context: _error(
        message, 8, "ClientApp was killed by signal 9 (SIGKILL)\nline a\nline b"
    )
    with pytest.raises(RoundFailed, match="round 1 had no valid update") as raised:
        federation.run()
    statuses = {update["node_id"]: update["status"] for update in federation.journal("update")}
    assert statuses == {"101": "lost", "102": "failed", "103": "failed"}
    (closed,) = federation.journal("run.closed")
    assert (closed["status"], closed["last_round"]) == ("failed", 0)
    cause = closed["cause"]
    assert (cause["node_id"], cause["node_name"], cause["type"]) == ("102", "site-b", "MemoryError")
    assert "take smaller batches" in cause["message"]
    assert "killed by signal 9 (SIGKILL)" in cause["message"]
    assert "Node Unavailable" in cause["message"]
    assert "_raise_out_of_memory" in cause["traceback"]
    assert str(raised.value) == cause["message"]
    crashed = [update["cause"] for update in federation.journal("update") if update["node_id"] == "103"]
    assert (crashed[0]["type"], crashed[0]["last_lines"]) == ("CLIENT_APP_CRASHED", ["line a", "line b"])


def test_a_node_that_the_superlink_does_not_know_is_lost_at_once(federation: Federation) -> None:
    federation.grid.on_push = lambda messages: setattr(federation.grid.nodes[103], "online", False)
    federation.run_config["min-available"] = 2
    federation.run()
    lost = [update for update in federation.journal("update") if update["status"] == "lost"]
    assert [(update["node_id"], update["round"]) for update in lost] == [("103", 1)]
    assert [record["expected"] for record in federation.journal("round.closed")] == [3, 2, 2]


def test_a_node_that_never_answered_goes_by_the_name_it_is_registered_with(federation: Federation) -> None:
    federation.grid.nodes[102].registered = "Klinikum B"
    federation.grid.nodes[102].answer = lambda message, context: _error(message, 8, "ClientApp died")
    federation.run()
    failed = [update for update in federation.journal("update") if update["status"] == "failed"]
    assert failed[0]["cause"]["node_name"] == "Klinikum B"
    assert federation.read("clients/Klinikum_B-102/round_1.json")["status"] == "failed"


def test_a_round_closes_at_its_deadline_and_a_late_node_rests_until_it_answered(
    make_federation: MakeFederation,
) -> None:
    federation = make_federation(round_timeout_s=30.0, min_available=2, num_rounds=4)
    federation.grid.nodes[102].delay_s = 62.0
    for node_id in (101, 103):
        federation.grid.nodes[node_id].delay_s = 20.0
    federation.run()
    late = [update for update in federation.journal("update") if update["status"] == "late"]
    assert [(update["round"], update["node_id"]) for update in late] == [(1, "102"), (4, "102")]
    assert late[0]["cause"]["type"] == "RoundClosed"
    assert late[0]["cause"]["message"].startswith("no answer when the round closed, 30 s")
    assert late[1]["cause"]["node_name"] is None
    assert [record["nodes"] for record in federation.journal("round.opened")] == [
        ["101", "102", "103"], ["101", "103"], ["101", "103"], ["101", "102", "103"],
    ]  # fmt: skip
    first, second = federation.journal("round.closed")[:2]
    assert first["seconds"] == pytest.approx(30, abs=POLL_S)
    assert second["seconds"] == pytest.approx(20, abs=POLL_S)


def test_replies_are_polled_at_least_every_quarter_second(federation: Federation) -> None:
    federation.run()
    assert max(federation.clock.slept) <= 0.25


def test_big_models_are_pulled_one_reply_at_a_time(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flower_app.sent.PULL_BYTES", 60)
    federation.run()
    assert {len(pull) for pull in federation.grid.pulls} == {1}
    assert federation.journal("run.closed")[0]["status"] == "completed"


def test_the_run_waits_for_enough_nodes_and_says_so(federation: Federation, capsys: pytest.CaptureFixture[str]) -> None:
    for node_id in (102, 103):
        federation.grid.nodes[node_id].online = False
    federation.clock.after(7.0, lambda: setattr(federation.grid.nodes[102], "online", True))
    federation.clock.after(12.0, lambda: setattr(federation.grid.nodes[103], "online", True))
    with _flower_log() as lines:
        federation.run()
    waiting = [line for line in lines if "waits for nodes" in line]
    assert waiting[0] == "round 1 waits for nodes: 1 of 3 nodes available, 600 s left"
    assert "2 of 3 nodes available" in waiting[2]
    assert len(federation.journal("round.opened")[0]["nodes"]) == 3


def test_too_few_nodes_in_time_fail_the_run(make_federation: MakeFederation) -> None:
    federation = make_federation(min_available=4, min_available_timeout_s=60.0)
    with pytest.raises(TooFewNodes):
        federation.run()
    cause = federation.journal("run.closed")[0]["cause"]
    assert (cause["type"], cause["message"]) == ("TooFewNodes", "3 of 4 nodes available after 60 s")
    assert federation.clock.seconds == pytest.approx(1060, abs=1)


def test_a_wrong_run_config_fails_the_run_with_the_key(make_federation: MakeFederation) -> None:
    federation = make_federation(num_rounds="three")
    with pytest.raises(ValueError, match="num-rounds needs an integer, got 'three'"):
        federation.run()
    (closed,) = federation.journal()
    assert (closed["kind"], closed["status"]) == ("run.closed", "failed")
    assert closed["cause"]["type"] == "ConfigError"


def test_an_unknown_strategy_or_workload_lists_the_choices(make_federation: MakeFederation) -> None:
    with pytest.raises(ValueError, match=r'strategy "fedsgd" is unknown; choose one of bulyan, fedadagrad, fedadam, .*qfedavg'):
        make_federation("one", strategy="fedsgd").run()
    with pytest.raises(ValueError, match=r'workload "mnist" is unknown; choose one of .*digits'):
        make_federation("two", workload="mnist").run()


def test_without_a_run_directory_it_trains_and_writes_nothing(federation: Federation) -> None:
    from flower_app.attempt import conduct

    before = sorted(federation.root.parent.rglob("*"))
    with _flower_log() as lines:
        conduct(federation.grid, federation.run_config, 7, {}, federation.clock)
    assert lines[0] == "ESPALIER_RUN_DIR is not set: this run trains and writes nothing"
    assert any(line.startswith("round 3/3: 3/3 updates, accuracy 0.") for line in lines)
    assert sorted(federation.root.parent.rglob("*")) == before


def _error(message: Message, code: int, reason: str) -> Message:
    return Message(Error(code, reason), reply_to=message)


def _raise_out_of_memory(message: Message, context: Context) -> Message:
    raise MemoryError("take smaller batches")


def _in_the_app(fails: Callable[[Message, Context], Message], message: Message, context: Context) -> Message:
    """Let the real handler meet an exception from inside its work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flower_app.turn.take_turn", fails)
        reply = client_app(message, context)
    assert json.loads(reply.error.reason or "")["type"]
    return reply


class _flower_log:
    """Collects the lines that the app logs."""

    def __enter__(self) -> list[str]:
        import logging

        self.lines: list[str] = []
        lines = self.lines

        class Keeper(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                lines.append(record.getMessage())

        self.handler = Keeper()
        logging.getLogger("flwr").addHandler(self.handler)
        return self.lines

    def __exit__(self, *error: object) -> None:
        import logging

        logging.getLogger("flwr").removeHandler(self.handler)


def test_an_exception_on_the_server_is_in_the_journal_before_flower_hears_of_it(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, arrays: object) -> None:
        print("opening the test set")
        raise FileNotFoundError("test.npz")

    monkeypatch.setattr("toy_workload.Toy.server_evaluate", broken)
    monkeypatch.setattr("toy_workload.Toy.evaluate", lambda *args: EvalResult(0, {}))
    with pytest.raises(FileNotFoundError):
        federation.run()
    (closed,) = federation.journal("run.closed")
    cause = closed["cause"]
    assert (closed["status"], cause["type"], cause["message"]) == ("failed", "FileNotFoundError", "test.npz")
    assert (cause["node_id"], cause["node_name"]) == (None, None)
    assert 'raise FileNotFoundError("test.npz")' in cause["traceback"]
    assert cause["last_lines"][-1] == "opening the test set"


def test_many_failing_nodes_make_a_message_that_can_be_read() -> None:
    updates = [
        Update(3, node_id, "m", "failed", 0, cause=Cause("KeyError", "x" * 9000).at(node_id, f"site-{node_id}"))
        for node_id in range(30)
    ]
    failed = RoundFailed(3, 0, needed=1, tries=1, troubles=updates)
    assert len(str(failed)) < 12_000
    assert str(failed).endswith("and 10 more nodes")
    assert failed.cause
    assert failed.cause.node_name == "site-0"
