"""Flower's strategies in the engine: FedProx's weight reaches the sites, FedAdam's numbers and memory are Flower's own."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from flower_app.client_app import app as client_app
from flower_app.commit import Commit, CommitFolder
from flower_app.config import RunConfig
from flower_app.rules import RULES
from flower_app.strategies import OfferedNodes, StrategyDriver
from flower_app.wire import to_record
from flower_app.workloads import make_workload
from flwr.app import ConfigRecord, Context, Message
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
    from tests.flower_app.conftest import Federation, MakeFederation


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
