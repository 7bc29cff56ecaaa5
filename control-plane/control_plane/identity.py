"""Which process is meant: a pid together with the moment at which it started."""

import logging
import os
import signal
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from control_plane.files import read_json, write_json

_log = logging.getLogger(__name__)
_DEAD_STATES = frozenset("ZXx")


def start_mark(pid: int) -> str | None:
    """Say when a process started, in words that no later process with its pid shares; None when there is none.

    Linux: field 22 of /proc/<pid>/stat, in clock ticks since boot; elsewhere psutil's create_time. A zombie has its mark still.
    """
    if sys.platform == "linux":
        fields = _stat(pid)
        return fields[19] if fields else None
    try:
        return str(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None


@dataclass(frozen=True)
class ProcessRecord:
    """What proc.json holds: enough to find a process again after our own restart, and never another in its place."""

    pid: int
    start_mark: str
    name: str
    started_at: str

    @classmethod
    def of(cls, pid: int, name: str) -> "ProcessRecord | None":
        """Describe a process that is there now; None when it is not."""
        mark = start_mark(pid)
        return None if mark is None else cls(pid, mark, name, _now())

    @classmethod
    def read(cls, path: Path) -> "ProcessRecord | None":
        """Read a proc.json; None when it is absent, or malformed, which is logged."""
        try:
            value = read_json(path)
            if value is None:
                return None
            return cls(int(value["pid"]), str(value["start_mark"]), str(value["name"]), str(value["started_at"]))
        except (ValueError, KeyError, TypeError) as error:
            _log.warning("%s is not a process record: %r", path, error)
            return None

    def write(self, path: Path) -> None:
        """Write a proc.json, atomically."""
        write_json(path, asdict(self))

    def is_alive(self) -> bool:
        """Is it there, the same one, and not a zombie?"""
        if sys.platform == "linux":
            fields = _stat(self.pid)
            return fields is not None and fields[19] == self.start_mark and fields[0] not in _DEAD_STATES
        try:
            return start_mark(self.pid) == self.start_mark and psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def group(self) -> int | None:
        """Find the process group that may be signalled for this process; None when there is none of ours.

        While its leader or anything else of a group exists, the kernel gives its number to nobody else: a pid that is
        taken by a process with another mark therefore proves that the whole group is gone.
        """
        mark = start_mark(self.pid)
        if mark is not None and mark != self.start_mark:
            return None
        try:
            group = self.pid if mark is None else os.getpgid(self.pid)
        except ProcessLookupError:
            group = self.pid
        return None if group == os.getpgrp() else group

    def group_members(self) -> list[int]:
        """List the pids in its group that are not zombies; the leader may have left."""
        group = self.group()
        return [] if group is None else [pid for pid in psutil.pids() if _lives_in(pid, group)]

    def signal_group(self, number: signal.Signals) -> bool:
        """Send a signal to its whole group, also when the leader has left; False when nobody was there.

        A process that shares our own group (we never start one so) is signalled alone.
        """
        try:
            if (group := self.group()) is not None:
                os.killpg(group, number)
            elif self.is_alive():
                os.kill(self.pid, number)
            else:
                return False
        except ProcessLookupError:
            return False
        return True


def _lives_in(pid: int, group: int) -> bool:
    try:
        if os.getpgid(pid) != group:
            return False
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, PermissionError, psutil.Error):
        return False


def _stat(pid: int) -> list[str] | None:
    """Split /proc/<pid>/stat from field 3 (state) on: the name before it may hold blanks and brackets."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
