"""Tables that scikit-learn ships as files, read without importing it (that alone costs 2.4 CPU-s)."""

import io
import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from flower_app.workloads.data_dirs import DataMissing


@cache
def load_table(file: str, dtype: DTypeLike, cache_dir: Path | None, head_lines: int = 0) -> NDArray[Any]:
    """Give the numbers of scikit-learn's `datasets/data/<file>`, a row each, read-only; cached as .npz below cache_dir.

    file: comma-separated text, also gzipped. head_lines: how many of its lines come before the numbers.
    Raises DataMissing.
    """
    cached = cache_dir / f"{file.partition('.')[0]}.npz" if cache_dir else None
    if cached and cached.is_file():
        with np.load(cached, allow_pickle=False) as stored:
            table: NDArray[Any] = stored["table"]
    else:
        table = np.loadtxt(_path_of(file), delimiter=",", dtype=dtype, skiprows=head_lines)
        if cached:
            _store(cached, table)
    table.flags.writeable = False
    return table


def _path_of(file: str) -> Path:
    spec = find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise DataMissing(f"{file} comes with scikit-learn, which is not installed here: pip install scikit-learn")
    return Path(spec.submodule_search_locations[0], "datasets", "data", file)


def _store(path: Path, table: NDArray[Any]) -> None:
    """Write the cache so that a reader sees all of it or nothing."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, table=table)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    scratch.write_bytes(buffer.getvalue())
    scratch.replace(path)
