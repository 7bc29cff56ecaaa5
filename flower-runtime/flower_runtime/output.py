"""Output files of children: opened for append, read again from their end."""

import os
import re
from pathlib import Path

from flower_runtime.plain_file import open_plain

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LINE_CHARACTERS = 500
_TAIL_BYTES = 64 * 1024


def open_output(path: Path) -> int:
    """Open a child's output file for append, readable by its owner alone. Returns the descriptor."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def last_lines(path: Path, count: int = 20) -> list[str]:
    """Give the last lines that say something, without colours, each cut at 500 characters."""
    file = open_plain(path)
    if file is None:
        return []
    with file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        text = file.read(_TAIL_BYTES).decode("utf-8", errors="replace")
    lines = [_COLOUR.sub("", line).rstrip()[:_LINE_CHARACTERS] for line in text.splitlines()]
    return [line for line in lines if line][-count:]
