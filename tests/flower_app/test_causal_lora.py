"""`causal-lora` on a model of a few thousand weights, and on texts of one's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from flower_app.config import ConfigError, RunConfig
from flower_app.workloads.causal_lora import CausalLora
from flower_app.workloads.data_dirs import DataMissing
from flower_app.workloads.guards import DataUnfit
from flower_app.workloads.texts import IGNORED
from transformers import LlamaConfig, LlamaForCausalLM

from tests.flower_app.tiny_models import own_texts, tiny_llama

if TYPE_CHECKING:
    from tests.flower_app.conftest import MakeEnv, MakeFederation

pytestmark = pytest.mark.usefixtures("one_thread", "data")

CPU = torch.device("cpu")
TINY: dict[str, Any] = {"workload": "causal-lora", "base-model": "tiny-llama", "dataset": "texts", "lora-r": 4, "lr": 0.03}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    tiny_llama(folder / "tiny-llama")
    own_texts(folder / "texts")
    return folder


@pytest.fixture
def data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPALIER_DATA_DIRS", str(folder))


def workload(**config: Any) -> CausalLora:
    return CausalLora(RunConfig.parse(TINY | {key.replace("_", "-"): value for key, value in config.items()}))


def test_three_files_are_three_groups_and_a_run_learns_them(make_federation: MakeFederation) -> None:
    config = {key.replace("-", "_"): value for key, value in TINY.items()} | {"lr": 0.01}
    federation = make_federation(**config, num_rounds=3, local_steps=8, lora_targets="up_proj,down_proj,lm_head")
    federation.run()
    history = federation.read("history.json")
    untrained = history[0]["client_loss"]
    assert history[-1]["server_loss"] < untrained - 0.5, "of the model that the first round started from"
    assert history[-1]["server_loss"] is not None
    sites = [each["num_examples"] for each in federation.journal("update")[:3]]
    assert sum(sites) == 61
    assert min(sites) > 15


def test_the_loss_is_transformers_own_and_a_prompt_does_not_count() -> None:
    tuned = workload()
    texts = tuned.texts()
    tokens = tuned.tokens(texts)
    asked = next(place for place, group in enumerate(texts.groups) if group == "asked")
    batch = tokens.batch([asked, 0], torch.device("cpu"))
    assert (batch["labels"][0] == IGNORED).sum() == 5, "the film was good and"
    model = tuned.pretrained.loaded(CPU, tuned.head).eval()
    with torch.inference_mode():
        loss, right, count = tuned.loss(model, batch, torch.zeros(2, dtype=torch.int64))
        theirs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]).loss
    torch.testing.assert_close(loss, theirs)
    assert count == int((batch["labels"][:, 1:] != IGNORED).sum())
    assert 0 <= int(right) <= count


def test_a_text_is_cut_to_max_length_and_ends_with_the_ends_token() -> None:
    tuned = workload(max_length=3)
    assert {len(ids) for ids in tuned.tokens(tuned.texts()).ids} == {3}
    whole = workload()
    assert {ids[-1] for ids in whole.tokens(whole.texts()).ids} == {whole.pretrained.tokenizer.eos_token_id}


def test_own_texts_stay_where_they_are_under_local(make_env: MakeEnv) -> None:
    tuned = workload(partitioner="local")
    kept, held = tuned.own_texts(make_env(2))
    assert len(kept) + len(held) == len(tuned.texts()) == 96
    assert tuned.server_evaluate(tuned.initial_arrays()) == {}


@pytest.mark.parametrize("key", ["base-model", "dataset"])
def test_what_it_cannot_do_without_is_named(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} is empty: causal-lora needs"):
        CausalLora(RunConfig.parse(TINY | {key: ""}))


@pytest.mark.parametrize("line", ['{"txt": "a"}', "no json", '["text"]', '{"prompt": "a"}'])
def test_a_line_that_is_no_example_is_named(line: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPALIER_DATA_DIRS", f"{tmp_path}:{folder}")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "own.jsonl").write_text(f'{{"text": "a"}}\n\n{line}\n')
    with pytest.raises(
        DataUnfit, match=r'line 3 of texts/own\.jsonl needs to be a JSON object with "text", or "prompt" and "completion"'
    ):
        workload().texts()
    with pytest.raises(DataMissing, match=r"there is no nosuch in .*; put the site's texts there"):
        workload(dataset="nosuch").texts()


def test_what_trains_is_float32_whatever_the_files_hold(folder: Path, make_env: MakeEnv) -> None:
    tuned = workload(local_steps=1, lora_r=0)
    arrays = tuned.initial_arrays()
    assert {values.dtype for values in arrays.values()} == {np.dtype(np.float32)}
    assert not np.array_equal(tuned.train(arrays, {}, make_env()).arrays["lm_head.weight"], arrays["lm_head.weight"])


def test_texts_of_which_nothing_counts_take_no_part(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_env: MakeEnv
) -> None:
    monkeypatch.setenv("ESPALIER_DATA_DIRS", f"{tmp_path}:{folder}")
    (tmp_path / "texts").mkdir()
    long = json.dumps({"prompt": "the film was very very very very good", "completion": " and great"})
    short = json.dumps({"prompt": "the film", "completion": " was good"})
    (tmp_path / "texts" / "asked.jsonl").write_text("\n".join([long] * 15 + [short] * 15))
    tuned = workload(max_length=6, partitioner="local", batch_size=1, local_steps=24)
    trained = tuned.train(tuned.initial_arrays(), {}, make_env())
    assert np.isfinite(trained.metrics["loss"])
    (tmp_path / "texts" / "asked.jsonl").write_text("\n".join([long] * 30))
    tuned = workload(max_length=6, partitioner="local")
    arrays = tuned.initial_arrays()
    assert tuned.evaluate(arrays, {}, make_env()).num_examples == 0
    with pytest.raises(DataUnfit, match='node "a": no token of 24 texts counts within max-length 6'):
        tuned.train(arrays, {}, make_env())


def test_an_array_that_two_layers_share_travels_once(folder: Path, make_env: MakeEnv) -> None:
    form = LlamaConfig.from_pretrained(folder / "tiny-llama", tie_word_embeddings=True)
    LlamaForCausalLM(form).save_pretrained(folder / "tied")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / "tiny-llama" / file, folder / "tied")
    tuned = workload(base_model="tied", lora_r=0, local_steps=2)
    arrays = tuned.initial_arrays()
    assert sum(values.size for values in arrays.values()) == tuned.whole_model()[0]
    trained = tuned.train(arrays, {}, make_env())
    assert trained.arrays.keys() == arrays.keys()
    assert trained.metrics["trainable_share"] == 1
