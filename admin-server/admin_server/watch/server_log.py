"""The ServerApp's output, line by line: colours taken out, a level given to each line, the last traceback found."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
LEVEL = re.compile(
    r"^(?:\S+ )??(?:\[?\d{4}-\d\d-\d\d[ T][\d:.,]+Z?\]? )?\[?(DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL|FATAL)\b\]?\s*[:|\-\]]?"
)
LEVELS = {"DEBUG": "debug", "INFO": "info", "WARNING": "warning", "WARN": "warning", "ERROR": "error"}
TRACEBACK = "Traceback (most recent call last):"
RAISED = re.compile(r"^(?P<type>[A-Za-z_][\w.]*)(?:: (?P<message>.*))?$")


@dataclass(frozen=True)
class Traceback:
    """An exception as it was printed."""

    type: str
    message: str
    text: str


class Leveller:
    """Give each line a level; the lines of a traceback, and the exception after it, are errors."""

    def __init__(self) -> None:
        self._in_traceback = False

    def row(self, text: str, source: str = "serverapp") -> dict[str, Any]:
        """Make a log row of one line. at is now: most lines bring no time of their own."""
        plain = strip_ansi(text)
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        return {"at": at, "level": self.level_of(plain), "text": plain, "source": source, "node_id": None}

    def level_of(self, plain: str) -> str:
        if TRACEBACK in plain:
            self._in_traceback = True
            return "error"
        found = LEVEL.match(plain)
        if self._in_traceback:
            # The frames are indented; the first line that is not names the exception and ends the traceback.
            self._in_traceback = found is None and (not plain.strip() or plain.startswith((" ", "\t")))
            if found is None:
                return "error"
        return LEVELS.get(found.group(1), "critical") if found else "info"


def strip_ansi(text: str) -> str:
    return ANSI.sub("", text)


def last_traceback(lines: list[str]) -> Traceback | None:
    """Find the last traceback in the lines of an output; None when there is none."""
    starts = [number for number, line in enumerate(lines) if TRACEBACK in line]
    for start in reversed(starts):
        for end in range(start + 1, len(lines)):
            line = strip_ansi(lines[end])
            if line.startswith((" ", "\t")) or not line.strip():
                continue
            raised = RAISED.match(line)
            if raised is None:
                break
            told = message_lines(lines, end)
            message = "\n".join([raised["message"] or "", *told]).strip()
            text = "\n".join(strip_ansi(each) for each in [*lines[start : end + 1], *told])
            return Traceback(raised["type"].rpartition(".")[2], message, text)
    return None


def message_lines(lines: list[str], end: int) -> list[str]:
    """Give what follows the line that names the exception and still belongs to its text: at most 20 indented lines."""
    told: list[str] = []
    for line in lines[end + 1 : end + 21]:
        if not line.startswith((" ", "\t")):
            break
        told.append(strip_ansi(line))
    return told
