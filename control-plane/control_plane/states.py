"""The states of a supervised process, and how one ends."""

import signal
from dataclasses import dataclass, field
from enum import StrEnum


class State(StrEnum):
    """Where a supervised process stands; the diagram is in SupervisedProcess."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    EXITED = "exited"
    FAILED = "failed"
    LOST = "lost"


_FROM_REST = frozenset({State.STARTING, State.RUNNING, State.LOST})
TRANSITIONS: dict[State, frozenset[State]] = {
    State.STARTING: frozenset({State.RUNNING, State.STOPPING, State.FAILED}),
    State.RUNNING: frozenset({State.STOPPING, State.EXITED, State.FAILED, State.LOST}),
    State.STOPPING: frozenset({State.STOPPED}),
    State.STOPPED: _FROM_REST,
    State.EXITED: _FROM_REST,
    State.FAILED: _FROM_REST,
    State.LOST: _FROM_REST,
}


@dataclass(frozen=True)
class Exit:
    """How a process ended: by rc or by signal, or both None when its end was not ours to see."""

    rc: int | None
    signal: int | None
    reason: str
    last_lines: list[str] = field(default_factory=list)


def say_exit(code: int | None) -> str:
    """Say a wait status in words: `exit code 3`, `killed by signal 9 (SIGKILL)`; None: `ended, exit code unknown`."""
    if code is None:
        return "ended, exit code unknown"
    if code >= 0:
        return f"exit code {code}"
    name = f" ({signal.Signals(-code).name})" if -code in set(signal.Signals) else ""
    return f"killed by signal {-code}{name}"
