"""How a run ended, derived: never set by hand, never taken from an exit code alone.

1. the journal's end line (the store has applied it: the run has ended already)
2. what we noted on the attempt before our own StopRun: `stop asked…` is stopped, `ServerApp died…` is failed
3. Flower's sub-status
4. while Flower has no end: the process, where a signal or an exit code other than 0 is failed; 0 alone says nothing
"""

from dataclasses import dataclass
from typing import Any

from admin_server.flower import FlowerRun
from admin_server.watch.process_end import Attempt, ProcessEnd
from admin_server.watch.server_log import last_traceback, strip_ansi

STOP_ASKED = "stop asked"
DIED = "ServerApp died"
TRACEBACK_LINES = 2000
LAST_LINES = 20


@dataclass(frozen=True)
class Outcome:
    """completed, failed or stopped, and in a few words why."""

    status: str
    reason: str


def derive(noted: str | None, flower: FlowerRun | None, end: ProcessEnd | None) -> Outcome | None:
    """Derive the outcome of a run whose journal has no end line; None while nobody knows.

    noted: the attempt's reason. flower: None when the SuperLink cannot be asked. end: None while the process lives, or when
    it was never started.
    """
    if noted is not None:
        return Outcome("stopped" if noted.startswith(STOP_ASKED) else "failed", noted)
    if flower is not None and flower.status == "finished":
        status = flower.sub_status if flower.sub_status in ("completed", "stopped") else "failed"
        return Outcome(status, flower.details or f"Flower says {flower.sub_status}")
    if end is not None and not end.is_clean:
        return Outcome("failed", f"{DIED}: {end.words()}")
    return None


def cause(kind: str, message: str, **more: Any) -> dict[str, Any]:
    """Make a cause that names no node, unless `more` does."""
    return {"node_id": None, "node_name": None, "type": kind, "message": message, "traceback": None, "last_lines": [], **more}


def cause_of(reason: str, attempt: Attempt, end: ProcessEnd | None, node_name: str) -> dict[str, Any]:
    """Say why a run failed: the last traceback of its output, unless a signal ended it; else the reason itself.

    node_name: the coordinator's, since it is the ServerApp that failed.
    """
    lines = attempt.last_lines(TRACEBACK_LINES) or list(end.last_lines if end else ())
    last = [strip_ansi(line) for line in lines[-LAST_LINES:]]
    killed = end is not None and end.rc is None
    raised = None if killed else last_traceback(lines)
    if raised is not None:
        return cause(raised.type, raised.message, node_name=node_name, traceback=raised.text, last_lines=last)
    kind = "ServerAppDied" if reason.startswith(DIED) else "RunFailed"
    return cause(kind, reason, node_name=node_name, last_lines=last)
