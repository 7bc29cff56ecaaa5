"""Whom an attempt that goes on waits for: the nodes of the round before it, so that they, and no fewer, go on with their data."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from flower_app.updates import LOST

PATIENCE_S = 60.0
"""An attempt that nobody asked for waits so long, and then takes whoever is there; a node is back from a power cut in 20 s."""

SAME, ANY = "same", "any"


class Returning:
    """The nodes that are waited for before the first round of an attempt.

    expected: Flower node ids. A choice by hand: `same` waits as long as the gate does, `any` for nobody.
    """

    def __init__(self, expected: Collection[int]) -> None:
        self._expected = frozenset(expected)

    def missing(self, available: Collection[int], choice: str | None, waited_s: float, limit_s: float) -> list[int]:
        """Give the nodes that are still waited for, after waited_s of the limit_s that the gate may take."""
        if choice == ANY or (choice is None and waited_s >= min(PATIENCE_S, limit_s)):
            return []
        return sorted(self._expected.difference(available))

    def are_back(self) -> None:
        """From the next round on nobody is waited for."""
        self._expected = frozenset()


def last_asked(past: Sequence[Mapping[str, Any]]) -> list[int]:
    """Give the nodes that the last opened round of a journal asked, but for those that were lost in it."""
    asked: dict[str, None] = {}
    for record in past:
        if record["kind"] == "round.opened":
            asked = dict.fromkeys(record["nodes"])
        elif record["kind"] == "update" and record["status"] == LOST:
            asked.pop(record["node_id"], None)
    return [int(node) for node in asked]
