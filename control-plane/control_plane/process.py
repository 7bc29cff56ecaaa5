"""A supervised process (skeleton; the signatures are final)."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from control_plane.probes import Probe


class State(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    EXITED = "exited"
    FAILED = "failed"
    LOST = "lost"


@dataclass(frozen=True)
class Exit:
    """How a process ended: rc or signal, both None when its end was not ours to see; reason is a sentence's part."""

    rc: int | None
    signal: int | None
    reason: str
    last_lines: list[str]


class SupervisedProcess:
    def __init__(
        self,
        name: str,
        state_dir: Path,
        *,
        ready_timeout_s: float = 30.0,
        grace_s: float = 10.0,
        log_cap_bytes: int = 256 * 2**20,
        on_change: "Callable[[SupervisedProcess], Awaitable[None]] | None" = None,
    ) -> None:
        self.name = name
        self.log_path = state_dir / f"{name}.log"
        self.state: State = State.STOPPED
        self.pid: int | None = None
        self.started_at: datetime | None = None
        self.exit: Exit | None = None

    async def start(self, argv: Sequence[str], env: Mapping[str, str], *, ready: Probe, cwd: Path | None = None) -> None:
        """Start and wait until ready. Raises StartFailed (facts: last_lines), IllegalTransition when it runs already."""
        raise NotImplementedError

    async def adopt(self, ready: Probe | None = None) -> bool:
        """Find the process of proc.json again; False: there is none, or it is gone (state lost)."""
        raise NotImplementedError

    async def stop(self) -> None:
        """End it, its whole group; returns when it is over. Nothing happens when it does not run."""
        raise NotImplementedError

    async def wait(self) -> Exit:
        """Wait for its end."""
        raise NotImplementedError

    @property
    def is_alive(self) -> bool:
        """Is it starting, running or stopping?"""
        raise NotImplementedError

    def last_lines(self, n: int = 20) -> list[str]:
        """Give the last lines of its log."""
        raise NotImplementedError

    def log_size(self) -> int:
        """Give the size of its log now: the since_offset of probes.log_line for the next start."""
        raise NotImplementedError
