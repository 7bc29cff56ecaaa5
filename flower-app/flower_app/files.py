"""Files that are there whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any


def part_of(path: Path) -> Path:
    """Name the file that is written before it gets its name; a run directory has one writer, so a crash leaves at most one."""
    return path.with_name(f".{path.name}.part")


def write_atomic(path: Path, data: bytes) -> None:
    """Write beside path, then rename; a reader sees the old bytes or the new ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = part_of(path)
    scratch.write_bytes(data)
    scratch.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON for people: indented, NaN refused."""
    write_atomic(path, (json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode())


def fsync_folder(path: Path) -> None:
    """Make renames and new names in a folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
