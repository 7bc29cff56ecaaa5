"""Which process is meant: a pid together with the moment at which it started."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import psutil

from control_plane.clock import now
from control_plane.files import read_json, write_json

_log = logging.getLogger(__name__)
_DEAD_STATES = frozenset("ZXx")
_POLL_S = 0.25


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
        return None if mark is None else cls(pid, mark, name, now())

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

    async def ends_within(self, seconds: float) -> bool:
        """Wait until it is no longer alive, but not longer than this; True when it has ended.

        A pidfd, where the kernel gives one, wakes us at once; without it (and to be sure) we look each 0.25 s.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        with _exit_event(self.pid) as ended:
            while self.is_alive():
                if (left := deadline - loop.time()) <= 0:
                    return False
                if ended.is_set():
                    await asyncio.sleep(min(left, _POLL_S))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, _POLL_S)):
                        await ended.wait()
        return True

    def group_members(self) -> list[int]:
        """List the pids in its process group that are not zombies; the leader may have left.

        While anything of a group exists, the kernel gives its number to nobody else: a process of this pid with another mark
        proves that the whole group is gone. Without a leader, members must belong to its session and be no older than it.
        """
        if (group := self._group()) is None or self._is_of_an_earlier_boot():
            return []
        led = start_mark(self.pid) is not None
        return [pid for pid in psutil.pids() if _lives_in(pid, group) and (led or self._may_have_started(pid))]

    def signal_group(self, number: signal.Signals) -> bool:
        """Send a signal to its whole group, also when the leader has left; False when nobody was there.

        A process that shares our own group (we never start one so) is signalled alone.
        """
        group = self._group()
        try:
            if group is not None and (self.is_alive() or self.group_members()):
                os.killpg(group, number)
            elif self.is_alive():
                os.kill(self.pid, number)
            else:
                return False
        except ProcessLookupError:
            return False
        return True

    def _group(self) -> int | None:
        mark = start_mark(self.pid)
        if mark is not None and mark != self.start_mark:
            return None
        try:
            group = self.pid if mark is None else os.getpgid(self.pid)
        except ProcessLookupError:
            group = self.pid
        return None if group == os.getpgrp() else group

    def _may_have_started(self, pid: int) -> bool:
        mark = start_mark(pid)
        try:
            return mark is not None and float(mark) >= float(self.start_mark) and os.getsid(pid) == self.pid
        except ProcessLookupError:
            return False

    def _is_of_an_earlier_boot(self) -> bool:
        # Both are wall clock times, which may have been set since: an hour is never the difference that decides.
        return datetime.fromisoformat(self.started_at).timestamp() < psutil.boot_time() - 3600


@contextlib.contextmanager
def _exit_event(pid: int) -> Iterator[asyncio.Event]:
    """Give an event that the kernel sets when the process ends, child of ours or not; never set where it has no pidfd."""
    ended = asyncio.Event()
    try:
        descriptor = os.pidfd_open(pid)
    except (AttributeError, OSError):
        yield ended
        return
    loop = asyncio.get_running_loop()

    def notice() -> None:
        loop.remove_reader(descriptor)
        ended.set()

    loop.add_reader(descriptor, notice)
    try:
        yield ended
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


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
