"""One server at a time in a home."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class HomeInUse(Exception):
    """Another admin server works in this ESPALIER_HOME."""


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Hold the home's lock, which goes with the process. Raises HomeInUse."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (home / "admin.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HomeInUse(f"Another admin server works in {home}; end it, or set another ESPALIER_HOME.") from None
        yield
