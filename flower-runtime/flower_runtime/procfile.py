"""proc.json and exit.json: which process works in a folder, and how it ended.

A pid alone names no process, because the kernel gives it out again; the pid and its start mark do.
"""

import json
import os
import signal
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flower_runtime.plain_file import open_plain

_MOST_BYTES = 8 * 2**20


def now_text() -> str:
    """Say the time as RFC 3339 in UTC, with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def write_json(path: Path, content: object) -> None:
    """Replace a file by a JSON document, at once and readable by its owner alone."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def read_json(path: Path) -> Any:
    """Give the document in a file of at most 8 MiB, or None where there is no such file or no JSON in it."""
    file = open_plain(path)
    if file is None:
        return None
    with file:
        text = file.read(_MOST_BYTES + 1)
    try:
        return json.loads(text) if len(text) <= _MOST_BYTES else None
    except (ValueError, RecursionError):
        return None


def start_mark(pid: int) -> str | None:
    """Give what tells this process from another of the same pid; None when it is gone or a zombie.

    Linux: field 22 of /proc/<pid>/stat, ticks since boot. Elsewhere: the time that psutil gives.
    """
    if sys.platform != "linux":
        import psutil  # not on Linux, where it would double the memory of a run's wrapper

        try:
            process = psutil.Process(pid)
            return None if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
        except psutil.NoSuchProcess:
            return None
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold blanks and brackets; state is field 3
    return None if fields[0] in "ZX" else fields[19]


@dataclass(frozen=True)
class ProcessRecord:
    """What proc.json holds."""

    pid: int
    start_mark: str
    name: str
    started_at: str

    @classmethod
    def of(cls, pid: int, name: str) -> "ProcessRecord":
        """Describe a process that has just been started; a mark of "gone" when it has already ended."""
        return cls(pid, start_mark(pid) or "gone", name, now_text())

    @classmethod
    def read(cls, path: Path) -> "ProcessRecord | None":
        """Give the record in a file, or None where there is none that can be understood."""
        found = read_json(path)
        try:
            return cls(int(found["pid"]), str(found["start_mark"]), str(found["name"]), str(found["started_at"]))
        except (TypeError, KeyError, ValueError):
            return None

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

    def is_alive(self) -> bool:
        """Is this very process still there? A zombie is not."""
        return start_mark(self.pid) == self.start_mark


def write_exit(path: Path, returncode: int | None, last_lines: list[str]) -> None:
    """Write exit.json. returncode: as subprocess gives it, negative for a signal; None when nobody saw the end."""
    killed = returncode is not None and returncode < 0
    write_json(
        path,
        {
            "rc": None if killed else returncode,
            "signal": -returncode if killed and returncode is not None else None,
            "ended_at": now_text(),
            "last_lines": last_lines,
        },
    )


def describe_end(returncode: int) -> str:
    """Say how a process ended: `exit code 3`, `killed by signal 9 (SIGKILL)`."""
    if returncode >= 0:
        return f"exit code {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = "unknown"
    return f"killed by signal {-returncode} ({name})"
