"""Whom an attempt that goes on waits for: the nodes that the run had, so that they, and no fewer, go on with their data."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from flower_app.updates import LOST

PATIENCE_S = 60.0
"""An attempt that nobody asked for waits so long, and then takes whoever is there; a node is back from a power cut in 20 s."""

SAME, ANY = "same", "any"


class Returning:
    """The nodes that are waited for before the first round of an attempt, as Flower node ids.

    An attempt that nobody asked for waits for those that the last opened round asked, but for the ones that were lost in it. By
    hand: `any` for nobody; `same` for as long as the gate does, and for all that were asked in the last committed round or since,
    lost ones too: that one of them died may be why the run failed, and now it is repaired.
    """

    def __init__(self, expected: Collection[int], same: Collection[int]) -> None:
        self._expected, self._same = frozenset(expected), frozenset(same)

    @classmethod
    def of(cls, past: Sequence[Mapping[str, Any]]) -> "Returning":
        """Read a journal."""
        asked: set[str] = set()
        lost: set[str] = set()
        same: set[str] = set()
        for record in past:
            if record["kind"] == "round.opened":
                asked, lost = set(record["nodes"]), set()
                same |= asked
            elif record["kind"] == "round.closed":
                same = set(asked)
            elif record["kind"] == "update" and record["status"] == LOST:
                lost.add(record["node_id"])
        return cls([int(node) for node in asked - lost], [int(node) for node in same])

    def missing(self, available: Collection[int], choice: str | None, waited_s: float, limit_s: float) -> list[int]:
        """Give the nodes that are still waited for, after waited_s of the limit_s that the gate may take."""
        if choice == ANY or (choice is None and waited_s >= min(PATIENCE_S, limit_s)):
            return []
        return sorted((self._same if choice == SAME else self._expected).difference(available))

    def are_back(self) -> None:
        """From the next round on nobody is waited for."""
        self._expected = self._same = frozenset()
