"""Processes that the kernel kills because memory runs out: how many there have been, and what to say of one that was ours.

Source: Linux, Documentation/admin-guide/cgroup-v2.rst (memory.events) and cgroup-v1/memory.rst (memory.oom_control), `oom_kill`.
"""

import signal
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from flower_runtime.procfile import describe_end

GB = 1e9


class OomKills:
    """A look at the kernel's count, where it counts for this process: in its cgroup, else on the machine.

    Taken before a process is started, it tells at its end whether a SIGKILL that nobody sent was for want of memory. A count
    rises before the signal goes out.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._before = _count(root)

    def describe_end(self, returncode: int, knobs: str, peak_bytes: int = 0) -> str:
        """Say how the process ended and, if memory ran out, that it did, with the knobs to turn.

        returncode: as subprocess gives it. peak_bytes: what the process was seen to hold, 0 when nobody looked.
        """
        how = describe_end(returncode)
        now = _count(self._root) if returncode == -signal.SIGKILL else None
        if now is None or self._before is None or now <= self._before:
            return how
        seen = f" when it held at least {peak_bytes / GB:.1f} GB" if peak_bytes else ""
        return f"{how}: memory ran out{seen}: {knobs}"


def peak_bytes(pid: int) -> int:
    """Give the highest resident memory of a process so far; 0 where there is none to see."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0)


def _count(root: Path) -> int | None:
    """Give the narrowest count; None where the kernel tells none."""
    for path in _counters(root):
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return None


def _counters(root: Path) -> Iterator[Path]:
    """Name the files that may count, the narrowest first; a container may be in a cgroup that it sees another path of."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        groups = []
    for group in groups:
        _, controllers, path = group.split(":", 2)
        below = PurePosixPath(path.lstrip("/"))
        if not controllers:
            yield from (root / "sys/fs/cgroup" / folder / "memory.events" for folder in (below, *below.parents))
        elif "memory" in controllers.split(","):
            yield from (root / "sys/fs/cgroup/memory" / folder / "memory.oom_control" for folder in (below, *below.parents))
    yield root / "proc/vmstat"
