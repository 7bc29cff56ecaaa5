"""What became of a ServerApp's process, read from its attempt's folder: proc.json, exit.json, server.log."""

import signal
from dataclasses import dataclass
from pathlib import Path

from control_plane.files import read_json
from control_plane.identity import ProcessRecord
from control_plane.logfiles import last_lines

WRAPPER_PATIENCE_LOOKS = 3  # exit.json follows the death by some milliseconds; no file after three looks: the wrapper died too


@dataclass(frozen=True)
class ProcessEnd:
    """How a ServerApp ended; rc and signal are both None when nobody saw it, or when it could not be started."""

    rc: int | None
    signal: int | None
    last_lines: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        return self.rc == 0

    def words(self) -> str:
        if self.signal is not None:
            return f"killed by signal {self.signal} ({signal_name(self.signal)})"
        if self.rc is not None:
            return f"ended with exit code {self.rc}"
        return self.last_lines[-1] if self.last_lines else "is gone and left no exit.json"


class Attempt:
    """One attempt's folder, looked at again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._looks_without_exit = 0

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def process(self) -> ProcessRecord | None:
        """The ServerApp, if it is alive."""
        record = ProcessRecord.read(self.folder / "proc.json")
        return record if record is not None and record.is_alive() else None

    def end(self) -> ProcessEnd | None:
        """How it ended; None while it lives, before it was started, and for the moment before exit.json is written."""
        told = read_json(self.folder / "exit.json")
        if isinstance(told, dict):
            return ProcessEnd(told.get("rc"), told.get("signal"), tuple(told.get("last_lines") or ()))
        if not (self.folder / "proc.json").exists() or self.process() is not None:
            self._looks_without_exit = 0
            return None
        self._looks_without_exit += 1
        return ProcessEnd(None, None) if self._looks_without_exit > WRAPPER_PATIENCE_LOOKS else None

    def kill(self) -> bool:
        """KILL the ServerApp's group; False when it is not there."""
        alive = self.process()
        return alive is not None and alive.signal_group(signal.SIGKILL)

    def last_lines(self, count: int) -> list[str]:
        return last_lines(self.log, count)


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
