"""What a SuperNode says in its log: its id under Flower, and why it leaves."""

import re
from pathlib import Path

from control_plane.logfiles import Tail
from control_plane.states import Exit

READY = "SuperNode ID: "
MAIN_LOOP_ENDED = 75
"""The launcher's exit code where stock Flower would leave a process that does nothing more."""

_FLOWER_NODE_ID = re.compile(re.escape(READY) + r"(\d+)")
_REASON = re.compile(r"\[code: \d+\].*|SSL/TLS .*|Exit Code: \d+.*")


def find_flower_node_id(log: Path, since_offset: int) -> str | None:
    """Find under which id Flower knows the SuperNode that began its log at an offset."""
    tail = Tail(log, since_offset)
    while lines := tail.read():
        for line in lines:
            if found := _FLOWER_NODE_ID.search(line.text):
                return found[1]
    return None


def explain(end: Exit) -> str:
    """Say why it ended, with the reason that Flower gave in its last lines, if any."""
    if end.rc == MAIN_LOOP_ENDED:
        return f"Flower's main loop ended by itself ({end.reason})"
    said = next((found[0] for line in end.last_lines if (found := _REASON.search(line))), None)
    return end.reason if said is None else f"{end.reason}: {said.strip()}"
