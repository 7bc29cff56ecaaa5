"""A benchmark that is told to end takes its servers with it."""

from __future__ import annotations

import signal
import sys
from types import FrameType

TOLD = (signal.SIGTERM, signal.SIGHUP)


def leave_in_order() -> None:
    """Have a signal to end be an exit (128 + its number), which runs every `finally`; further ones do not cut those short."""
    for number in TOLD:
        signal.signal(number, _leave)


def _leave(number: int, _frame: FrameType | None) -> None:
    for each in TOLD:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)
