"""Processes that a ClientApp leaves outside its group: adopted by the node when the ClientApp ends, and killed."""

import ctypes
import os
import signal
import sys
from collections.abc import Collection
from contextlib import suppress

import psutil

_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Have the kernel make this process the parent of whatever its descendants leave behind. Linux only."""
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) was refused")


def kill_orphans(ours: Collection[int]) -> list[int]:
    """Kill and reap every child of this process but ours, and what those leave in turn; give their pids."""
    killed: list[int] = []
    if sys.platform != "linux":
        return killed
    while orphans := [child.pid for child in psutil.Process().children() if child.pid not in ours]:
        for pid in orphans:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)
        killed += orphans
    return killed
