"""The SuperNode as the REST API sees it: what is asked of it, and how it is."""

import asyncio
from pathlib import Path
from typing import Any

from client_server.errors import SuperNodeNotRunning, SuperNodeRunning
from client_server.identity import IdentityStore
from client_server.launch import check_own_port, choose_port, resolve
from client_server.plan import Plan, PlanStore
from client_server.reach import check_superlink
from client_server.schemas import SupernodeStartRequest
from client_server.sessions import Sessions
from client_server.settings import Settings
from client_server.supervision import Supervision


class SuperNode:
    """Changes the plan that the supervision follows; nothing is changed by a request that is refused."""

    def __init__(
        self, settings: Settings, identities: IdentityStore, plans: PlanStore, sessions: Sessions, supervision: Supervision
    ) -> None:
        self._settings = settings
        self._identities = identities
        self._plans = plans
        self._sessions = sessions
        self._supervision = supervision
        self._turn = asyncio.Lock()

    @property
    def state(self) -> str:
        """Where it stands."""
        return self._supervision.state

    @property
    def log_path(self) -> Path:
        """The log of its process."""
        return self._supervision.process.log_path

    @property
    def flower_node_id(self) -> str | None:
        """The id under which Flower knows it: as it was registered, or as it said at its start."""
        identity, last = self._identities.identity, self._sessions.last
        if identity is None or identity.removed_at is not None:
            return None
        return identity.flower_node_id or (last.flower_node_id if last else None)

    async def start(self, request: SupernodeStartRequest) -> None:
        """Want it to run as requested.

        Raises SuperNodeRunning, NotEnrolled, NodeRemoved, StartRequestRefused, SuperLinkUnreachable.
        """
        async with self._turn:
            if self._plans.plan.want == "run" or self._supervision.process.is_alive:
                raise SuperNodeRunning(f"The SuperNode is {self.state}; stop it first.", state=self.state)
            target = resolve(request, self._identities.identity, self._settings)
            check_own_port(request)
            await check_superlink(target)
            self._plans.keep(Plan(want="run", request=request, port=choose_port(request, self._plans.plan.port)))
            self._supervision.follow_plan()

    async def stop(self, reason: str = "stopped by request") -> None:
        """Want it stopped, and not started again.

        Raises SuperNodeNotRunning.
        """
        async with self._turn:
            if self._plans.plan.want == "stop":
                raise SuperNodeNotRunning(f"The SuperNode is {self.state}.", state=self.state)
            self._plans.change(want="stop", reason=reason)
            self._supervision.follow_plan()

    def describe(self) -> dict[str, Any]:
        """Describe it; last_lines and reason are those of its last end while it does not run."""
        process, plan, last = self._supervision.process, self._plans.plan, self._sessions.last
        alive = process.is_alive
        restart_at = self._supervision.restart_at
        in_s = None if restart_at is None else round(max(0.0, restart_at - asyncio.get_running_loop().time()), 1)
        ended_because = None if alive or last is None else last.reason
        return {
            "state": self.state,
            "pid": process.pid,
            "flower_node_id": self.flower_node_id,
            "session_id": last.session_id if last else None,
            "restarts": plan.restarts,
            "restart_in_s": in_s,
            "reason": self._supervision.waits_because or ended_because or (plan.reason if plan.want == "stop" else None),
            "last_lines": process.last_lines() if alive or last is None else last.last_lines,
            "started_at": last.started_at if last and alive else None,
            "request": None if plan.request is None else plan.request.model_dump(mode="json"),
        }
