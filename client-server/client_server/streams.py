"""A log file that is being read for the coordinator, and what of it may leave this site."""

from pathlib import Path

from control_plane.clock import now
from control_plane.logfiles import Tail

from client_server.levels import Levels, is_error
from client_server.settings import ForwardLogs

LogLine = dict[str, str]


class Stream:
    """Reads on in one file, and lets through what FORWARD_LOGS says: none nothing, errors lines of errors, all every line."""

    def __init__(self, path: Path, offset: int, forward_logs: ForwardLogs) -> None:
        self.path = path
        self._forward_logs = forward_logs
        self._levels = Levels()
        self._tail = Tail(path, offset)

    @property
    def offset(self) -> int:
        """How far it has been read, in bytes."""
        return self._tail.offset

    def read(self, max_lines: int) -> tuple[bool, list[LogLine]]:
        """Read up to max_lines; gives whether that was all there is, and what of it may leave."""
        lines = self._tail.read(max_lines)
        return len(lines) < max_lines, self._allowed([line.text for line in lines])

    def read_unfinished(self) -> list[LogLine]:
        """Read a last line that no newline ended: its writer is gone. Not read again."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                rest = file.read()
        except FileNotFoundError:
            return []
        self._tail.offset += len(rest)
        return self._allowed(rest.decode(errors="replace").splitlines())

    def _allowed(self, texts: list[str]) -> list[LogLine]:
        if self._forward_logs == "none":
            return []
        at = now()
        said = (self._levels.read(text) for text in texts)
        return [
            {"at": at, "level": level, "text": text} for level, text in said if self._forward_logs == "all" or is_error(level)
        ]
