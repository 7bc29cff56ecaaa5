"""Which Flower nodes are known dead, for control.json: said by their client server, or offline at the SuperLink.

A client server that is silent says nothing about its SuperNode, so it is not in here.
"""

import time
from collections.abc import Callable

HOLD_S = 5.0
"""So long a node stays lost after it has come back: the engine looks each 0.25 s, but not while it aggregates."""


SITE, SUPERLINK = "site", "superlink"


class LostNodes:
    """The dead SuperNodes by Flower node id, with the reason.

    Two say so, and each takes back only its own word: the SuperLink has a killed node as online for another 37 to 60 s.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._dead: dict[tuple[str, str], tuple[str, float]] = {}
        self._back: set[tuple[str, str]] = set()
        self._sessions: dict[str, str] = {}

    def dead(self, flower_node_id: str, reason: str, said_by: str = SITE) -> None:
        """Its SuperNode is gone; what it was working on will never be answered."""
        word = (flower_node_id, said_by)
        if word not in self._dead or word in self._back:
            self._dead[word] = (reason, self._clock())
        self._back.discard(word)
        if said_by == SITE:
            self._sessions.pop(flower_node_id, None)  # this death is known: the next session tells of no other

    def alive(self, flower_node_id: str, session_id: str | None = None, said_by: str = SITE) -> None:
        """Its SuperNode runs. Another session than before means that the one before died unseen."""
        word = (flower_node_id, said_by)
        if session_id is not None:
            if self._sessions.get(flower_node_id, session_id) != session_id and word not in self._dead:
                self.dead(flower_node_id, "its SuperNode was started anew", said_by)
            self._sessions[flower_node_id] = session_id
        if word in self._dead:
            self._back.add(word)

    def reasons(self) -> dict[str, str]:
        """Give the lost nodes of this moment."""
        for word in [word for word in self._back if self._clock() - self._dead[word][1] >= HOLD_S]:
            del self._dead[word]
            self._back.discard(word)
        return {node: reason for (node, _), (reason, _) in self._dead.items()}
