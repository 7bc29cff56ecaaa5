"""Flower's strategies in the engine: FedProx's weight reaches the sites, FedAdam's numbers and memory are Flower's own."""

from __future__ import annotations

import copy
import tracemalloc
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from flower_app.accumulate import Contribution, in_dtype
from flower_app.client_app import app as client_app
from flower_app.commit import Commit, CommitFolder
from flower_app.config import RunConfig
from flower_app.rules import RULES
from flower_app.strategies import ModelNotFinite, OfferedNodes, StrategyDriver
from flower_app.wire import to_arrays, to_record
from flower_app.workloads import make_workload
from flower_app.workloads.interface import Arrays
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import (
    Bulyan,
    FedAdagrad,
    FedAdam,
    FedAvgM,
    FedMedian,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
    QFedAvg,
    Strategy,
)
from safetensors.numpy import load_file

if TYPE_CHECKING:
    from tests.flower_app.conftest import Answer, Federation, MakeFederation


def replaced(arrays: Arrays) -> Answer:
    """Answer as a site does, with other arrays."""

    def answer(message: Message, context: Context) -> Message:
        reply: Message = client_app(message, context)
        reply.content["arrays"] = to_record(arrays)
        return reply

    return answer


def say_of_themselves(federation: Federation, metrics: Mapping[int, Mapping[str, float]]) -> None:
    """Let some sites answer with metrics of their own, and no others."""

    def saying(own: Mapping[str, float]) -> Answer:
        def answer(message: Message, context: Context) -> Message:
            reply: Message = client_app(message, context)
            reply.content["metrics"] = MetricRecord({**own, "num-examples": 10})
            return reply

        return answer

    for node_id, own in metrics.items():
        federation.grid.nodes[node_id].answer = saying(own)


def last_commit(federation: Federation) -> Commit:
    closed = federation.journal("round.closed")[-1]
    return CommitFolder(federation.root / "commit").read(closed["round"], closed["commit"])


def test_fedadams_next_models_are_those_of_flower_fed_with_the_plain_replies(make_federation: MakeFederation) -> None:
    federation = make_federation(strategy="fedadam", server_lr=0.2, beta_1=0.8, beta_2=0.95, tau=0.01)
    replies: list[Message] = []

    def kept(message: Message, context: Context) -> Message:
        replies.append(client_app(message, context))
        return replies[-1]

    for node in federation.grid.nodes.values():
        node.answer = kept
    federation.run()
    flower = FedAdam(eta=0.2, beta_1=0.8, beta_2=0.95, tau=0.01, fraction_evaluate=0.0)
    arrays = to_record(make_workload(RunConfig.parse(federation.run_config)).initial_arrays())
    for number in (1, 2, 3):
        flower.configure_train(number, arrays, ConfigRecord(), OfferedNodes(federation.grid, [101, 102, 103]))
        made, _ = flower.aggregate_train(number, replies[3 * number - 3 : 3 * number])
        assert made is not None
        arrays = made
    ours = last_commit(federation)
    np.testing.assert_allclose(ours.arrays["weight"], arrays["weight"].numpy(), rtol=1e-5)
    assert flower.m_t is not None
    assert flower.v_t is not None
    np.testing.assert_allclose(ours.state["m_t/weight"], flower.m_t["weight"], rtol=1e-4)
    np.testing.assert_allclose(ours.state["v_t/weight"], flower.v_t["weight"], rtol=1e-4)
    assert ours.arrays["weight"].dtype == np.float32
    assert ours.arrays["steps"].dtype == np.int64


