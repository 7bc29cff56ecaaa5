"""Where a site, or the coordinator, keeps data that workloads may read."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

DATA_DIRS = "ESPALIER_DATA_DIRS"


class DataMissing(RuntimeError):
    """The data of a workload are not on this machine."""


def data_dirs(environment: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Give the folders that ESPALIER_DATA_DIRS names, as PATH does; the server that starts us sets it by its DATA_DIRS."""
    return tuple(Path(folder) for folder in environment.get(DATA_DIRS, "").split(os.pathsep) if folder)


def find_data(name: str, folders: Sequence[Path], how: str) -> Path:
    """Find a file or folder below one of the data folders, the first ones before others.

    how: how to get it, as a clause that begins with a verb. Raises DataMissing.
    """
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    looked = ", ".join(map(str, folders)) or f"no folder: {DATA_DIRS} is not set"
    raise DataMissing(f"there is no {name} in {looked}; {how}")
