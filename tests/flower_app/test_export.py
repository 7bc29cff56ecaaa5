"""The final adapters as peft's own files: what PeftModel.from_pretrained reads back computes what the run has trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from flower_app import export
from flower_app.config import RunConfig
from flower_app.tensor_file import read_tensors
from flower_app.workloads import make_workload
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from tests.flower_app.tiny_models import own_texts, rated_sentences, tiny_bert, tiny_llama

if TYPE_CHECKING:
    from tests.flower_app.conftest import Federation, MakeFederation

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),  # peft 0.21 asks transformers for it
]

CPU = torch.device("cpu")
KINDS = {"lora-text": AutoModelForSequenceClassification, "causal-lora": AutoModelForCausalLM}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny_bert(tmp_path / "tiny-bert")
    tiny_llama(tmp_path / "tiny-llama")
    rated_sentences(tmp_path / "vader-sentiment")
    own_texts(tmp_path / "texts")
    monkeypatch.setenv("ESPALIER_DATA_DIRS", str(tmp_path))
    return tmp_path


def trained(make_federation: MakeFederation, workload: str, base: str, **config: Any) -> Federation:
    config |= {"dataset": "texts"} if workload == "causal-lora" else {}
    federation = make_federation(workload=workload, base_model=base, lora_r=4, num_rounds=1, local_steps=4, lr=0.02, **config)
    federation.run()
    return federation


def logits(model: torch.nn.Module) -> np.ndarray[Any, Any]:
    with torch.inference_mode():
        answer: torch.Tensor = model.eval()(input_ids=torch.arange(2, 12)[None]).logits
    return answer.numpy()


@pytest.mark.parametrize(
    ("name", "base", "how"),
    [("lora-text", "tiny-bert", "svd"), ("lora-text", "tiny-bert", "ffa"), ("causal-lora", "tiny-llama", "svd")],
)
def test_what_peft_reads_back_is_what_was_trained(
    name: str, base: str, how: str, make_federation: MakeFederation, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    federation = trained(make_federation, name, base, lora_aggregation=how)
    adapters, merged = folder / "adapters", folder / "merged"
    assert export.main([str(federation.root), "--to", str(adapters)]) == 0
    assert "adapter_config.json, adapter_model.safetensors" in capsys.readouterr().out
    assert str(folder) not in (adapters / "adapter_config.json").read_text()
    assert export.main([str(federation.root), "--to", str(merged), "--merged"]) == 0

    arrays, _ = read_tensors(federation.root / "models" / "final.safetensors")
    workload: Any = make_workload(RunConfig.parse(federation.read("config.json")))
    ours = logits(workload.loaded(arrays, 4, CPU))
    read = PeftModel.from_pretrained(KINDS[name].from_pretrained(folder / base), adapters)
    np.testing.assert_allclose(logits(read), ours, rtol=1e-5, atol=1e-6)
    assert not np.allclose(ours, logits(KINDS[name].from_pretrained(folder / base)), atol=1e-4), "training has changed something"
    np.testing.assert_allclose(logits(KINDS[name].from_pretrained(merged)), ours, rtol=1e-4, atol=1e-5)
    assert AutoTokenizer.from_pretrained(merged).vocab_size > 10


def test_what_cannot_be_exported_is_told_in_a_line(
    make_federation: MakeFederation, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*arguments: str) -> str:
        assert export.main([*arguments, "--to", str(folder / "out")]) == 1
        return capsys.readouterr().err

    federation = trained(make_federation, "lora-text", "tiny-bert")
    assert "there is no such run or model" in told(str(folder / "nowhere"))
    assert "there is no such run or model" in told(str(federation.root), "--model", "round_0009")
    cut = trained(make_federation, "lora-text", "tiny-bert", name="cut", num_layers=2)
    assert "num-layers has cut the base model" in told(str(cut.root))
    assert not (folder / "out").exists(), "what fails leaves nothing behind"
    (folder / "out").mkdir()
    assert "is there already" in told(str(federation.root))
    toy = make_federation("toy")
    toy.run()
    assert "workload toy_workload:Toy with lora-r 16 has no adapters" in told(str(toy.root))
