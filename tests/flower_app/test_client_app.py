"""The ClientApp's handler: one answer to each message, and an exception comes home whole."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flower_app.causes import APP_ERROR
from flower_app.client_app import app
from flower_app.wire import to_arrays, to_record
from flower_app.workloads.interface import Arrays, EvalResult
from flwr.app import ConfigRecord, Context, Message, RecordDict

Ask = Callable[..., Message]


@pytest.fixture
def ask() -> Ask:
    """Send one train message of the toy model to one site and give its answer."""

    def ask(
        node_config: dict[str, Any] | None = None, server_round: int = 4, node_id: int = 9, run_id: int = 7, **run_config: Any
    ) -> Message:
        arrays: Arrays = {"weight": np.full((4, 3), 0.4, np.float32), "steps": np.array(3, np.int64)}
        content = RecordDict({"arrays": to_record(arrays), "config": ConfigRecord({"server-round": server_round})})
        message = Message(content, dst_node_id=node_id, message_type="train")
        node = {"partition-id": 1, "num-partitions": 3, "node-name": "site-b"} if node_config is None else node_config
        config = {"workload": "toy_workload:Toy", **{key.replace("_", "-"): value for key, value in run_config.items()}}
        return app(message, Context(run_id, node_id, node, RecordDict(), config))  # type: ignore[arg-type]

    return ask


def cause(reply: Message) -> dict[str, Any]:
    assert reply.error.code == APP_ERROR
    found: dict[str, Any] = json.loads(reply.error.reason or "")
    return found


def test_an_answer_has_model_metrics_facts_and_timings(ask: Ask) -> None:
    reply = ask()
    assert list(to_arrays(reply.content.array_records["arrays"])) == ["weight", "steps"]
    metrics = dict(reply.content.metric_records["metrics"])
    assert metrics.pop("num-examples") == 20
    assert set(metrics) == {"train_loss", "train_accuracy", "eval_loss", "eval_accuracy"}
    facts: dict[str, Any] = dict(reply.content.config_records["facts"])
    assert (facts["node_name"], facts["partition_id"], facts["num_partitions"]) == ("site-b", 1, 3)
    assert facts["rss_peak_bytes"] >= facts["rss_bytes"] > 0
    timings: dict[str, Any] = dict(reply.content.config_records["timings"])
    assert timings["total_s"] >= timings["train_s"] + timings["evaluate_s"] > 0


def test_what_the_app_says_itself_no_workload_says_otherwise(ask: Ask) -> None:
    facts: dict[str, Any] = dict(ask(workload="toy_workload:Boaster").content.config_records["facts"])
    assert (facts["node_name"], facts["partition_id"], facts["num_partitions"], facts["eval_examples"]) == ("site-b", 1, 3, 5)
    assert facts["rss_bytes"] > 1
    assert (facts["device"], facts["colour"]) == ("abacus", "red"), "where it trained is the workload's to say"
    assert next(iter(facts)) == "node_name", "the coordinator reads so many facts and no more"


def test_the_same_round_gives_the_same_model_on_any_node_and_another_round_does_not(ask: Ask) -> None:
    def weight(reply: Message) -> Any:
        return reply.content.array_records["arrays"]["weight"].data

    first = weight(ask())
    assert (
        weight(ask(node_config={"partition-id": 1, "num-partitions": 3, "node-name": "elsewhere"}, node_id=10, run_id=8)) == first
    )
    assert weight(ask(seed=43)) != first
    assert weight(ask(server_round=5)) != first
    assert weight(ask(node_config={"partition-id": 2, "num-partitions": 3})) != first


def test_a_model_that_arrives_beyond_all_scores_is_trained_and_has_none(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    beyond = {"loss": float("nan"), "gain": 1e200, "accuracy": 0.5}
    monkeypatch.setattr("toy_workload.Toy.evaluate", lambda *_: EvalResult(5, beyond))
    metrics = dict(ask().content.metric_records["metrics"])
    assert {name for name in metrics if name.startswith("eval_")} == {"eval_accuracy"}
    assert "train_loss" in metrics
    assert "of the model that arrived there is no finite loss, gain" in capsys.readouterr().out


def test_threads_are_those_that_the_node_was_given(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert ask().content.config_records["facts"]["threads"] == 5


def test_an_exception_comes_home_with_traceback_and_last_lines(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(self: Any, arrays: Any, settings: Any, env: Any) -> None:
        for number in range(30):
            print("line", number)
        print("unfinished", end="", file=sys.stderr)
        raise RuntimeError("scanner offline")

    monkeypatch.setattr("toy_workload.Toy.train", train)
    found = cause(ask())
    assert (found["type"], found["message"], found["node_name"]) == ("RuntimeError", "scanner offline", "site-b")
    assert 'raise RuntimeError("scanner offline")' in found["traceback"]
    assert found["last_lines"] == [*(f"line {number}" for number in range(11, 30)), "unfinished"]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), MemoryError("no room"), Exception("plain")])
def test_whatever_is_raised_there_is_an_answer(ask: Ask, monkeypatch: pytest.MonkeyPatch, error: Any) -> None:
    def train(*args: Any) -> None:
        raise error

    monkeypatch.setattr("toy_workload.Toy.train", train)
    assert cause(ask())["type"] == type(error).__name__


def test_a_site_that_forwards_nothing_sends_the_type_alone(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*args: Any) -> None:
        print("patient 17 has ...")
        raise ValueError("patient 17")

    monkeypatch.setattr("toy_workload.Toy.train", train)
    for value in ("none", "perhaps"):
        monkeypatch.setenv("ESPALIER_FORWARD_LOGS", value)
        found = cause(ask())
        assert found == {"type": "ValueError", "message": "", "traceback": None, "last_lines": [], "node_name": "site-b"}
    monkeypatch.setenv("ESPALIER_FORWARD_LOGS", "errors")
    assert cause(ask())["message"] == "patient 17"


def test_an_import_error_of_the_workload_is_an_answer_too(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs_more.py").write_text("import a_library_nobody_has\nclass W: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = cause(ask(workload="needs_more:W"))
    assert (found["type"], found["message"]) == ("ModuleNotFoundError", "No module named 'a_library_nobody_has'")


def test_a_wrong_partition_is_a_precise_answer(ask: Ask) -> None:
    found = cause(ask(node_config={"partition-id": 3, "num-partitions": 3, "node-name": "site-d"}))
    assert found["type"] == "ConfigError"
    assert found["message"].startswith('partition-id of node "site-d" needs to lie in 0..2')
    assert found["node_name"] == "site-d"
    assert cause(ask(node_config={}))["message"].startswith('num-partitions of node "9" is missing')


def test_a_workload_that_changes_the_models_names_is_told_so(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    from flower_app.workloads.interface import TrainResult

    monkeypatch.setattr("toy_workload.Toy.train", lambda *args: TrainResult({"w": np.ones(1)}, 5, {}))
    assert cause(ask())["message"] == "train() gave the arrays ['w'], the model has ['steps', 'weight']"
    monkeypatch.setattr("toy_workload.Toy.train", lambda self, arrays, settings, env: TrainResult(arrays, 0, {}))
    assert "0 examples" in cause(ask())["message"]


def test_importing_the_app_imports_no_heavy_library() -> None:
    import subprocess

    code = (
        "import sys, warnings; warnings.simplefilter('ignore');"
        "import flower_app.client_app, flower_app.server_app, flower_app.turn;"
        "print([name for name in ('torch', 'sklearn', 'matplotlib', 'safetensors', 'pandas') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
