"""A supervised process that is to run until it is told not to: started again when it dies unasked, with back-off."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from control_plane.errors import StartFailed
from control_plane.probes import Probe
from control_plane.process import SupervisedProcess

log = logging.getLogger(__name__)
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
STEADY_S = 60.0  # one that ran for so long begins with the first pause again


@dataclass(frozen=True)
class Launch:
    """How a process is started and when it is ready."""

    argv: list[str]
    env: Mapping[str, str]
    ready: Probe


class Kept:
    """One process and the wish that it runs."""

    def __init__(self, process: SupervisedProcess, launch: Callable[[], Awaitable[Launch]]) -> None:
        self.process = process
        self.wanted = False
        self._launch = launch
        self._pause_s = FIRST_PAUSE_S
        self._not_before = 0.0
        self._up_since: float | None = None

    async def start(self) -> None:
        """Start it and keep it from now on. Raises StartFailed, and then it is not kept."""
        self.wanted = True
        self._pause_s, self._not_before = FIRST_PAUSE_S, 0.0
        try:
            await self._start()
        except BaseException:
            self.wanted = False
            raise

    async def adopt(self, ready: Probe | None = None) -> bool:
        """Take over the process that an earlier server left, and keep it, or what replaces it, from now on."""
        self.wanted = True
        if self.process.is_alive:
            return True
        adopted = await self.process.adopt(ready)
        self._up_since = time.monotonic() if adopted else None
        return adopted

    async def stop(self) -> None:
        """End it and keep it no longer."""
        self.wanted = False
        await self.process.stop()

    async def look(self) -> bool:
        """See that it runs, starting it again when its pause is over; True when it runs."""
        if not self.wanted or self.process.is_alive:
            return self.process.is_alive
        if self._up_since is not None:
            steady = time.monotonic() - self._up_since > STEADY_S
            self._pause_s = FIRST_PAUSE_S if steady else self._pause_s
            self._up_since = None
            self._wait()
        if time.monotonic() < self._not_before:
            return False
        try:
            await self._start()
        except StartFailed as failed:
            self._wait()
            log.error("%s does not start again, next try in %.1f s: %s", self.process.name, self._pause_s / 2, failed)
        return self.process.is_alive

    def view(self) -> dict[str, Any]:
        """Say how it is."""
        process, end = self.process, self.process.exit
        state, reason = str(process.state), None if end is None else end.reason
        if self.wanted and not process.is_alive and end is not None:
            reason = f"{reason}; it is started again"
        last = [] if end is None else end.last_lines
        return {"state": state, "pid": process.pid, "started_at": process.started_at, "reason": reason, "last_lines": last}

    async def _start(self) -> None:
        launch = await self._launch()
        await self.process.start(launch.argv, launch.env, ready=launch.ready)
        self._up_since = time.monotonic()

    def _wait(self) -> None:
        self._not_before = time.monotonic() + self._pause_s
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
