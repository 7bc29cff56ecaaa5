"""Where a site, or the coordinator, keeps data that workloads may read."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

from flower_app.config import ConfigError

DATA_DIRS = "ESPALIER_DATA_DIRS"


class DataMissing(RuntimeError):
    """The data of a workload are not on this machine."""


def data_dirs(environment: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Give the folders that ESPALIER_DATA_DIRS names, as PATH does; the server that starts us sets it by its DATA_DIRS."""
    return tuple(Path(folder) for folder in environment.get(DATA_DIRS, "").split(os.pathsep) if folder)


def find_data(name: str, folders: Sequence[Path], how: str) -> Path:
    """Find a file or folder below one of the data folders, the first ones before others.

    how: how to get it, as a clause that begins with a verb. Raises DataMissing, and ConfigError as see_that_it_stays_below().
    """
    see_that_it_stays_below(name)
    for folder in folders:
        try:
            if (folder / name).exists():
                return folder / name
        except OSError as error:  # a name that is too long, a folder that is another user's
            raise DataMissing(f"{name[:100]!r} cannot be looked for in {folder}: {error.strerror}") from error
    looked = ", ".join(map(str, folders)) or f"no folder: {DATA_DIRS} is not set"
    raise DataMissing(f"there is no {name} in {looked}; {how}")


def see_that_it_stays_below(name: str) -> None:
    """Raise ConfigError for a name that leads out of the data folders: whoever sets a run's keys has no say in what a site opens.

    Only its parts are looked at: a link within a data folder is of the site's own making, and is followed.
    """
    if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
        raise ConfigError(f'"{name}" leads out of the data folders: name what lies below one of them, without / in front and ..')
