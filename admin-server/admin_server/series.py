"""A run whose series the SuperLink has forgotten goes on in a new one, whose directory is a link to the old."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from control_plane.files import write_atomic

HOLD = ".hold-"


@contextmanager
def held(runs_dir: Path, fab_hash: str) -> Iterator[None]:
    """Have the executor leave tasks of this FAB alone (flower_runtime.hold), for 10 s at most.

    A new series has its name only once Flower has started it, and the executor makes its directory.
    """
    hold = runs_dir / f"{HOLD}{fab_hash}"
    write_atomic(hold, b"")
    try:
        yield
    finally:
        hold.unlink(missing_ok=True)


def let_all_go(runs_dir: Path) -> None:
    """Remove what a server has left that was killed while it held tasks: the executor would wait 10 s for each of that FAB."""
    for hold in runs_dir.glob(f"{HOLD}*"):
        hold.unlink(missing_ok=True)


def lead_to(runs_dir: Path, new: str, old: str) -> bool:
    """Make the directory of series `new` a link to that of `old`; False when it is a directory of its own already."""
    real = (runs_dir / old).resolve()
    try:
        os.symlink(real.name, runs_dir / new)
    except FileExistsError:
        return (runs_dir / new).resolve() == real
    return True
