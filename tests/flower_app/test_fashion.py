"""`fashion` reads Debian's files, or names what is wrong with them; the train file is the sites', the test file the server's."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from flower_app.config import RunConfig
from flower_app.engine import RoundFailed
from flower_app.workloads import make_workload
from flower_app.workloads.fashion import FOLDER, Fashion
from flower_app.workloads.guards import DataUnfit
from flower_app.workloads.idx import read_idx

if TYPE_CHECKING:
    from tests.flower_app.conftest import MakeEnv, MakeFederation

pytestmark = pytest.mark.usefixtures("one_thread")

PACKAGED = Path("/usr/share/datasets")


def idx(values: Any) -> bytes:
    array = np.asarray(values, np.uint8)
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write files of 300 and 60 pictures, of which each class has its own rows lit, and have them be found."""
    folder = tmp_path / "data" / FOLDER
    folder.mkdir(parents=True)
    random = np.random.default_rng(8)
    for part, count in {"train": 300, "t10k": 60}.items():
        labels = np.arange(count) % 10
        pictures = random.integers(0, 60, (count, 28, 28))
        for picture, label in zip(pictures, labels, strict=True):
            picture[2 * label + 3 : 2 * label + 6] += 180
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pictures)))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    monkeypatch.setenv("ESPALIER_DATA_DIRS", os.pathsep.join([str(tmp_path / "nowhere"), str(tmp_path / "data")]))
    return folder


def test_sites_share_out_the_train_file_and_the_server_scores_on_the_test_file(
    make_federation: MakeFederation, small: Path
) -> None:
    federation = make_federation(workload="fashion", partitioner="iid", num_rounds=2, local_epochs=4, batch_size=16)
    federation.run()
    updates = federation.journal("update")
    assert [update["status"] for update in updates] == ["counted"] * 6
    assert sum(update["num_examples"] + update["facts"]["eval_examples"] for update in updates[:3]) == 300
    assert federation.read("history.json")[-1]["accuracy"] > 0.8


def test_pictures_stay_bytes_until_a_site_has_its_part(small: Path, make_env: MakeEnv) -> None:
    workload = Fashion(RunConfig.parse({"workload": "fashion", "partitioner": "iid"}))
    loaded = workload.load(None)
    assert (str(loaded.x.dtype), loaded.x.shape, loaded.x.flags.writeable) == ("uint8", (300, 1, 28, 28), False)
    kept, held = workload.own_examples(make_env())
    assert (str(kept.x.dtype), len(kept) + len(held)) == ("float32", 100)
    assert kept.x.min() == pytest.approx(-72.94 / 90.02, abs=0.01)
    assert sum(array.size for array in workload.initial_arrays().values()) == 206_922


def test_with_local_data_the_server_still_has_its_test_file(make_federation: MakeFederation, small: Path) -> None:
    federation = make_federation(workload="fashion", partitioner="local", num_rounds=1, local_steps=1, eval_share=0.0)
    federation.run()
    assert [update["num_examples"] for update in federation.journal("update")] == [64] * 3
    assert federation.journal("round.closed")[0]["server_metrics"].keys() >= {"loss", "accuracy"}


def test_a_server_without_the_files_scores_nothing_and_says_so_once(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ESPALIER_DATA_DIRS")
    workload = make_workload(RunConfig.parse({"workload": "fashion"}))
    assert workload.server_evaluate({}) == workload.quick_evaluate({}, 10) == {}  # type: ignore[attr-defined]
    told = f"the server scores no model: there is no {FOLDER} in no folder: ESPALIER_DATA_DIRS is not set; get it with `apt "
    (said,) = capsys.readouterr().out.splitlines()
    assert said.startswith(told)


def test_a_site_without_the_files_is_told_how_to_get_them(
    make_federation: MakeFederation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPALIER_DATA_DIRS", str(tmp_path))
    federation = make_federation(workload="fashion", round_retries=0)
    with pytest.raises(RoundFailed):
        federation.run()
    cause = federation.journal("update")[0]["cause"]
    assert (cause["type"], cause["node_name"]) == ("DataMissing", "site-a")
    assert cause["message"] == (
        f"there is no fashion-mnist in {tmp_path}; get it with `apt install dataset-fashion-mnist`, "
        "or name in DATA_DIRS the folder above one that has its four .gz files"
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (gzip.compress(idx(np.zeros((3, 2, 2))))[:-12], " is truncated or broken: "),
        (gzip.compress(b""), " begins with nothing, and not with 00000803, as idx of bytes with 3 axes does"),
        (gzip.compress(idx(np.zeros(3))), " begins with 00000801, and not with 00000803, as idx of bytes with 3 axes does"),
        (gzip.compress(b"\0\0\x0d\x03" + bytes(20)), " begins with 00000d03, and not with 00000803"),
        (gzip.compress(idx(np.zeros((3, 2, 2)))[:10]), " is truncated or broken: unpack requires a buffer of 12 bytes"),
        (gzip.compress(idx(np.zeros((3, 2, 2)))[:-1]), " says 3 x 2 x 2 = 12 bytes, and holds 11"),
        (gzip.compress(idx(np.zeros((3, 2, 2))) + b"x"), " says 3 x 2 x 2 = 12 bytes, and holds more than 12"),
        (idx(np.zeros((3, 2, 2))), " is no gzip file: "),
    ],
)  # fmt: skip
def test_a_broken_file_is_named_with_its_fault(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(DataUnfit) as raised:
        read_idx(path, 3)
    assert str(raised.value).startswith(f"{path}{sentence}")


@pytest.mark.skipif(not (PACKAGED / FOLDER).is_dir(), reason="no dataset-fashion-mnist of Debian is installed here")
def test_debians_files_train_a_model_in_a_few_steps(make_federation: MakeFederation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPALIER_DATA_DIRS", str(PACKAGED))
    workload = make_workload(RunConfig.parse({"workload": "fashion"}))
    examples, test = workload.load(None), workload.test_set()  # type: ignore[attr-defined]
    assert (examples.x.shape, test.x.shape) == ((60_000, 1, 28, 28), (10_000, 1, 28, 28))
    assert (np.bincount(examples.labels).tolist(), np.bincount(test.labels).tolist()) == ([6000] * 10, [1000] * 10)
    assert (round(float(examples.x.mean()), 2), round(float(examples.x.std()), 2)) == (72.94, 90.02)
    federation = make_federation(workload="fashion", partitioner="iid", num_rounds=1, local_steps=60, eval_share=0.0)
    federation.run()
    assert federation.read("history.json")[-1]["accuracy"] > 0.5
