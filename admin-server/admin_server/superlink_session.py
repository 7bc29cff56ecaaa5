"""The rows that tell the lives of the SuperLink's process, written in order and after the fact."""

import asyncio
import logging
from collections import deque
from typing import Any

from control_plane.process import State, SupervisedProcess

from admin_server.superlink_plan import SuperlinkPlan
from db.errors import Refused
from db.store import Store

log = logging.getLogger(__name__)


class SuperlinkSession:
    """The session of the process that lives now, and what is still to be written of it and of those before.

    The process does not wait for the database: changes queue up here, and tell() writes them when it can.
    """

    def __init__(self, store: Store, node_id: str) -> None:
        self.id: str | None = None
        self._store = store
        self._node_id = node_id
        self._changes: deque[dict[str, Any]] = deque(maxlen=100)
        self._telling = asyncio.Lock()

    async def open(self, made: SuperlinkPlan) -> None:
        """Begin the session of a process that is about to start. Raises DatabaseUnavailable."""
        config = {"insecure": made.insecure, "address": made.address, "public_address": made.public_address}
        row = await self._store.open_session(self._node_id, "superlink", {**config, "extra_args": list(made.extra)})
        self.id = str(row["id"])

    async def note(self, process: SupervisedProcess) -> None:
        """Take note of a change of the process; its end is the session's end."""
        end = process.exit
        told = {"pid": process.pid, "reason": end.reason if end else None, "last_lines": end.last_lines if end else None}
        if self.id is not None and process.state is not State.STARTING:  # a session is made as starting
            self._changes.append({"session_id": self.id, "status": str(process.state), **told})
        if not process.is_alive:
            self.id = None

    async def tell(self) -> None:
        """Write what was noted, in order; what cannot be written now waits. Raises DatabaseUnavailable."""
        async with self._telling:
            while self._changes:
                try:
                    await self._store.move_session(**self._changes[0])
                except Refused as refused:
                    log.warning("the SuperLink's session keeps its state: %s", refused)
                self._changes.popleft()
