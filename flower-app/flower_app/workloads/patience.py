"""Asking again where somebody is busy or out of reach: after 1, 2, 4 … s, or as long as they ask for themselves."""

import math
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

FIRST_WAIT_S = 1.0
T = TypeVar("T")


class Busy(Exception):
    """Another try may help, after asked_s seconds if it has been said so."""

    def __init__(self, told: str, asked_s: float | None = None) -> None:
        super().__init__(told)
        self.asked_s = asked_s


class TriedInVain(Exception):
    """Nor did another try help; says how many there were, and what was told at the last one."""


def patiently(
    ask: Callable[[], T],
    name: str,
    *,
    tries: int,
    longest_wait_s: float,
    until: float = math.inf,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Ask; again while Busy is raised, but not past `until`, of time.monotonic(). Raises TriedInVain."""
    for tried in range(1, tries + 1):
        try:
            return ask()
        except Busy as busy:
            wait_s = min(FIRST_WAIT_S * 2.0 ** (tried - 1) if busy.asked_s is None else busy.asked_s, longest_wait_s)
            if tried == tries or time.monotonic() + wait_s > until:
                raise TriedInVain(f"after {tried} {'try' if tried == 1 else 'tries'}: {busy}") from busy
            print(f"{name}: {busy}; trying again in {wait_s:g} s", flush=True)
            sleep(wait_s)
    raise AssertionError("unreachable")


def is_busy(status: int) -> bool:
    """Does an HTTP status say that another try may help?"""
    return status == 429 or status >= 500


def asked_s(headers: Mapping[str, str]) -> float | None:
    """Read how long an answer asks for; a date is not read."""
    asked = headers.get("Retry-After", "")
    return float(asked) if asked.isascii() and asked.isdigit() else None
