"""A run that starts from a model instead of from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from flower_app.first_model import MODELS_DIR, InitialModelUnfit
from flower_app.tensor_file import write_tensors
from safetensors.numpy import load_file

if TYPE_CHECKING:
    from tests.flower_app.conftest import MakeFederation


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "models"
    monkeypatch.setenv(MODELS_DIR, str(folder))
    return folder


def kept(folder: Path, arrays: dict[str, Any]) -> str:
    """Keep a model under its sha256, and give that."""
    written = write_tensors(folder / "new", arrays, {})
    written.path.rename(folder / f"{written.sha256}.safetensors")
    return written.sha256


def test_a_run_goes_on_from_another_ones_final_model(make_federation: MakeFederation, models: Path) -> None:
    first = make_federation("first", num_rounds=2)
    first.run()
    (final,) = [artifact for artifact in first.journal("artifact") if artifact["role"] == "final"]
    sha256 = kept(models, load_file(first.root / final["path"]))
    second = make_federation("second", num_rounds=1, initial_model=sha256)
    whole = make_federation("whole", num_rounds=1)
    second.run()
    whole.run()
    (opened,) = second.journal("run.opened")
    assert opened["initial_model"] == sha256
    assert whole.journal("run.opened")[0]["initial_model"] is None
    mine, anew = (load_file(each.root / "models/final.safetensors") for each in (second, whole))
    assert any(not np.array_equal(mine[name], anew[name]) for name in mine)
    (message,) = second.grid.nodes[101].seen
    sent = message.content.array_records["arrays"].to_numpy_ndarrays()
    for values, name in zip(sent, mine, strict=True):
        np.testing.assert_array_equal(values, load_file(first.root / final["path"])[name])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda own: {**own, "more": np.zeros(1, np.float32)}, "has an array 'more', which this workload does not know"),
        (lambda own: dict(list(own.items())[1:]), "has no array '.*', which this workload needs"),
        (lambda own: {name: values.astype(np.float64) for name, values in own.items()}, "is float64 of shape .* needs float32"),
        (lambda own: {name: values[..., None] for name, values in own.items()}, r"of shape \(.*1\), this workload needs"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_by_name(
    make_federation: MakeFederation, models: Path, change: Any, told: str
) -> None:
    first = make_federation("first", num_rounds=1)
    first.run()
    sha256 = kept(models, change(load_file(first.root / "models/final.safetensors")))
    second = make_federation("second", initial_model=sha256)
    with pytest.raises(InitialModelUnfit, match=told):
        second.run()
    assert second.journal("run.closed")[0]["cause"]["type"] == "InitialModelUnfit"


def test_a_file_that_is_not_what_its_name_says_is_refused(make_federation: MakeFederation, models: Path) -> None:
    sha256 = kept(models, {"weight": np.zeros(3, np.float32)})
    (models / f"{sha256}.safetensors").write_bytes(b"another")
    with pytest.raises(InitialModelUnfit, match="is not what its name says"):
        make_federation(initial_model=sha256).run()


def test_a_model_that_is_not_there_is_told(make_federation: MakeFederation, models: Path) -> None:
    with pytest.raises(InitialModelUnfit, match="there is no initial model abc: start the run by REST"):
        make_federation(initial_model="abc").run()
