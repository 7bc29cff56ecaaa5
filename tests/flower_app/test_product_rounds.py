"""Runs that average products: what refuses what, mixed ranks, late updates, and the same bits after a crash."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from flower_app.client_app import app as client_app
from flower_app.config import ConfigError
from flower_app.limits import UpdatesDoNotFit
from flower_app.products import NoProduct
from flower_app.rules import RULES
from flwr.app import Context, Message
from safetensors.numpy import load_file

if TYPE_CHECKING:
    from tests.flower_app.conftest import Federation, MakeFederation

ADAPTERS = "toy_adapters:Adapters"


def commits(federation: Federation) -> list[str]:
    return [each["commit"]["sha256"] for each in federation.journal("round.closed")]


def final(federation: Federation) -> Any:
    return load_file(federation.root / "models/final.safetensors")


def keep_answers(federation: Federation) -> dict[str, Any]:
    """Give, while the run goes on, each answer's arrays by "round/node"."""
    answers: dict[str, Any] = {}

    def kept(message: Message, context: Context) -> Message:
        reply: Message = client_app(message, context)
        key = f"{message.metadata.group_id}/{context.node_id}"
        answers[key] = {name: array.numpy() for name, array in reply.content.array_records["arrays"].items()}
        return reply

    for node in federation.grid.nodes.values():
        node.answer = kept
    return answers


def nearest(products: list[Any], weights: list[float], rank: int = 3) -> Any:
    u, s, vt = np.linalg.svd(np.average(products, axis=0, weights=weights), full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vt[:rank]


def test_the_next_product_is_the_nearest_one_to_the_mean_of_the_sites(make_federation: MakeFederation) -> None:
    federation = make_federation(workload=ADAPTERS, num_rounds=1)
    answers = keep_answers(federation)
    federation.run()
    model, sent = final(federation), [answers[f"1/{node}"] for node in (101, 102, 103)]
    expected = nearest([each["layer.B"] @ each["layer.A"] for each in sent], [10, 20, 30])
    np.testing.assert_allclose(model["layer.B"] @ model["layer.A"], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model["bias"], np.full(9, (20 * 1 + 30 * 2) / 60), rtol=1e-6)


def test_under_avg_and_ffa_each_array_is_the_mean_of_its_own(make_federation: MakeFederation) -> None:
    for aggregation in ("avg", "ffa"):
        federation = make_federation(aggregation, workload=ADAPTERS, num_rounds=1, lora_aggregation=aggregation)
        answers = keep_answers(federation)
        federation.run()
        for name, values in final(federation).items():
            expected = np.average([answers[f"1/{node}"][name] for node in (101, 102, 103)], axis=0, weights=[10, 20, 30])
            np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)


def test_training_goes_on_from_what_it_made_and_ends_nearer_than_with_avg(make_federation: MakeFederation) -> None:
    losses = {}
    for aggregation in ("svd", "avg"):
        federation = make_federation(aggregation, workload=ADAPTERS, num_rounds=4, lora_aggregation=aggregation)
        federation.run()
        losses[aggregation] = [each["server_metrics"]["loss"] for each in federation.journal("round.closed")]
    assert losses["svd"][0] > losses["svd"][-1]
    assert losses["svd"][-1] < losses["avg"][-1]


def test_the_order_of_arrival_does_not_show(make_federation: MakeFederation) -> None:
    runs = []
    for delays in ((1.0, 3.0, 5.0), (5.0, 1.0, 3.0), (3.0, 5.0, 1.0)):
        federation = make_federation(f"{delays}", workload=ADAPTERS)
        for node, delay_s in zip(federation.grid.nodes.values(), delays, strict=True):
            node.delay_s = delay_s
        federation.run()
        runs.append(commits(federation))
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox"])
def test_a_run_cut_in_two_ends_with_the_bits_of_one_in_one_piece(make_federation: MakeFederation, strategy: str) -> None:
    undisturbed = make_federation("undisturbed", workload=ADAPTERS, strategy=strategy, num_rounds=5)
    undisturbed.run()
    cut = make_federation("cut", workload=ADAPTERS, strategy=strategy, num_rounds=5)
    cut.clock.after(2.5, lambda: cut.want("stop"))
    cut.run(attempt=1)
    cut.want("run")
    cut.run(attempt=2)
    assert cut.journal("run.opened")[1]["resumed_after"] == 2
    assert commits(cut) == commits(undisturbed)


def test_sites_may_have_smaller_ranks_and_their_bytes_are_those_that_came(make_federation: MakeFederation) -> None:
    federation = make_federation(workload=ADAPTERS, num_rounds=2)
    for node, rank in zip(federation.grid.nodes.values(), (1, 2, 3), strict=True):
        node.config["rank"] = rank
    answers = keep_answers(federation)
    federation.run()
    assert [each["counted"] for each in federation.journal("round.closed")] == [3, 3]
    assert answers["1/101"]["layer.B"].shape == (9, 1)
    came = [each["bytes_up"] for each in federation.journal("update") if each["round"] == 1]
    assert [came[1] - came[0], came[2] - came[1]] == [(9 + 7) * 4] * 2
    sent = [answers[f"2/{node}"] for node in (101, 102, 103)]
    expected = nearest([each["layer.B"] @ each["layer.A"] for each in sent], [10, 20, 30])
    np.testing.assert_allclose(final(federation)["layer.B"] @ final(federation)["layer.A"], expected, rtol=1e-4, atol=1e-5)


