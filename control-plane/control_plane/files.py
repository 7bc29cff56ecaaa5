"""Files that are whole or absent."""

import contextlib
import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any, BinaryIO


def write_atomic(path: Path, data: bytes | str, mode: int = 0o600) -> None:
    """Replace a file by rename, so that a reader or a crash sees the old content or the new, never a part.

    The file is fsynced before the rename and its folder after it; missing folders are made with mode 0700.
    """
    temporary = _write_beside(path, data, mode)
    try:
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def create_once(path: Path, data: bytes | str, mode: int = 0o600) -> bool:
    """Write a file that must not exist yet; False, and nothing changed, when somebody else was first."""
    temporary = _write_beside(path, data, mode)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


def write_json(path: Path, value: Any, mode: int = 0o600) -> None:
    """Write a JSON value with write_atomic."""
    write_atomic(path, json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n", mode)


def read_json(path: Path) -> Any | None:
    """Read a JSON file; None when it is absent or no plain file.

    Raises ValueError when the content is not JSON: what write_atomic wrote is never half a file.
    """
    file = open_plain(path)
    if file is None:
        return None
    with file:
        return json.loads(file.read())


def open_plain(path: Path) -> BinaryIO | None:
    """Open a file for reading without ever waiting; None when it is absent, a folder, a FIFO or a device.

    A child could have put such a thing in the place of a file that it writes. Raises PermissionError.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    return None


def is_file(path: Path) -> bool:
    """Is there a file? False also for a name that no file can have, such as a component of over 255 bytes."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_beside(path: Path, data: bytes | str, mode: int) -> Path:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    return Path(name)
