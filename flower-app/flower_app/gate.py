"""The gate before a round: it opens when enough nodes are there, and says all the while who is missing."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from logging import INFO

from flwr.common.logger import log

from flower_app.clock import Clock
from flower_app.config import RunConfig
from flower_app.control import Control
from flower_app.record import RunRecord
from flower_app.round import POLL_S
from flower_app.selection import Presence

PROGRESS_EVERY_S = 5.0
FREED_WITHIN_S = 2.0  # from the journal's `late` to the killed ClientApp's answer it takes about one


class TooFewNodes(RuntimeError):
    """Not enough nodes came in time."""


@dataclass(frozen=True)
class Shortage:
    """How many nodes are there (`here`) or could start at once (`free`), against how many are needed; and who is not back."""

    here: int
    free: int
    min_available: int
    min_free: int
    missing: tuple[str, ...]

    @property
    def is_over(self) -> bool:
        return self.here >= self.min_available and self.free >= self.min_free and not self.missing

    @property
    def _lacks_free(self) -> bool:
        return self.here >= self.min_available and not self.missing

    @property
    def available(self) -> int:
        """How many there are of what it waits for: of nodes, or where enough are there, of those that could start."""
        return self.free if self._lacks_free else self.here

    @property
    def wanted(self) -> int:
        """How many it waits for of the same."""
        return self.min_free if self._lacks_free else max(self.min_available, self.min_free, self.here + len(self.missing))

    def words(self) -> str:
        """Say it in a few words."""
        if self._lacks_free:
            return f"{self.available} of {self.wanted} nodes free to start"
        absent = f" (not back: {', '.join(self.missing)})" if self.missing else ""
        return f"{self.available} of {self.wanted} nodes available{absent}"


class Gate:
    """Waits, before each round, for min-available nodes that are there, and for those that it needs to be free to start.

    Before the first round of an attempt that goes on it waits for nodes that the run had before, too.

    Under late = drop it gives those that still work on an older round a moment to be freed, so that they join this one.
    """

    def __init__(self, config: RunConfig, min_free: int, record: RunRecord, clock: Clock, control: Callable[[], Control]) -> None:
        """min_free: nodes that a round begins with at least."""
        self._config, self._min_free = config, min_free
        self._record, self._clock, self._control = record, clock, control
        self._returning = record.returning()
        self._patience_s = FREED_WITHIN_S if config.late == "drop" else 0.0

    def wait(
        self, number: int, present: Callable[[], Presence], hold: Callable[[], float], name_of: Callable[[int], str]
    ) -> list[int]:
        """Give the nodes that can start, ascending.

        present: looks who is there. hold: stays while the run is paused, and gives the seconds of that. name_of: of a node.
        Raises TooFewNodes, and what present and hold raise.
        """
        limit_s = self._config.min_available_timeout_s
        started, told_s, told = self._clock.monotonic(), -PROGRESS_EVERY_S, None
        while True:
            if held_s := hold():
                started, told = started + held_s, None
            presence = present()
            free = presence.available()
            waited_s = self._clock.monotonic() - started
            missing = self._returning.missing(free, self._control().nodes, waited_s, limit_s)
            names = tuple(name_of(node) for node in missing)
            shortage = Shortage(presence.here(), len(free), self._config.min_available, self._min_free, names)
            if shortage.is_over:
                if not presence.busy() or waited_s >= self._patience_s:
                    self._returning.are_back()
                    return free
                self._clock.sleep(POLL_S)
                continue
            left_s = limit_s - waited_s
            if left_s <= 0:
                raise TooFewNodes(f"{shortage.words()} after {limit_s:g} s")
            if shortage != told:
                told = shortage
                self._record.waiting(number, shortage.available, shortage.wanted, self._clock.now() + timedelta(seconds=left_s))
            if waited_s - told_s >= PROGRESS_EVERY_S:
                told_s = waited_s
                log(INFO, "round %d waits for nodes: %s, %.0f s left", number, shortage.words(), left_s)
            self._clock.sleep(POLL_S)
