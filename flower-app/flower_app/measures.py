"""What a process says of itself with a reply: memory, threads, time.

Source of its limits: Linux, Documentation/admin-guide/cgroup-v2.rst (memory.max), cgroup-v1/memory.rst (memory.limit_in_bytes).
"""

import os
import platform
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath


def rss_bytes() -> int:
    """Give the resident memory of this process now; where there is no /proc, the highest so far."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return _high_water_bytes()


def peak_rss_bytes() -> int:
    """Give the highest resident memory of this process so far; the kernel's own mark may lag behind by some pages."""
    return max(_high_water_bytes(), rss_bytes())


def memory_bytes(root: Path = Path("/")) -> int:
    """Give the memory that this process may take: the machine's RAM, or what the narrowest of its cgroups is limited to."""
    return min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_limits_bytes(root)])


def threads(num_nodes: int, environment: Mapping[str, str] = os.environ) -> int:
    """Give the threads to compute with: OMP_NUM_THREADS where it is set, else this machine's share for one of num_nodes."""
    wanted = environment.get("OMP_NUM_THREADS", "")
    return max(1, int(wanted) if wanted.isdigit() else (os.cpu_count() or 1) // num_nodes)


def architecture() -> str:
    """Name the machine's kind, e.g. x86_64."""
    return platform.machine()


class Stopwatch:
    """Seconds by part, of one monotonic clock."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure a block; its time stands under name even if it raises."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start


def _limits_bytes(root: Path) -> Iterator[int]:
    """Give each limit along this process's path; a container may be in a cgroup that it sees another path of."""
    groups: list[str] = []
    with suppress(OSError):
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        tree, name = ("memory", "memory.limit_in_bytes") if controllers else ("", "memory.max")
        below = PurePosixPath(path.lstrip("/"))
        for folder in (below, *below.parents):
            with suppress(OSError, ValueError):  # no such file, or "max"
                yield int((root / "sys/fs/cgroup" / tree / folder / name).read_text())


def _high_water_bytes() -> int:
    """Give the kernel's mark; getrusage's, which a program inherits from whoever started it, only where there is no /proc."""
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        for line in lines:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
