"""The LoRA bench measures what it says, on an encoder of a few thousand weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import lora
from benchmarks.lora_cases import costs
from benchmarks.lora_cases.rounds import error_of
from tests.flower_app.tiny_models import rated_sentences, tiny_bert

CONFIG: dict[str, str | int | float] = {"base-model": "tiny-bert", "lora-r": 4, "local-steps": 2, "eval-share": 0.0}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    tiny_bert(tmp_path / "tiny-bert")
    rated_sentences(tmp_path / "vader-sentiment")
    monkeypatch.setenv("ESPALIER_DATA_DIRS", str(tmp_path))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("data")
def test_sizes_and_steps_are_beside_those_of_the_whole_model() -> None:
    (size,) = lora.sizes(4, CONFIG)
    whole = (size.peer or 0) * 1e6 / 8
    assert size.ratio == pytest.approx(whole / ((size.ours or 0) * 1e6 / 8))
    assert whole > costs.workload(0, CONFIG).whole_model()[1]
    assert lora.share(CONFIG).ours == pytest.approx(12, abs=8)
    step = lora.steps(2, CONFIG)
    assert (step.ours or 0) > 0
    assert (step.peer or 0) > 0


@pytest.mark.usefixtures("data")
def test_the_memory_is_that_of_a_process_that_has_trained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["costs", "null", json.dumps(CONFIG)])
    costs.main()
    assert int(capsys.readouterr().out) > 10**8


@pytest.mark.usefixtures("data")
def test_rounds_are_scored_and_each_rules_error_is_told() -> None:
    first, further = lora.learning(4, CONFIG)
    rows = {row.case: row.ours or 0.0 for row in [*first, *further]}
    assert [row.case for row in first[:2]] == ["accuracy, 2 rounds", "accuracy, 4 rounds"]
    assert rows["error of ffa, round 1"] == pytest.approx(0, abs=1e-6)
    assert 0 < rows["error of svd, round 1"] < rows["error of avg, round 1"]
    assert rows["error of svd, round 4"] > 0


def test_the_error_is_the_distance_to_the_mean_of_the_products() -> None:
    b, a = np.ones((2, 1), np.float32), np.ones((1, 2), np.float32)
    updates = [{"b": b, "a": a}, {"b": 3 * b, "a": 3 * a}]
    assert error_of({"b": 2 * b, "a": 2 * a}, updates, [("b", "a")]) == pytest.approx(1 / 5), "4 instead of 5"
    assert error_of({"b": 5 * b, "a": a}, updates, [("b", "a")]) == 0
