"""What a site keeps of its updates is whole, is its own, says nothing of a patient, and does not grow."""

import errno
import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from flower_app import tensor_file
from flower_app.config import ConfigError, RunConfig
from flower_app.files import part_of
from flower_app.wire import digest
from flower_app.workloads.interface import Arrays, NodeEnv
from flower_app.workloads.wasm import kept, native_code, receipts
from flower_app.workloads.wasm.receipts import (
    Receipt,
    ReceiptUnreadable,
    digests_of,
    find_receipts,
    keep,
    read_receipt,
    receipt_of,
)
from flower_app.workloads.wasm.task import Hyperparameters, Limits, Outcome, Task

WASM = b"\0asm a module"
MODEL: Arrays = {"1.weight": np.ones((2, 3), np.float32), "0.bias": np.zeros(2, np.float32)}
X, LABELS = np.arange(12, dtype=np.float32).reshape(4, 3), np.array([0, 1, 0, 1], np.int32)
HYPERPARAMETERS = Hyperparameters(
    epochs=2, steps=0, batch_size=8, lr=0.05, momentum=0.9, weight_decay=0.0, proximal_mu=0.1, seed=2**53 - 1
)
TASK = Task(MODEL, X, LABELS, HYPERPARAMETERS, run_id="9f", round=3, node_name="Klinik Süd")
CONFIG = RunConfig.parse({"workload": "wasm", "partitioner": "local", "my-key": "mine"})
ENV = NodeEnv("Klinik Süd", 1, 4, 3, seed=5, threads=1, device="cpu", cache_dir=None, run_id="9f")


def receipt(run_id: str = "9f", round: int = 3) -> Receipt:
    outcome = Outcome("fl/1", {name: values + 1 for name, values in MODEL.items()}, {"loss": 0.5}, b'{"lr": 0.05}')
    task = replace(TASK, run_id=run_id, round=round)
    return receipt_of(task, Limits(), "fl/1", digests_of("a" * 64, task, outcome), CONFIG, ENV)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_receipt_is_read_as_it_was_kept(tmp_path: Path) -> None:
    keep(tmp_path, receipt(), MODEL, WASM)
    (path,) = find_receipts(tmp_path)
    found, model = read_receipt(path)
    assert found == receipt_at(found.kept_at)
    assert list(model) == list(MODEL)
    assert digest(model) == found.digests.model_in_sha256
    assert found.run_config["my-key"] == "mine"
    assert path.relative_to(tmp_path) == Path("wasm/receipts/9f/round-3-part-1.json")
    assert (path.parent.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o700, 0o600)


def receipt_at(kept_at: str) -> Receipt:
    return replace(receipt(), kept_at=kept_at)


def test_the_digests_tell_every_part_of_an_update() -> None:
    outcome = Outcome("fl/1", MODEL, {}, b"{}")
    first = asdict(digests_of("a" * 64, TASK, outcome))
    changes = {
        "module_sha256": digests_of("b" * 64, TASK, outcome),
        "model_in_sha256": digests_of("a" * 64, replace(TASK, arrays=dict(reversed(MODEL.items()))), outcome),
        "data_sha256": digests_of("a" * 64, replace(TASK, labels=LABELS[::-1]), outcome),
        "config_sha256": digests_of("a" * 64, TASK, replace(outcome, config=b"[]")),
        "model_out_sha256": digests_of("a" * 64, TASK, replace(outcome, arrays={"0.bias": MODEL["0.bias"]})),
    }
    for name, changed in changes.items():
        assert [key for key, value in asdict(changed).items() if value != first[key]] == [name]


def test_no_example_is_kept(tmp_path: Path) -> None:
    marked = replace(TASK, x=np.full((4, 3), 1234.5, np.float32))
    outcome = Outcome("fl/1", MODEL, {}, b"{}")
    digests = digests_of("a" * 64, marked, outcome)
    keep(tmp_path, receipt_of(marked, Limits(), "fl/1", digests, CONFIG, ENV), MODEL, WASM)
    for name in files(tmp_path):
        content = (tmp_path / name).read_bytes()
        assert np.float32(1234.5).tobytes() not in content
        assert b"1234.5" not in content


