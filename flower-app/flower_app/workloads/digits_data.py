"""The 1797 handwritten digits that scikit-learn ships, read without importing it (that alone costs 2.4 CPU-s)."""

import gzip
import io
import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.float32]
Labels = NDArray[np.int64]


class DataMissing(RuntimeError):
    """The data of a workload are not on this machine."""


def load_digits(cache_dir: Path | None) -> tuple[Images, Labels]:
    """Give the images, float32 (1797, 1, 8, 8) in 0..1, and their labels 0..9; cached as digits.npz below cache_dir.

    Raises DataMissing.
    """
    cached = cache_dir / "digits.npz" if cache_dir else None
    if cached and cached.is_file():
        with np.load(cached, allow_pickle=False) as stored:
            return _as_images(stored["table"])
    table = _read_table()
    if cached:
        _store(cached, table)
    return _as_images(table)


@cache
def _read_table() -> NDArray[np.uint8]:
    spec = find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise DataMissing("the digits come with scikit-learn, which is not installed here: pip install scikit-learn")
    path = Path(spec.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    with gzip.open(path, "rt") as lines:
        return np.loadtxt(lines, delimiter=",", dtype=np.uint8)


def _store(path: Path, table: NDArray[Any]) -> None:
    """Write the cache so that a reader sees all of it or nothing."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, table=table)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    scratch.write_bytes(buffer.getvalue())
    scratch.replace(path)


def _as_images(table: NDArray[np.uint8]) -> tuple[Images, Labels]:
    return (table[:, :64].reshape(-1, 1, 8, 8) / np.float32(16)).astype(np.float32), table[:, 64].astype(np.int64)
