"""The audit log: who did what to what, written after it was done."""

from typing import Any

from control_plane.auth import Principal

from db.store import Store


class Audit:
    """Write lines of one project's audit log."""

    def __init__(self, store: Store, project_id: str) -> None:
        self._store = store
        self._project_id = project_id

    async def __call__(self, who: Principal, action: str, subject: str | None = None, **facts: Any) -> None:
        """action: noun.verb, as in run.start. who: an admin's subject, or a node's id."""
        await self._store.audit(self._project_id, f"{who.role}:{who.subject}", action, subject, facts)