@pytest.mark.parametrize("run_id", ["", "..", "../9f", "a/b", ".hidden", "a" * 129, "a\n"])
def test_a_run_id_that_can_name_no_folder_keeps_nothing(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(ConfigError, match="can name no folder"):
        keep(tmp_path, receipt(run_id), MODEL, WASM)
    assert files(tmp_path) == []


def test_the_newest_receipt_comes_first(tmp_path: Path) -> None:
    for age, (run_id, round_) in enumerate([("b", 2), ("b", 1), ("a", 12), ("a", 1)]):
        keep(tmp_path, receipt(run_id, round_), MODEL, WASM)
        path = tmp_path / f"wasm/receipts/{run_id}/round-{round_}-part-1.json"
        os.utime(path, (1000 - age, 1000 - age))
    names = [str(path.relative_to(tmp_path / "wasm/receipts").with_suffix("")) for path in find_receipts(tmp_path)]
    assert names == ["b/round-2-part-1", "b/round-1-part-1", "a/round-12-part-1", "a/round-1-part-1"]
    assert [path.name for path in find_receipts(tmp_path, "a", 1)] == ["round-1-part-1.json"]
    assert len(find_receipts(tmp_path, "b")) == 2
    assert find_receipts(tmp_path, "*") == []


def test_a_round_that_is_tried_again_has_one_receipt(tmp_path: Path) -> None:
    keep(tmp_path, receipt(), MODEL, WASM)
    other = {name: values - 1 for name, values in MODEL.items()}
    keep(tmp_path, receipt(), other, WASM)
    (path,) = find_receipts(tmp_path)
    assert digest(read_receipt(path)[1]) == digest(other)


def test_only_so_many_updates_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "MOST", 3)
    for round_ in range(1, 6):
        keep(tmp_path, receipt("a" if round_ < 3 else "b", round_), MODEL, WASM)
        for path in find_receipts(tmp_path):
            os.utime(path, ns=(0, path.stat().st_mtime_ns - 10**9))
    folder = tmp_path / "wasm/receipts"
    assert files(folder) == [f"b/round-{n}-part-1.{kind}" for n in (3, 4, 5) for kind in ("json", "safetensors")]
    assert [path.name for path in folder.iterdir()] == ["b"]


def test_only_so_many_bytes_are_kept_and_one_update_in_any_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "MOST_BYTES", 10)
    for run_id in ("a", "b"):
        keep(tmp_path, receipt(run_id), MODEL, WASM)
        os.utime(find_receipts(tmp_path)[0], (1, 1))
    assert files(tmp_path / "wasm/receipts") == ["b/round-3-part-1.json", "b/round-3-part-1.safetensors"]


def test_what_a_killed_writer_left_goes_as_the_rest_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "MOST", 1)
    left = tmp_path / "wasm/receipts/old/round-1-part-0.safetensors"
    left.parent.mkdir(parents=True)
    for path in (left, left.with_name(f".{left.name}.part"), left.with_name(".of-a-receipt")):
        path.write_bytes(b"half")
        os.utime(path, (1, 1))
    keep(tmp_path, receipt(), MODEL, WASM)
    assert [path.name for path in (tmp_path / "wasm/receipts").iterdir()] == ["9f"]


@pytest.mark.parametrize("last", ["write_tensors", "kept.write_whole"])
def test_a_full_disk_keeps_no_half_and_lets_go_of_old_updates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str) -> None:
    def refuse(*_: object) -> None:  # the disk is full from here on
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for round_ in (1, 2):
        keep(tmp_path, receipt("old", round_), MODEL, WASM)
        os.utime(find_receipts(tmp_path, "old", round_)[0], (round_, round_))
    monkeypatch.setattr(receipts, "MOST", 1)
    monkeypatch.setattr(f"flower_app.workloads.wasm.receipts.{last}", refuse)
    with pytest.raises(OSError, match="No space left"):
        keep(tmp_path, receipt(), MODEL, WASM)
    assert files(tmp_path / "wasm/receipts") == [f"old/round-2-part-1.{kind}" for kind in ("json", "safetensors")]


def test_a_folder_that_another_takes_while_it_is_empty_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scratch_of(path: Path) -> Path:
        if taken:
            taken.pop().rmdir()
        return part_of(path)

    taken = [tmp_path / "wasm/receipts/9f"] * receipts.TRIES
    monkeypatch.setattr(tensor_file, "part_of", scratch_of)
    with pytest.raises(FileNotFoundError):
        keep(tmp_path, receipt(), MODEL, WASM)
    taken.append(tmp_path / "wasm/receipts/9f")
    keep(tmp_path, receipt(), MODEL, WASM)
    assert taken == []
    assert read_receipt(find_receipts(tmp_path)[0])[0].run_id == "9f"


def test_a_folder_that_is_taken_while_it_is_made_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_dir(path: Path) -> bool:
        if path in taken:  # mkdir asks when it was told that the folder exists
            taken.remove(path)
            path.rmdir()
        return os.path.isdir(path)

    run = tmp_path / "wasm/receipts/9f"
    taken = [run]
    run.mkdir(parents=True)
    monkeypatch.setattr(Path, "is_dir", is_dir)
    keep(tmp_path, receipt(), MODEL, WASM)
    assert taken == []
    assert len(find_receipts(tmp_path)) == 1


