"""Processes that may have little memory together: in a cgroup of their own, of either version, where one is to be had."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import pytest

NAME = "espalier-test-memory"
CGROUPS = Path("/sys/fs/cgroup")


@contextlib.contextmanager
def small_memory(pids: Iterable[int], limit_bytes: int) -> Iterator[None]:
    """Let these processes, and what they start, take so much beyond what they have; skips the test where that cannot be had."""
    try:
        mine, home = _groups()
        group = home / NAME
        group.mkdir(exist_ok=True)
        for name, value in {
            "memory.limit_in_bytes": limit_bytes,
            "memory.memsw.limit_in_bytes": limit_bytes,
            "memory.max": limit_bytes,
            "memory.swap.max": 0,
        }.items():
            if (group / name).exists():
                (group / name).write_text(str(value))
    except OSError as error:
        pytest.skip(f"no memory limit is to be had here: {error.strerror}")
    try:
        for each in pids:
            (group / "cgroup.procs").write_text(str(each))
        yield
    finally:
        while left := (group / "cgroup.procs").read_text().split():
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    (mine / "cgroup.procs").write_text(pid)
        group.rmdir()


def _groups() -> tuple[Path, Path]:
    """Give the cgroup that this process is in, and where a limited one can be made. Raises OSError."""
    groups = [line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines()]
    for controllers, path in groups:
        if "memory" in controllers.split(","):
            mine = CGROUPS / "memory" / path.lstrip("/")
            return mine, mine.resolve(strict=True)
    below = PurePosixPath(next(path for controllers, path in groups if not controllers).lstrip("/"))
    for folder in below.parents:  # a group of version 2 holds processes or limited groups
        if "memory" in (CGROUPS / folder / "cgroup.subtree_control").read_text().split():
            return CGROUPS / below, CGROUPS / folder
    raise OSError(0, "no cgroup above limits memory")
