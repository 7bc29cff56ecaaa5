"""The file that tells a node what its coordinator no longer wants."""

from dataclasses import dataclass, field
from pathlib import Path

from flower_runtime.procfile import read_json


@dataclass(frozen=True)
class Wanted:
    """`{"seq", "over_runs": [flower run id], "cancelled_messages": [message id]}`."""

    over_runs: frozenset[str] = field(default_factory=frozenset)
    cancelled_messages: frozenset[str] = field(default_factory=frozenset)


class WantedFile:
    """Reads the file when it has changed. No file, or one that is no such JSON, changes nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._wanted = Wanted()

    def read(self) -> Wanted:
        """Give what the file says now."""
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return self._wanted
        version = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        if version != self._seen:
            self._seen = version
            self._wanted = _parse(read_json(self._path), self._wanted)
        return self._wanted


def _parse(content: object, before: Wanted) -> Wanted:
    if not isinstance(content, dict):
        return before
    runs, messages = content.get("over_runs", []), content.get("cancelled_messages", [])
    if not isinstance(runs, list) or not isinstance(messages, list):
        return before
    return Wanted(frozenset(map(str, runs)), frozenset(map(str, messages)))