def test_clientapps_of_several_runs_lose_no_receipt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "MOST", 8)

    def keep_many(who: int) -> None:
        for number in range(40):
            keep(tmp_path, receipt(f"{who}-{number}"), MODEL, WASM)
            find_receipts(tmp_path)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(keep_many, range(4)))
    assert 1 <= len(find_receipts(tmp_path)) <= 8


@pytest.mark.parametrize("spoil", ["json", "version", "field", "model"])
def test_a_receipt_that_is_not_whole_is_told(tmp_path: Path, spoil: str) -> None:
    keep(tmp_path, receipt(), MODEL, WASM)
    (path,) = find_receipts(tmp_path)
    told = json.loads(path.read_text())
    if spoil == "json":
        path.write_text("{")
    elif spoil == "version":
        path.write_text(json.dumps({**told, "version": 2}))
    elif spoil == "field":
        path.write_text(json.dumps({name: value for name, value in told.items() if name != "digests"}))
    else:
        path.with_suffix(".safetensors").write_bytes(b"no")
    with pytest.raises(ReceiptUnreadable, match=r"round-3-part-1\.json is (no whole receipt|of version 2)"):
        read_receipt(path)


def test_a_modules_bytes_are_kept_once_and_the_last_used_longest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST_FILES", 2)
    sha256 = {}
    for age, wasm in enumerate([b"one", b"two"]):
        kept.keep(tmp_path, wasm)
        kept.keep(tmp_path, wasm)
        (path,) = (each for each in (tmp_path / kept.FOLDER).iterdir() if each.read_bytes() == wasm)
        sha256[wasm] = path.stem
        os.utime(path, (1000 + age, 1000 + age))
    assert kept.read_kept(tmp_path, sha256[b"one"]) == b"one"
    kept.keep(tmp_path, b"three")
    assert {path.read_bytes() for path in (tmp_path / kept.FOLDER).iterdir()} == {b"one", b"three"}
    assert kept.read_kept(tmp_path, sha256[b"two"]) is None
    assert kept.read_kept(None, sha256[b"one"]) is None


def test_a_scratch_file_is_left_alone_while_it_may_have_a_writer(tmp_path: Path) -> None:
    folder = tmp_path / kept.FOLDER
    folder.mkdir(parents=True)
    now = time.time()
    for number, age_s in enumerate([0.0, kept.SCRATCH_S - 600, kept.SCRATCH_S + 600, now]):
        scratch = folder / f".{number}"
        scratch.write_bytes(bytes(1000))
        os.utime(scratch, (now - age_s, now - age_s))
    kept.keep(tmp_path, WASM)
    assert {path.name for path in folder.iterdir()} == {".0", ".1", f"{hashlib.sha256(WASM).hexdigest()}.wasm"}


def test_clientapps_may_keep_modules_and_let_go_of_them_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST_FILES", 1)

    def keep_many(who: int) -> None:
        for number in range(150):
            kept.keep(tmp_path, f"{who} {number}".encode())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(keep_many, range(4)))
    assert len(list((tmp_path / kept.FOLDER).iterdir())) <= 1


def test_a_cache_that_is_read_only_gives_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:  # a file system cannot be mounted read-only here
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    kept.keep(tmp_path, WASM)
    native_code.keep(tmp_path, "a" * 64, b"native")
    monkeypatch.setattr(os, "utime", refuse)
    assert kept.read_kept(tmp_path, hashlib.sha256(WASM).hexdigest()) == WASM
    assert native_code.read(tmp_path, "a" * 64) == b"native"


def test_a_folder_in_place_of_what_is_kept_is_nothing_kept(tmp_path: Path) -> None:
    kept.keep(tmp_path, WASM)
    native_code.keep(tmp_path, "a" * 64, b"native")
    for folder in (kept.FOLDER, native_code.FOLDER):
        (path,) = (tmp_path / folder).iterdir()
        path.unlink()
        path.mkdir()
    assert kept.read_kept(tmp_path, hashlib.sha256(WASM).hexdigest()) is None
    assert native_code.read(tmp_path, "a" * 64) is None


def test_a_kept_module_that_was_changed_is_gone(tmp_path: Path) -> None:
    kept.keep(tmp_path, WASM)
    (path,) = (tmp_path / kept.FOLDER).iterdir()
    path.write_bytes(WASM + b"!")
    assert kept.read_kept(tmp_path, path.stem) is None
    assert not path.exists()
