"""activity.jsonl: what became of each message at this node, one JSON object a line."""

import json
import os
from pathlib import Path
from typing import Literal

from flower_runtime.procfile import now_text

Event = Literal["message.started", "message.ended", "clientapp.died", "message.cancelled"]


class Activity:
    """Appends with a sequence number that goes on over restarts. A line that a kill cut short is cut off."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seq = _repair(path)

    def note(
        self,
        event: Event,
        *,
        flower_run_id: str,
        message_id: str,
        pid: int | None = None,
        rc: int | None = None,
        signal: int | None = None,
        reason: str | None = None,
        last_lines: list[str] | None = None,
        seconds: float | None = None,
    ) -> None:
        """Append one event. seconds: since the ClientApp was started."""
        self._seq += 1
        line = {
            "seq": self._seq,
            "at": now_text(),
            "event": event,
            "flower_run_id": flower_run_id,
            "message_id": message_id,
            "pid": pid,
            "rc": rc,
            "signal": signal,
            "reason": reason,
            "last_lines": last_lines or [],
            "seconds": None if seconds is None else round(seconds, 3),
        }
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, json.dumps(line).encode() + b"\n")
        finally:
            os.close(descriptor)


def _repair(path: Path) -> int:
    """Cut off a last line without newline; give the last sequence number, 0 for none."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return 0
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    for line in reversed(whole.splitlines()):
        try:
            return int(json.loads(line)["seq"])
        except (ValueError, KeyError, TypeError):
            continue
    return 0