def test_a_rank_that_the_model_cannot_take_is_refused_and_recorded(make_federation: MakeFederation) -> None:
    federation = make_federation(workload=ADAPTERS, num_rounds=1, lora_aggregation="avg")
    federation.grid.nodes[101].config["rank"] = 2
    federation.run()
    (refused,) = [each for each in federation.journal("update") if each["status"] == "refused"]
    assert refused["cause"]["message"] == "array layer.A has shape (2, 7), the model's is (3, 7)"


def test_a_late_update_counts_with_its_product_discounted(make_federation: MakeFederation) -> None:
    federation = make_federation(workload=ADAPTERS, num_rounds=2, late="carry", k_of_n=2, staleness_alpha=1.0)
    federation.grid.nodes[103].delay_s = 1.5
    federation.grid.nodes[103].config["rank"] = 2
    answers = keep_answers(federation)
    federation.clock.after(0.5, lambda: federation.want("pause"))  # so that round 2 begins when the late one is there
    federation.clock.after(4.0, lambda: federation.want("run"))
    federation.run()
    assert [each["carried"] for each in federation.journal("round.closed")] == [0, 1]
    sent = [answers[key] for key in ("2/101", "2/102", "1/103")]
    expected = nearest([each["layer.B"] @ each["layer.A"] for each in sent], [10, 20, 30 / 2])
    np.testing.assert_allclose(final(federation)["layer.B"] @ final(federation)["layer.A"], expected, rtol=1e-4, atol=1e-5)


STEPS = "steps along the difference of two models, which says nothing where both factors were made anew"
WORKS = "works on the numbers of each factor, of which only the product counts"


@pytest.mark.parametrize("strategy", sorted(name for name, rule in RULES.items() if not rule.is_mean))
def test_a_strategy_whose_model_is_not_the_mean_is_refused_before_anything_is_sent(
    make_federation: MakeFederation, strategy: str
) -> None:
    federation = make_federation(workload=ADAPTERS, strategy=strategy)
    with pytest.raises(ConfigError) as raised:
        federation.run()
    assert str(raised.value) == (
        f"lora-aggregation = svd averages the products of factors, and strategy = {strategy} "
        f"{STEPS if RULES[strategy].streams else WORKS}: choose lora-aggregation = avg or ffa, or strategy = fedavg or fedprox"
    )
    assert [each["kind"] for each in federation.journal()] == ["run.closed"]
    assert not any(node.seen for node in federation.grid.nodes.values())


@pytest.mark.parametrize(
    "config",
    [
        {"workload": ADAPTERS, "lora_aggregation": "avg"},
        {"workload": ADAPTERS, "lora_aggregation": "ffa"},
        {"workload": "toy_adapters:Whole"},
        {"workload": "toy_workload:Toy"},
    ],
)
def test_where_no_products_are_averaged_any_strategy_goes(make_federation: MakeFederation, config: dict[str, Any]) -> None:
    federation = make_federation(strategy="fedadam", num_rounds=1, **config)
    federation.run()
    assert federation.journal("run.closed")[0]["status"] == "completed"


def test_a_workload_that_names_no_factors_is_told_so_before_anything_is_sent(make_federation: MakeFederation) -> None:
    federation = make_federation(workload="toy_adapters:Wrong")
    with pytest.raises(NoProduct, match=r"needs floats of shapes \(outputs, rank\) and \(rank, inputs\), names layer.A float32"):
        federation.run()
    assert [each["kind"] for each in federation.journal()] == ["run.closed"]


def test_factors_that_do_not_fit_are_refused_or_fewer_nodes_asked(make_federation: MakeFederation) -> None:
    tight = make_federation("tight", workload="toy_adapters:Big", server_memory_limit_mb=20)
    with pytest.raises(UpdatesDoNotFit, match="svd holds the factors of all updates of a round"):
        tight.run()
    assert tight.journal("round.opened") == []
    fewer = make_federation("fewer", workload="toy_adapters:Big", server_memory_limit_mb=20, min_available=2, num_rounds=1)
    fewer.run()
    assert fewer.journal("round.opened")[0]["nodes"] == ["101", "102"]


def test_the_journal_says_of_how_large_a_model_the_factors_are_a_part(make_federation: MakeFederation) -> None:
    federation = make_federation(workload=ADAPTERS, num_rounds=1)
    federation.run()
    assert federation.journal("run.opened")[0]["model"] == {
        "parameters": 9 + 9 * 3 + 3 * 7, "size_bytes": 4 * 57, "whole_parameters": 1000, "whole_size_bytes": 4000,
    }  # fmt: skip
