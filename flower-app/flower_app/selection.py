"""Which nodes a round asks: those that are there, and of them the ones a policy chooses."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

Select = Callable[[int, Sequence[int]], list[int]]
"""(round, node ids that are available, ascending) -> node ids that get a message."""


@dataclass(frozen=True)
class Presence:
    """Who is there now.

    online: node ids that Flower offers. owing: nodes that still work on an older round's message; a node works on
    one message at a time, so they get no new one. lost: nodes known dead although Flower still offers them.
    """

    online: Iterable[int]
    owing: Iterable[int]
    lost: Mapping[int, str]

    def here(self) -> int:
        """Count the nodes that are there, busy ones too."""
        return len(set(self.online) - set(self.lost))

    def busy(self) -> bool:
        """Is somebody there who still works on an older round's message?"""
        return bool(set(self.online) & set(self.owing) - set(self.lost))

    def available(self) -> list[int]:
        """Give the nodes that can start at once, ascending."""
        return sorted(set(self.online) - set(self.owing) - set(self.lost))


def select_all(server_round: int, available: Sequence[int]) -> list[int]:
    """Ask everybody."""
    return list(available)


def known_first(nodes: Sequence[int], known: Iterable[int], most: int) -> list[int]:
    """Choose at most so many of them, ascending: first the ones that are known, in that order, then by node id."""
    places = {node: place for place, node in enumerate(known)}
    in_turn = sorted(nodes, key=lambda node: (places.get(node, len(places)), node))
    return sorted(in_turn[:most])
