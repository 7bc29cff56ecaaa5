"""Files that are whole or as they were, and what is said when the disk has no room for them."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from db.errors import DatabaseFull, EmbeddedPostgresFailed

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_LEAST_BYTES = 32 * 2**20  # two WAL segments: a Postgres that recovers writes into one and makes the next


def write_whole(path: Path, text: str) -> None:
    """Replace a file, mode 0600; on a full disk what was there before stays, and nothing half."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        draft.touch(mode=0o600)
        draft.write_text(text)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


@contextmanager
def in_words(place: Path) -> Iterator[None]:
    """Raise DatabaseFull for what fails within because the disk of `place` is full."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise _full(place) from error
        raise
    except EmbeddedPostgresFailed as failed:
        if shutil.disk_usage(place).free < _LEAST_BYTES:
            raise _full(place) from failed
        raise


def _full(place: Path) -> DatabaseFull:
    return DatabaseFull(f"The disk of {place} is full: make room on it for the embedded Postgres.")
