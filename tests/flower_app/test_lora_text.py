"""`lora-text` on an encoder of a few thousand weights: what travels, what it costs, and that it learns."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from flower_app.accumulate import Contribution
from flower_app.config import ConfigError, RunConfig
from flower_app.engine import RoundFailed
from flower_app.products import ProductMean
from flower_app.workloads.data_dirs import DataMissing
from flower_app.workloads.lora_text import LoraText
from peft.tuners.lora import LoraLayer
from safetensors.numpy import load_file, save_file

from tests.flower_app.tiny_models import rated_sentences, tiny_bert

if TYPE_CHECKING:
    from tests.flower_app.conftest import MakeEnv, MakeFederation

pytestmark = pytest.mark.usefixtures("one_thread", "data")

CPU = torch.device("cpu")
TINY: dict[str, Any] = {"base-model": "tiny-bert", "lora-r": 4, "lora-alpha": 8.0, "num-layers": 2, "lr": 0.02, "eval-share": 0.2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    tiny_bert(folder / "tiny-bert")
    rated_sentences(folder / "vader-sentiment")
    return folder


@pytest.fixture
def data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPALIER_DATA_DIRS", str(folder))


def workload(**config: Any) -> LoraText:
    return LoraText(RunConfig.parse(TINY | {key.replace("_", "-"): value for key, value in config.items()}))


def test_adapters_and_head_travel_and_the_model_stays() -> None:
    tuned = workload()
    arrays = tuned.initial_arrays()
    layers = ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
    names = [f"base_model.model.bert.encoder.layer.{layer}.{name}" for layer in (0, 1) for name in layers]
    factors = [f"{name}.{factor}.weight" for name in names for factor in ("lora_A", "lora_B")]
    assert list(arrays) == [*factors, "base_model.model.classifier.weight", "base_model.model.classifier.bias"]
    assert {values.dtype for values in arrays.values()} == {np.dtype(np.float32)}
    assert tuned.products() == [(f"{name}.lora_B.weight", f"{name}.lora_A.weight") for name in names]
    parameters, size = tuned.whole_model()
    assert parameters == sum(each.numel() for each in tuned.pretrained.loaded(CPU, tuned.head).parameters())
    assert size == 4 * parameters > 2 * sum(values.nbytes for values in arrays.values())


def test_the_first_model_is_the_base_models_own_and_comes_from_the_seed_alone() -> None:
    arrays, again = workload().initial_arrays(), workload().initial_arrays()
    assert all(np.array_equal(values, again[name]) for name, values in arrays.items())
    assert all(not values.any() for name, values in arrays.items() if ".lora_B." in name), "the product is 0 at first"
    first = next(values for name, values in arrays.items() if ".lora_A." in name)
    assert first.std() == pytest.approx(32**-0.5 / 3**0.5, rel=0.2), "uniform within 1/sqrt(inputs), as peft draws it"
    other = workload(seed=43).initial_arrays()
    assert not np.array_equal(first, next(iter(other.values())))


def test_a_site_trains_its_own_domain_and_the_seed_decides(make_env: MakeEnv) -> None:
    tuned = workload(local_steps=3)
    arrays = tuned.initial_arrays()
    before = {name: values.copy() for name, values in arrays.items()}
    trained = tuned.train(arrays, {}, make_env(1, num_partitions=4))
    assert trained.num_examples == len(tuned.own_texts(make_env(1, num_partitions=4))[0]) == 38
    assert len(set(tuned.own_texts(make_env(1, num_partitions=4))[0].groups)) == 1
    assert all(np.array_equal(values, before[name]) for name, values in arrays.items()), "what arrived is left alone"
    assert all(not np.array_equal(values, before[name]) for name, values in trained.arrays.items())
    again = workload(local_steps=3).train(arrays, {}, make_env(1, num_partitions=4))
    assert all(np.array_equal(values, again.arrays[name]) for name, values in trained.arrays.items())
    parameters, size = tuned.whole_model()
    adapters = sum(values.size for values in arrays.values())
    assert trained.metrics["trainable_share"] == adapters / (parameters + adapters), "as peft counts"
    assert trained.metrics["whole_bytes"] == size
    assert trained.metrics["step_s"] > 0
    assert (trained.facts["lora_r"], trained.facts["steps"]) == (4, 3)


def test_rounds_over_four_domains_learn_with_either_aggregation(make_federation: MakeFederation) -> None:
    for how in ("svd", "ffa"):
        config = TINY | {"workload": "lora-text", "num-rounds": 2, "local-steps": 30, "min-available": 4, "lora-aggregation": how}
        federation = make_federation(how, **{key.replace("-", "_"): value for key, value in config.items()})
        federation.grid.add(104)
        for node in federation.grid.nodes.values():
            node.config["num-partitions"] = 4
        federation.run()
        (opened,) = federation.journal("run.opened")
        assert opened["model"]["whole_size_bytes"] > 2 * opened["model"]["size_bytes"]
        assert federation.read("history.json")[-1]["accuracy"] > 0.8, how
        closed = federation.journal("round.closed")[-1]
        assert {"accuracy_movie", "accuracy_nyt", "accuracy_tweets", "accuracy_amazon"} <= set(closed["server_metrics"])
        assert closed["metrics"]["eval_accuracy"] > 0.6


def test_quick_scores_are_of_a_few_texts_the_same_ones_each_time() -> None:
    tuned = workload()
    arrays = tuned.initial_arrays()
    scores = tuned.quick_evaluate(arrays, 8)
    assert tuned.quick_evaluate(arrays, 8) == scores
    assert {scores[f"accuracy_{domain}"] for domain in ("movie", "nyt", "tweets", "amazon")} <= {0.0, 0.5, 1.0}, "two of each"
    assert scores["accuracy"] != tuned.server_evaluate(arrays)["accuracy"]


def test_under_ffa_only_b_travels_and_every_site_makes_the_same_a(make_env: MakeEnv) -> None:
    frozen, both = workload(lora_aggregation="ffa"), workload()
    arrays = frozen.initial_arrays()
    assert not any(".lora_A." in name for name in arrays)
    assert frozen.products() == []
    assert (
        1.8 < sum(values.size for values in both.initial_arrays().values()) / sum(values.size for values in arrays.values()) < 2
    )
    trained = frozen.train(arrays, {}, make_env())
    assert trained.arrays.keys() == arrays.keys()
    model = frozen.model(4, CPU)
    factors = {name: values.clone() for name, values in model.state_dict().items() if ".lora_A." in name}
    again = workload(lora_aggregation="ffa", seed=7)
    again.train(again.initial_arrays(), {}, make_env(2))
    for name, values in again.model(4, CPU).state_dict().items():
        if ".lora_A." in name:
            torch.testing.assert_close(
                values, factors[name], rtol=0, atol=0, msg="whatever the run's seed, or an initial model is lost"
            )


def test_a_site_may_train_at_a_smaller_rank_with_the_runs_scaling(make_env: MakeEnv) -> None:
    tuned = workload(local_steps=2)
    arrays = tuned.initial_arrays()
    for name, values in arrays.items():
        if ".lora_B." in name:
            arrays[name] = np.random.default_rng(1).normal(0, 0.1, values.shape).astype(np.float32)
    trained = tuned.train(arrays, {}, make_env(node_config={"lora-r": 2}))
    name_b, name_a = tuned.products()[0]
    assert (trained.arrays[name_b].shape, trained.arrays[name_a].shape) == ((32, 2), (2, 32))
    first = next(tuned.model(2, CPU).parameters())
    for rank in (2, 4):
        layers = [module for module in tuned.model(rank, CPU).modules() if isinstance(module, LoraLayer)]
        assert {layer.scaling["default"] for layer in layers} == {2.0}
        assert {layer.r["default"] for layer in layers} == {rank}
    assert next(tuned.model(4, CPU).parameters()) is first, "the base model is there once"
    mean = ProductMean(arrays, tuned.products())
    full = tuned.train(arrays, {}, make_env(1))
    assert full.arrays[name_b].shape == (32, 4)
    mean.add(Contribution(1, full.arrays, full.num_examples, {}, 1.0))
    assert mean.hand_over()[name_b].shape == (32, 4)


@pytest.mark.parametrize(
    ("rank", "how", "sentence"),
    [
        (9, "svd", 'lora-r of node "a" needs to lie in 1..4, the run\'s, got 9'),
        (0, "svd", 'lora-r of node "a" needs to lie in 1..4, the run\'s, got 0'),
        ("2", "svd", "lora-r of node \"a\" needs to lie in 1..4, the run's, got '2'"),
        (2, "avg", 'lora-r of node "a" is 2, and lora-aggregation avg needs the run\'s, 4'),
        (2, "ffa", 'lora-r of node "a" is 2, and lora-aggregation ffa needs the run\'s, 4'),
    ],
)
def test_a_rank_that_cannot_be_is_refused(rank: Any, how: str, sentence: str, make_env: MakeEnv) -> None:
    tuned = workload(lora_aggregation=how)
    with pytest.raises(ConfigError) as raised:
        tuned.train(tuned.initial_arrays(), {}, make_env(node_config={"lora-r": rank}))
    assert str(raised.value) == sentence


def test_without_adapters_the_whole_model_is_trained_and_sent(make_env: MakeEnv) -> None:
    whole = workload(lora_r=0, local_steps=2)
    arrays = whole.initial_arrays()
    assert sum(values.size for values in arrays.values()) == whole.whole_model()[0]
    assert whole.products() == []
    with pytest.raises(ConfigError, match='lora-r of node "a" is 2, and the run has lora-r 0: it trains the whole model'):
        whole.train(arrays, {}, make_env(node_config={"lora-r": 2}))
    trained = whole.train(arrays, {}, make_env())
    assert trained.metrics["trainable_share"] == 1
    assert not np.array_equal(
        trained.arrays["bert.encoder.layer.0.output.dense.weight"], arrays["bert.encoder.layer.0.output.dense.weight"]
    )


def test_only_as_many_layers_as_wanted_are_built() -> None:
    assert any("layer.2." in name for name in workload(num_layers=0).initial_arrays())
    assert not any("layer.1." in name for name in workload(num_layers=1).initial_arrays())


@pytest.mark.parametrize(
    ("targets", "sentence"),
    [
        ("nosuch", "lora-targets nosuch cannot be adapted: "),
        ("word_embeddings", "lora-targets names layers that are not linear: "),
    ],
)
def test_a_target_that_cannot_be_adapted_is_named(targets: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        workload(lora_targets=targets).initial_arrays()
    assert str(raised.value).startswith(sentence)


def test_chosen_targets_are_adapted_alone() -> None:
    arrays = workload(lora_targets="query, intermediate.dense").initial_arrays()
    adapted = {name.partition(".layer.")[2].partition(".lora")[0][2:] for name in arrays if ".lora_" in name}
    assert adapted == {"attention.self.query", "intermediate.dense"}


def test_a_server_optimizer_is_refused_beside_svd_and_goes_with_avg(make_federation: MakeFederation) -> None:
    config = {key.replace("-", "_"): value for key, value in TINY.items()} | {"workload": "lora-text", "strategy": "fedadam"}
    refused = make_federation("refused", **config)
    with pytest.raises(ConfigError, match="lora-aggregation"):
        refused.run()
    allowed = make_federation("allowed", **config, lora_aggregation="avg", num_rounds=1, local_steps=1)
    allowed.run()
    assert allowed.journal("run.closed")[0]["status"] == "completed"


def test_missing_data_fail_the_run_and_say_how_to_get_them(
    make_federation: MakeFederation, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPALIER_DATA_DIRS", str(tmp_path))
    with pytest.raises(
        DataMissing, match=r"no base model tiny-bert in .*; fetch it with `python -m flower_app\.fetch lora-text`"
    ):
        workload().initial_arrays()
    (tmp_path / "tiny-bert").symlink_to(folder / "tiny-bert")
    config = {key.replace("-", "_"): value for key, value in TINY.items()}
    federation = make_federation(workload="lora-text", **config)
    with pytest.raises(RoundFailed, match=r"site-a: DataMissing: there is no vader-sentiment in .*fetch it with"):
        federation.run()
    assert workload().server_evaluate(workload().initial_arrays()) == {}, "a coordinator may have no texts"


def test_torch_is_asked_for_this_nodes_threads(make_env: MakeEnv) -> None:
    torch.set_num_threads(1)
    workload().prepare(make_env(threads=2))
    assert torch.get_num_threads() == 2


def test_layers_that_stay_as_they_are_drop_nothing() -> None:
    kept, whole = workload().pretrained.form, workload(lora_r=0).pretrained.form
    assert (kept.hidden_dropout_prob, kept.attention_probs_dropout_prob) == (0.0, 0.0)
    assert (whole.hidden_dropout_prob, whole.attention_probs_dropout_prob) == (0.1, 0.1)


def test_a_base_model_that_lacks_weights_is_refused_where_they_would_not_travel(folder: Path, make_env: MakeEnv) -> None:
    lacking = folder / "no-pooler"
    shutil.copytree(folder / "tiny-bert", lacking)
    tensors = load_file(lacking / "model.safetensors")
    save_file(
        {name: values for name, values in tensors.items() if "pooler" not in name},
        lacking / "model.safetensors",
        {"format": "pt"},
    )
    tuned = workload(base_model="no-pooler")
    with pytest.raises(ConfigError, match=r"base-model no-pooler has no weights for bert\.pooler\.dense\.bias, and what is not"):
        tuned.train(tuned.initial_arrays(), {}, make_env())
    first, second = (workload(base_model="no-pooler", lora_r=0).initial_arrays() for _ in range(2))
    np.testing.assert_array_equal(first["bert.pooler.dense.weight"], second["bert.pooler.dense.weight"])


def test_what_the_model_cannot_read_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="max-length is 65, and base-model tiny-bert reads 64 tokens at most"):
        workload(max_length=65).initial_arrays()
    strange = folder / "strange"
    shutil.copytree(folder / "tiny-bert", strange)
    form = json.loads((strange / "config.json").read_text())
    form |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}
    (strange / "config.json").write_text(json.dumps(form))
    (strange / "own.py").write_text("raise SystemExit('code of a model ran')")
    with pytest.raises(ConfigError, match="base-model strange cannot be used: "):
        workload(base_model="strange").initial_arrays()


def test_a_server_whose_texts_cannot_be_scored_says_so_and_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ESPALIER_DATA_DIRS", f"{tmp_path}:{folder}")
    (tmp_path / "vader-sentiment").mkdir()
    tuned = workload()
    arrays = tuned.initial_arrays()
    assert tuned.server_evaluate(arrays) == tuned.quick_evaluate(arrays, 4) == {}
    assert capsys.readouterr().out.count("the server scores no model: ") == 1
