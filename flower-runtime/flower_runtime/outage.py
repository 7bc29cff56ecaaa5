"""How a client behaves while its server is away."""

import logging
import time

_LONGEST_WAIT_S = 2.0
_SAY_EVERY_S = 30.0

log = logging.getLogger("executor")


class Outage:
    """Waits between the tries of an outage, up to 2 s, and says so once in 30 s."""

    def __init__(self, first_wait_s: float) -> None:
        self._first_wait_s = self._wait_s = first_wait_s
        self._said_at: float | None = None

    def wait(self, what: str) -> None:
        """Wait before the next try."""
        self._wait_s = min(self._wait_s * 1.5, _LONGEST_WAIT_S)
        if self._said_at is None or time.monotonic() - self._said_at > _SAY_EVERY_S:
            self._said_at = time.monotonic()
            log.warning("%s; trying again", what)
        time.sleep(self._wait_s)

    def end(self) -> None:
        """Note that SuperLink has answered."""
        if self._said_at is not None:
            log.info("SuperLink answers again")
        self._wait_s, self._said_at = self._first_wait_s, None
