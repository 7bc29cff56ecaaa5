"""Which Flower nodes are known dead, for control.json: said by their client server, or offline at the SuperLink.

A client server that is silent says nothing about its SuperNode, so it is not in here.
"""

from datetime import UTC, datetime

SITE, SUPERLINK = "site", "superlink"


class LostNodes:
    """The dead SuperNodes by Flower node id, with the reason, and the last death of each that has died.

    Two say so. The SuperLink takes back only its own word: it has a killed node as online for another 37 to 60 s. A site whose
    SuperNode begins anew takes back both: the SuperLink is asked every few seconds, and what it said was of the life before.
    """

    def __init__(self) -> None:
        self._dead: dict[tuple[str, str], str] = {}
        self._deaths: dict[str, dict[str, str]] = {}
        self._sessions: dict[str, str] = {}

    def dead(self, flower_node_id: str, reason: str, said_by: str = SITE) -> None:
        """Its SuperNode is gone; what it was working on will never be answered."""
        if not any((flower_node_id, who) in self._dead for who in (SITE, SUPERLINK)):
            self._died(flower_node_id, reason)
        self._dead.setdefault((flower_node_id, said_by), reason)
        if said_by == SITE:
            self._sessions.pop(flower_node_id, None)  # this death is known: the next session tells of no other

    def alive(self, flower_node_id: str, session_id: str | None = None, said_by: str = SITE) -> None:
        """Its SuperNode runs. Another session than before means that the one before died unseen."""
        begins = (flower_node_id, SITE) in self._dead and said_by == SITE
        if session_id is not None:
            if self._sessions.get(flower_node_id, session_id) != session_id:
                self._died(flower_node_id, "its SuperNode was started anew")
                begins = True
            self._sessions[flower_node_id] = session_id
        for who in (SITE, SUPERLINK) if begins else (said_by,):
            self._dead.pop((flower_node_id, who), None)

    def reasons(self) -> dict[str, str]:
        """Give the lost nodes of this moment."""
        return {node: reason for (node, _), reason in self._dead.items()}

    def deaths(self) -> dict[str, dict[str, str]]:
        """Give the last death of each node, be it back or not: `at`, which no other death of it has, and `reason`."""
        return dict(self._deaths)

    def _died(self, flower_node_id: str, reason: str) -> None:
        self._deaths[flower_node_id] = {"at": datetime.now(UTC).isoformat(), "reason": reason}
