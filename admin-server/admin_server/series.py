"""A run whose series the SuperLink has forgotten goes on in a new one, whose directory is a link to the old."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from control_plane.files import write_atomic


@contextmanager
def going_on_in(runs_dir: Path, series_id: str, fab_hash: str) -> Iterator[Callable[[str], None]]:
    """Give what links the directory of a new series to that of series_id.

    The new series has its name only once Flower has started it, and the executor makes its directory: until then it leaves
    tasks of this FAB alone (flower_runtime.hold), for 10 s at most.
    """
    hold = runs_dir / f".hold-{fab_hash}"
    real = (runs_dir / series_id).resolve()
    write_atomic(hold, b"")
    try:
        yield lambda new: os.symlink(real.name, runs_dir / new)
    finally:
        hold.unlink(missing_ok=True)
