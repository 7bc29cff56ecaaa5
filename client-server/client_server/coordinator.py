"""This site's line to its coordinator: there from the enrolment until the node is removed."""

import asyncio
import logging
from dataclasses import dataclass

from client_server.admin import AdminServer
from client_server.errors import OutOfReach
from client_server.identity import IdentityStore

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Line:
    """An open line: who we are there, and the server."""

    node_id: str
    admin: AdminServer


class Coordinator:
    """Holds the line, and remembers whether it worked lately; an outage is logged once at its begin and once at its end."""

    def __init__(self, store: IdentityStore) -> None:
        self._store = store
        self._line: Line | None = None
        self._is_open = asyncio.Event()
        self.problem: str | None = None

    async def connect(self) -> None:
        """Open the line that the identity describes; a removed node, or one not enrolled, gets none."""
        await self.close()
        identity = self._store.identity
        if identity is not None and identity.removed_at is None:
            admin = AdminServer(identity.admin_address, self._store.node_token, identity.admin_ca_der)
            self._line = Line(identity.node_id, admin)
            self._is_open.set()

    async def line(self) -> Line:
        """Wait for the line."""
        while self._line is None:
            await self._is_open.wait()
        return self._line

    async def close(self) -> None:
        """Take the line down."""
        line, self._line = self._line, None
        self._is_open.clear()
        if line is not None:
            await line.admin.close()
        self.problem = None  # calls that were cut by this have failed by now

    @property
    def state(self) -> str:
        """Say none (not enrolled, or removed), connected or away."""
        if self._line is None:
            return "none"
        return "connected" if self.problem is None else "away"

    def worked(self) -> None:
        """Note that the admin server answered."""
        if self.problem is not None:
            _log.info("the admin server answers again")
        self.problem = None

    def failed(self, error: OutOfReach) -> None:
        """Note that it did not."""
        if self.problem is None:
            _log.warning("%s", error.detail)
        self.problem = error.detail
