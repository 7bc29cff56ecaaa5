"""safetensors files as the safetensors library reads them."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from flower_app.tensor_file import DTYPES, read_tensors, sha256_of, write_tensors
from safetensors.numpy import load_file


def test_the_library_reads_what_was_written(tmp_path: Path) -> None:
    arrays = {
        **{f"layer.{dtype}": (np.arange(6).reshape(2, 3) % 2).astype(dtype) for dtype in DTYPES},
        "scalar": np.array(3.5, np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "big endian": np.arange(3, dtype=">f4"),
        "é": np.ones(1, np.int8),
    }
    written = write_tensors(tmp_path / "deep" / "model.safetensors", arrays, {"round": "3"})
    found = load_file(written.path)
    assert set(found) == set(arrays)
    for name, values in arrays.items():
        np.testing.assert_array_equal(found[name], values)
    assert written.sha256 == hashlib.sha256(written.path.read_bytes()).hexdigest() == sha256_of(written.path)
    assert written.size_bytes == written.path.stat().st_size
    assert [path.name for path in written.path.parent.iterdir()] == ["model.safetensors"]


def test_order_and_metadata_come_back(tmp_path: Path) -> None:
    arrays = {"z": np.ones(2, np.float32), "a": np.zeros(1, np.float32)}
    written = write_tensors(tmp_path / "m.safetensors", arrays, {"round": "3"})
    found, metadata = read_tensors(written.path)
    assert list(found) == ["z", "a"]
    assert metadata == {"round": "3"}


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    arrays = {"w": np.ones(5, np.float32)}
    one, two = (write_tensors(tmp_path / name, arrays, {}) for name in ("one", "two"))
    assert one.sha256 == two.sha256


def test_a_dtype_that_safetensors_does_not_know_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="array w has dtype complex64"):
        write_tensors(tmp_path / "m.safetensors", {"w": np.ones(1, np.complex64)}, {})
    assert not (tmp_path / "m.safetensors").exists()
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_of_a_file_that_finds_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:  # where many file systems tell that the disk is full
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_tensors(tmp_path / "m.safetensors", {"w": np.ones(1000, np.float32)}, {})
    assert list(tmp_path.iterdir()) == []
