"""A series whose directory is about to be made a link to another's: the admin server holds the tasks of its FAB meanwhile."""

import time
from pathlib import Path

PATIENCE_S = 10.0  # a server that died at it holds nobody longer; a task has to be started within 30 s
_LOOK_S = 0.05


def wait_while_held(runs_dir: Path, fab_hash: str) -> None:
    """Wait until there is no `.hold-<fab_hash>` in runs_dir, for 10 s at most."""
    until = time.monotonic() + PATIENCE_S
    while (runs_dir / f".hold-{fab_hash}").exists() and time.monotonic() < until:
        time.sleep(_LOOK_S)
