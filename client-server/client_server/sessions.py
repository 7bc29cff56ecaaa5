"""The story of the SuperNode's processes: one session each, told to the coordinator as it goes."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from control_plane.files import read_json, write_json
from pydantic import BaseModel

from client_server.folder import SiteFolder
from client_server.reporter import Reporter
from client_server.settings import ForwardLogs

OPEN = ("starting", "running", "stopping")


class Session(BaseModel):
    """What session.json holds of the present or last process."""

    session_id: str
    status: str
    started_at: datetime
    log_offset: int
    runtime_config: dict[str, Any]
    pid: int | None = None
    flower_node_id: str | None = None
    reason: str | None = None
    last_lines: list[str] = []


class Sessions:
    """Keeps the last session over our own restarts, and reports each of its steps.

    ```text
     open() ─▶ starting ─▶ running ─▶ stopping ─▶ stopped
                  └──────────┴──▶ exited (rc 0) | failed | lost (its end was not ours to see)
    ```
    """

    def __init__(self, folder: SiteFolder, reporter: Reporter, forward_logs: ForwardLogs) -> None:
        self._path = folder.session
        self._reporter = reporter
        self._forward_logs = forward_logs
        stored = read_json(self._path)
        self.last = None if stored is None else Session.model_validate(stored)

    @property
    def is_open(self) -> bool:
        """Say whether the last session has not ended."""
        return self.last is not None and self.last.status in OPEN

    def open(self, runtime_config: dict[str, Any], log_offset: int) -> Session:
        """Begin a session; log_offset: where its lines begin in the SuperNode's log."""
        session = Session(
            session_id=str(uuid4()),
            status="starting",
            started_at=datetime.now(UTC),
            log_offset=log_offset,
            runtime_config=runtime_config,
        )
        self._tell(session)
        return session

    def move(self, status: str, **changes: Any) -> None:
        """Go on to a status; changes: fields of Session that are known now. Saying the same again is harmless."""
        if self.last is not None:
            self._tell(self.last.model_copy(update={"status": status, **changes}))

    def _tell(self, session: Session) -> None:
        write_json(self._path, session.model_dump(mode="json"))
        self.last = session
        said = session.model_dump(
            mode="json", include={"session_id", "status", "pid", "reason", "last_lines", "flower_node_id", "runtime_config"}
        )
        if self._forward_logs == "none":
            said["last_lines"] = []
        self._reporter.report("session", said)
