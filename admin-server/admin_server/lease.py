"""The project's lease: one admin server writes, any other only reads until the holder has ended."""

import logging
import platform
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from control_plane.files import create_once

from db.errors import DatabaseUnavailable
from db.store import Store

log = logging.getLogger(__name__)
RENEW_S = 5.0
Duty = Callable[[], Awaitable[None]]


class Lease:
    """Hold the lease of one project, or wait for it; renewed by look() each 5 s, for 15 s at a time."""

    def __init__(self, store: Store, project_id: str, server_id: str, gained: Duty, lost: Duty) -> None:
        self._store = store
        self._project_id = project_id
        self._server_id = server_id
        self._gained = gained
        self._lost = lost
        self.held = False
        self.holder: dict[str, Any] = {}

    async def look(self) -> None:
        """Take or renew it, and begin or end what only its holder does."""
        self.holder = await self._store.hold_lease(self._project_id, self._server_id, platform.node() or "unknown")
        if self.holder["held"] and not self.held:
            log.info("this server holds the project's lease")
            try:
                await self._gained()
            except BaseException:
                await self._lost()  # what was begun would be begun twice at the next look
                raise
            self.held = True
        elif self.held and not self.holder["held"]:
            log.error("the lease went to the server on %s; this one only reads from now on", self.holder["host"])
            self.held = False
            await self._lost()

    async def release(self) -> None:
        """Give it back, so that a server that waits need not wait for 15 s."""
        if self.held:
            self.held = False
            try:
                await self._store.release_lease(self._project_id, self._server_id)
            except DatabaseUnavailable as away:
                log.warning("the lease is not given back and ends by itself: %s", away)


def server_id(home: Path) -> str:
    """Read the id of this server, made at its first start, by which it takes its own lease again at once."""
    path = home / "server-id"
    create_once(path, f"{uuid4()}\n")
    return path.read_text().strip()
