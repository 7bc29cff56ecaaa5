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
from flower_app.returning import Returning
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
    k_of_n: int
    missing: tuple[str, ...]

    @property
    def is_over(self) -> bool:
        return self.here >= self.min_available and self.free >= max(1, self.k_of_n) and not self.missing

    @property
    def wanted(self) -> int:
        return max(self.min_available, self.k_of_n, self.here + len(self.missing))

    def words(self) -> str:
        """Say it in a few words."""
        if self.missing:
            return f"{self.here} of {self.wanted} nodes available (not back from the round before: {', '.join(self.missing)})"
        if self.here < self.min_available:
            return f"{self.here} of {self.min_available} nodes available"
        return f"{self.free} of {max(1, self.k_of_n)} nodes free to start"


class Gate:
    """Waits, before each round, for min-available nodes that are there and k-of-n that can start at once.

    Before the first round of an attempt that goes on it waits for the nodes of the round before, too.

    Under late = drop it gives those that still work on an older round a moment to be freed, so that they join this one.
    """

    def __init__(self, config: RunConfig, record: RunRecord, clock: Clock, control: Callable[[], Control]) -> None:
        self._config, self._record, self._clock, self._control = config, record, clock, control
        self._returning = Returning(record.last_asked())
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
            shortage = Shortage(presence.here(), len(free), self._config.min_available, self._config.k_of_n, names)
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
                self._record.waiting(number, shortage.here, shortage.wanted, self._clock.now() + timedelta(seconds=left_s))
            if waited_s - told_s >= PROGRESS_EVERY_S:
                told_s = waited_s
                log(INFO, "round %d waits for nodes: %s, %.0f s left", number, shortage.words(), left_s)
            self._clock.sleep(POLL_S)