@pytest.mark.parametrize(
    ("strategy", "flower"),
    [
        ("fedavgm", FedAvgM(server_learning_rate=1.0, server_momentum=0.9)),
        ("fedyogi", FedYogi(eta=0.01, beta_1=0.9, beta_2=0.99, tau=0.001)),
        ("fedadagrad", FedAdagrad(eta=0.1, tau=0.001)),
        ("fedmedian", FedMedian()),
        ("fedtrimmedavg", FedTrimmedAvg(beta=0.2)),
        ("krum", Krum()),
        ("multikrum", MultiKrum(num_nodes_to_select=2)),
        ("bulyan", Bulyan()),
        ("qfedavg", QFedAvg(client_learning_rate=0.05, q=0.1)),
    ],
)
def test_every_strategys_models_are_those_of_flower_fed_with_the_plain_replies(
    make_federation: MakeFederation, strategy: str, flower: Strategy
) -> None:
    federation = make_federation(strategy=strategy, krum_select=2, workload="toy_workload:Floats")
    replies: list[Message] = []

    def kept(message: Message, context: Context) -> Message:
        replies.append(client_app(message, context))
        return copy.deepcopy(replies[-1])

    for node in federation.grid.nodes.values():
        node.answer = kept
    federation.run()
    arrays = to_record(make_workload(RunConfig.parse(federation.run_config)).initial_arrays())
    for number in (1, 2, 3):
        flower.configure_train(number, arrays.copy(), ConfigRecord(), OfferedNodes(federation.grid, [101, 102, 103]))
        made, _ = flower.aggregate_train(number, replies[3 * number - 3 : 3 * number])
        assert made is not None
        arrays = made
    np.testing.assert_allclose(last_commit(federation).arrays["weight"], arrays["weight"].numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("strategy", sorted(RULES))
def test_each_site_may_name_its_metrics_as_it_likes(make_federation: MakeFederation, strategy: str) -> None:
    federation = make_federation(strategy=strategy, num_rounds=2)
    say_of_themselves(federation, {102: {"train_loss": 0.5, "train_own": 1.0}, 103: {"train_loss": 0.7}})
    federation.run()
    assert [each["counted"] for each in federation.journal("round.closed")] == [3, 3]
    assert federation.journal("round.closed")[1]["metrics"]["train_own"] == 1.0


def test_q_fedavg_refuses_an_update_that_names_no_loss_to_weigh_it_by(make_federation: MakeFederation) -> None:
    federation = make_federation(strategy="qfedavg", num_rounds=2)
    say_of_themselves(federation, {102: {}, 103: {"train_loss": -0.5}})
    federation.run()
    assert [each["counted"] for each in federation.journal("round.closed")] == [1, 1]
    refused = {each["node_id"]: each["cause"]["message"] for each in federation.journal("update") if each["status"] == "refused"}
    sentence = "the strategy computes with metric train_loss, which needs to be at least 0, is"
    assert refused == {"102": f"{sentence} None", "103": f"{sentence} -0.5"}


@pytest.mark.parametrize("strategy", [name for name, rule in sorted(RULES.items()) if rule.is_mean])
def test_flowers_own_aggregate_of_one_reply_is_that_reply_where_flower_is_not_asked(
    federation: Federation, strategy: str
) -> None:
    drawn = np.random.default_rng(2)
    sent: Arrays = {
        "w": np.append(drawn.normal(size=999) * 10.0 ** drawn.integers(-44, 38, 999), [-0.0]).astype(np.float32),
        "d": drawn.normal(size=(30, 5)),
        "h": drawn.normal(size=(3, 2)).astype(np.float16),
        "n": np.array(2**40 + 1),
    }
    driver = StrategyDriver(RunConfig.parse({"strategy": strategy}))
    driver.messages(1, sent, [101], federation.grid)
    content = RecordDict({"arrays": to_record(sent), "metrics": MetricRecord({"num-examples": 17})})
    made, _ = driver._strategy.aggregate_train(1, [Message(content, dst_node_id=1, message_type="train")])
    assert made is not None
    flower = {name: in_dtype(values, sent[name].dtype) for name, values in to_arrays(made).items()}
    assert {name: values.tobytes() for name, values in flower.items()} == {name: each.tobytes() for name, each in sent.items()}
    assert list(flower) == list(sent)


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam", "qfedavg"])
def test_updates_whose_sum_leaves_the_range_of_numbers_make_no_model(
    make_federation: MakeFederation, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    monkeypatch.setattr("flower_app.accumulate.DOUBLE_UP_TO_BYTES", 0)
    federation = make_federation(strategy=strategy)
    for node in federation.grid.nodes.values():
        node.answer = replaced({"weight": np.full((4, 3), 3e38, np.float32), "steps": np.array(1)})
    sentence = f"strategy {strategy} made NaN or Inf in array weight of 3 updates that had none: .* Set max-update-norm"
    with pytest.raises(ModelNotFinite, match=sentence):
        federation.run()
    assert federation.journal("run.closed")[-1]["cause"]["type"] == "ModelNotFinite"
    assert federation.journal("round.closed") == []


def test_a_mean_becomes_the_next_model_where_its_sums_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flower_app.accumulate.DOUBLE_UP_TO_BYTES", 0)
    driver = StrategyDriver(RunConfig.parse({"strategy": "fedavg"}))
    model: Arrays = {f"w{number}": np.ones(500_000, np.float32) for number in range(4)}
    gathered = driver.gathering(model)
    gathered.add(Contribution(101, model, 10, {}, 10.0))
    tracemalloc.start()
    made = driver.aggregate(1, gathered, model)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert made["w3"].sum() == 500_000
    assert peak < 500_000  # of a model of 8 MB


@pytest.mark.parametrize("strategy", sorted(RULES))
def test_a_run_cut_in_two_ends_as_one_in_one_piece(make_federation: MakeFederation, strategy: str) -> None:
    undisturbed = make_federation("undisturbed", strategy=strategy, num_rounds=5)
    undisturbed.run()
    cut = make_federation("cut", strategy=strategy, num_rounds=5)
    cut.clock.after(2.5, lambda: cut.want("stop"))
    cut.run(attempt=1)
    cut.want("run")
    cut.run(attempt=2)
    assert cut.journal("run.opened")[1]["resumed_after"] == 2
    commits = [[each["commit"]["sha256"] for each in run.journal("round.closed")] for run in (cut, undisturbed)]
    assert commits[0] == commits[1]
    expected = {f"{part}/{name}" for part in RULES[strategy].memory for name in ("weight", "steps")}
    assert set(last_commit(cut).state) == expected


@pytest.mark.parametrize(
    ("strategy", "state", "sentence"),
    [
        ("fedavg", ["m_t/w"], r"carries the state \['m_t'\], strategy fedavg goes on from \[\]"),
        ("fedadam", [], r"carries the state \[\], strategy fedadam goes on from \['m_t', 'v_t'\]"),
        ("fedadam", ["m_t/w"], r"carries the state \['m_t'\], strategy fedadam goes on from \['m_t', 'v_t'\]"),
    ],
)
def test_a_commit_of_another_memory_is_refused(strategy: str, state: list[str], sentence: str) -> None:
    with pytest.raises(RuntimeError, match=sentence):
        StrategyDriver(RunConfig.parse({"strategy": strategy})).restore({key: np.zeros(1) for key in state}, {})


def test_fedprox_sends_its_weight_with_each_message_and_no_other_strategy_does(make_federation: MakeFederation) -> None:
    for strategy, expected in (("fedprox", {0.3}), ("fedavg", {None}), ("fedadam", {None})):
        federation = make_federation(strategy, strategy=strategy, proximal_mu=0.3)
        federation.run()
        messages = [message for node in federation.grid.nodes.values() for message in node.seen]
        assert len(messages) == 9
        assert {message.content.config_records["config"].get("proximal-mu") for message in messages} == expected


@pytest.mark.usefixtures("one_thread")
def test_fedprox_pulls_the_next_model_toward_the_one_that_was_sent(make_federation: MakeFederation) -> None:
    def model(name: str, **config: Any) -> Any:
        federation = make_federation(name, workload="tabular", num_rounds=1, **config)
        federation.run()
        return load_file(federation.root / "models/final.safetensors")

    first = make_workload(RunConfig.parse({"workload": "tabular"})).initial_arrays()
    free = model("free", strategy="fedavg")
    models = [model(f"mu {mu}", strategy="fedprox", proximal_mu=mu) for mu in (0.0, 0.1, 1.0, 10.0)]
    assert all(np.array_equal(models[0][name], free[name]) for name in first)
    distances = [float(sum(np.square(each[name] - first[name]).sum() for name in first)) for each in models]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < distances[0] / 10
