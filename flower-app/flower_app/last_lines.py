"""The last lines a process has said, kept for the day it fails."""

import logging
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

KEPT = 20


class LastLines:
    """Mirrors what is written to stdout and stderr; also by logging, whose handlers hold older streams."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=KEPT)
        self._open = ""

    def hear(self, text: str) -> None:
        """Take text in, in pieces as it was written."""
        *whole, self._open = (self._open + text).split("\n")
        self._lines.extend(line.rstrip() for line in whole)

    def lines(self) -> list[str]:
        """Give up to 20 lines, oldest first; the unfinished last one too."""
        return [*self._lines, self._open][-KEPT:] if self._open else list(self._lines)


class _Mirror:
    """A stream that says everything twice."""

    def __init__(self, stream: TextIO, last_lines: LastLines) -> None:
        self._stream, self._last_lines = stream, last_lines

    def write(self, text: str) -> int:
        self._last_lines.hear(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


class _Listener(logging.Handler):
    def __init__(self, last_lines: LastLines) -> None:
        super().__init__()
        self._last_lines = last_lines

    def emit(self, record: logging.LogRecord) -> None:
        self._last_lines.hear(f"{record.levelname}: {record.getMessage()}\n")


@contextmanager
def kept_last_lines() -> Iterator[LastLines]:
    """Listen to everything this process says until the block ends."""
    last_lines = LastLines()
    streams = sys.stdout, sys.stderr
    listener = _Listener(last_lines)
    loggers = [logging.getLogger(), logging.getLogger("flwr")]  # Flower's logger does not pass its records up
    sys.stdout, sys.stderr = _Mirror(streams[0], last_lines), _Mirror(streams[1], last_lines)
    for logger in loggers:
        logger.addHandler(listener)
    try:
        yield last_lines
    finally:
        sys.stdout, sys.stderr = streams
        for logger in loggers:
            logger.removeHandler(listener)
