"""What became of a ServerApp's process, read from its attempt's folder: proc.json, exit.json, server.log."""

import fcntl
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from control_plane.files import read_json
from control_plane.identity import ProcessRecord
from control_plane.logfiles import last_lines


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

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @property
    def has_begun(self) -> bool:
        """Was its ServerApp started?"""
        return (self.folder / "proc.json").exists()

    def process(self) -> ProcessRecord | None:
        """The ServerApp, if it is alive."""
        record = ProcessRecord.read(self.folder / "proc.json")
        return record if record is not None and record.is_alive() else None

    def end(self) -> ProcessEnd | None:
        """How it ended; None while it lives, before it was started, and while its wrapper has still to write exit.json."""
        if (told := self._told()) is not None:
            return told
        if not self.has_begun or self.process() is not None or _is_held(self.folder):
            return None
        return self._told() or ProcessEnd(None, None)

    def _told(self) -> ProcessEnd | None:
        told = read_json(self.folder / "exit.json")
        if not isinstance(told, dict):
            return None
        return ProcessEnd(told.get("rc"), told.get("signal"), tuple(told.get("last_lines") or ()))

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


def _is_held(folder: Path) -> bool:
    """Does a wrapper live there? It holds a shared lock of its attempt's folder (flower_runtime.wrapper)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
