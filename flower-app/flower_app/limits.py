"""What a run may use: time in all, and the server's memory for updates that are held."""

import os
from datetime import datetime

from flower_app.clock import Clock
from flower_app.config import RunConfig
from flower_app.rules import Rule
from flower_app.workloads.interface import Arrays

MB = 10**6


class RunTimeout(RuntimeError):
    """The run has used up run-timeout-s."""


class UpdatesDoNotFit(RuntimeError):
    """The updates that a strategy has to hold at once are larger than the memory that they may take."""


class RunClock:
    """The time that a run has in all, counted from its first attempt's opening."""

    def __init__(self, timeout_s: float, opened_at: datetime | None, clock: Clock) -> None:
        """timeout_s: 0 for as long as it takes. opened_at: None for a run that begins now."""
        self._clock, self._timeout_s = clock, timeout_s
        used_s = (clock.now() - opened_at).total_seconds() if opened_at else 0.0
        self._end = clock.monotonic() + timeout_s - used_s if timeout_s else None

    def deadline(self, wanted: float) -> float:
        """Give the earlier one of a wanted deadline and the run's end (monotonic s)."""
        return wanted if self._end is None else min(wanted, self._end)

    def check(self) -> None:
        """Raise RunTimeout after the end."""
        if self._end is not None and self._clock.monotonic() > self._end:
            raise RunTimeout(f"the run took longer than run-timeout-s = {self._timeout_s:g}")


def see_that_updates_fit(config: RunConfig, rule: Rule, model: Arrays, count: int) -> None:
    """Refuse a round whose updates are held, and do not fit. Raises UpdatesDoNotFit, before anything is sent.

    They may take server-memory-limit-mb, or half of the machine's memory. count: messages of the round; no more than k-of-n of
    their answers are held.
    """
    if rule.streams:
        return
    limit = config.server_memory_limit_mb * MB or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    held = min(config.k_of_n or count, count) * sum(values.nbytes for values in model.values())
    if held > limit:
        raise UpdatesDoNotFit(
            f"{config.strategy} holds all updates of a round, {held / MB:,.0f} MB here, and {limit / MB:,.0f} MB may be used: "
            "lower k-of-n, raise server-memory-limit-mb, or choose a strategy that is a weighted mean"
        )
