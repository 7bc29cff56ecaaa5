"""The audit log: who did what to what, written after it was done."""

import asyncio
import logging
from collections import deque
from datetime import UTC, datetime
from typing import Any

from control_plane.auth import Principal

from db.errors import DatabaseUnavailable
from db.store import Store

log = logging.getLogger(__name__)
TELL_S = 5.0
KEPT = 1000  # lines; older ones are in the server's log alone


class Audit:
    """Write lines of one project's audit log. What cannot be written now waits: the deed is done, and its answer must say so."""

    def __init__(self, store: Store, project_id: str) -> None:
        self._store = store
        self._project_id = project_id
        self._waiting: deque[tuple[str, str, str | None, dict[str, Any]]] = deque(maxlen=KEPT)
        self._telling = asyncio.Lock()

    async def __call__(self, who: Principal, action: str, subject: str | None = None, **facts: Any) -> None:
        """action: noun.verb, as in run.start. who: an admin's subject, or a node's id."""
        actor = f"{who.role}:{who.subject}"
        why: object = "others wait"
        try:
            if not self._waiting and not self._telling.locked():  # else it would overtake a line that is on its way
                await self._store.audit(self._project_id, actor, action, subject, facts)
                return
        except DatabaseUnavailable as away:
            why = away
        log.error("the audit log lacks %s of %s by %s for now: %s", action, subject, actor, why)
        self._waiting.append((actor, action, subject, {**facts, "done_at": datetime.now(UTC).isoformat()}))

    async def close(self) -> None:
        """Write what waits once more, and say what is lost."""
        try:
            await self.tell()
        except DatabaseUnavailable as away:
            log.error("the audit log lacks %d lines for good, which stand above: %s", len(self._waiting), away)

    async def tell(self) -> None:
        """Write what waits, in order. Raises DatabaseUnavailable."""
        async with self._telling:
            while self._waiting:
                first = self._waiting.popleft()  # at once: a full queue drops its head when a line is added
                try:
                    await self._store.audit(self._project_id, *first)
                except BaseException:
                    if len(self._waiting) < KEPT:
                        self._waiting.appendleft(first)
                    raise
