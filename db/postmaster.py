"""The postmaster as a process: who it is, whether it lives, what it leaves behind when it was killed."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from db.files import write_whole

# Children that we started, by pid: poll() reaps them, and Popen does not complain when its owner forgets it.
_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class Postmaster:
    """A process by pid and start time, as proc.json keeps it."""

    pid: int
    start_mark: str
    name: str
    started_at: str

    @classmethod
    def of(cls, pid: int) -> "Postmaster | None":
        """Describe the process that has this pid now; None when it is gone or a zombie."""
        mark = _start_mark(pid)
        return None if mark is None else cls(pid, mark, "postgres", datetime.now(UTC).isoformat(timespec="milliseconds"))

    @classmethod
    def read(cls, path: Path) -> "Postmaster | None":
        """Read a proc.json; None when there is none, or none that can be read."""
        try:
            return cls(**json.loads(path.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    @classmethod
    def of_data(cls, data: Path) -> "Postmaster | None":
        """Find the live postmaster of a data directory by its postmaster.pid, also when no proc.json was written for it."""
        pid = _pid_in(data)
        return cls.of(pid) if pid is not None and pid in users_of(data) else None

    def write(self, path: Path) -> None:
        """Write proc.json atomically."""
        write_whole(path, json.dumps(asdict(self)))

    def is_alive(self) -> bool:
        """Is it there, the same one, and no zombie?"""
        return _start_mark(self.pid) == self.start_mark

    def signal(self, number: int) -> None:
        """Send a signal, if it is still there."""
        if self.is_alive():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def adopt_child(process: subprocess.Popen[bytes]) -> None:
    """Reap this child when it dies, without waiting for it."""
    _children[process.pid] = process


def users_of(data: Path) -> list[int]:
    """List the live processes that work in a data directory: the postmaster and its backends have it as their cwd."""
    where = str(data.resolve())
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.cwd() == where and _start_mark(process.pid) is not None:
                found.append(process.pid)
    return found


def clear_lock(data: Path) -> bool:
    """Remove a postmaster.pid that no living process stands behind; False while somebody still works there.

    Postgres takes a zombie for a living postmaster, for ever in a container without a reaper. The file guards the data also
    against backends that outlive their postmaster, hence the look at every process that works there.
    """
    if users_of(data) or _may_be_at_work(data):
        return False
    (data / "postmaster.pid").unlink(missing_ok=True)
    return True


def _may_be_at_work(data: Path) -> bool:
    """Is the process that postmaster.pid names a Postgres whose cwd we may not see?"""
    pid = _pid_in(data)
    if pid is None or _start_mark(pid) is None:
        return False
    try:
        process = psutil.Process(pid)
        name = process.name()
        process.cwd()
    except psutil.AccessDenied:
        return name.startswith("postgres")
    except psutil.NoSuchProcess:
        return False
    return False


def _pid_in(data: Path) -> int | None:
    try:
        return int((data / "postmaster.pid").read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None


def _start_mark(pid: int) -> str | None:
    if pid in _children and _children[pid].poll() is not None:
        del _children[pid]
    if sys.platform == "linux":
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in ("Z", "X", "x") else fields[19]
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    return None
