"""One participant's site: everything a client server consists of, put together, and its life."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from control_plane.tokens import read_or_create

from client_server.activity import Activity
from client_server.coordinator import Coordinator
from client_server.enrolment import Enrolment
from client_server.errors import SuperNodeNotRunning
from client_server.heartbeat import beat_for_ever
from client_server.identity import IdentityStore
from client_server.inventory import Inventory
from client_server.launch import Commands
from client_server.patience import Patience
from client_server.plan import PlanStore
from client_server.reporter import Reporter
from client_server.sessions import Sessions
from client_server.settings import Settings
from client_server.supernode import SuperNode
from client_server.supervision import Supervision
from client_server.wanted import watch_wanted

_log = logging.getLogger(__name__)
VERSION = version("espalier")
FLUSH_S = 2.0
REMOVED = "the coordinator removed this node"


class Site:
    """The services of one site; what happens between them is here."""

    def __init__(self, settings: Settings, commands: Commands, patience: Patience) -> None:
        folder = settings.folder
        folder.prepare()
        self.settings = settings
        self._patience = patience
        self.leaving = asyncio.Event()
        self.token = read_or_create(folder.site_token)
        self.identities = IdentityStore(folder)
        self.coordinator = Coordinator(self.identities)
        self.reporter = Reporter(folder.spool, settings.spool_cap_bytes, self.coordinator, patience)
        self.enrolment = Enrolment(self.identities, settings.participant_node_id, settings.node_name, self._enrolled, patience)
        self.inventory = Inventory(folder, self.reporter, share_label_distribution=settings.share_label_distribution)
        self.activity = Activity(folder, self.reporter, settings.forward_logs, settings.log_cap_bytes, patience.activity_s)
        plans = PlanStore(folder.start_request)
        sessions = Sessions(folder, self.reporter, settings.forward_logs)
        self._supervision = Supervision(
            settings, self.identities, plans, sessions, commands, patience, when_ended=self.activity.finish
        )
        self.supernode = SuperNode(settings, self.identities, plans, sessions, self._supervision)

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Site"]:
        """Live: adopt or start what is wanted, report, beat; at the end stop the SuperNode and send what can be sent."""
        await self.coordinator.connect()
        await self._supervision.find_again()
        tasks = [asyncio.create_task(self._for_ever(name, work), name=name) for name, work in self._work().items()]
        try:
            yield self
        finally:
            await self._supervision.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.activity.finish()
            if self.coordinator.state == "connected":
                await self.reporter.flush(FLUSH_S)
            await self.coordinator.close()
            self.reporter.close()

    def supernode_facts(self) -> dict[str, Any]:
        """Say what a heartbeat says of the SuperNode."""
        described = self.supernode.describe()
        return {
            "supernode_state": described["state"],
            "session_id": described["session_id"],
            "flower_node_id": described["flower_node_id"],
        }

    def _work(self) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
        return {
            "supervision": self._supervision.run,
            "inventory": self.inventory.run,
            "enrolment": self._enrol,
            "activity": self.activity.run,
            "reports": self.reporter.run,
            "heartbeat": lambda: beat_for_ever(self.coordinator, self.supernode_facts, self._patience.heartbeat_s),
            "wanted": lambda: watch_wanted(self.coordinator, self.settings.folder.wanted, self._removed, self._patience),
        }

    async def _enrol(self) -> None:
        invitation = self.settings.read_invitation()
        if invitation and self.enrolment.state != "enrolled":
            await self.enrolment.enrol_at_start(invitation)
        await asyncio.Event().wait()

    async def _for_ever(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do work that never ends; an error of ours in one must not silence the others."""
        while True:
            try:
                await work()
            except Exception:
                _log.exception("%s failed, and begins again", name)
            await asyncio.sleep(1)

    async def _enrolled(self) -> None:
        """Begin anew with a coordinator: what was spooled or wanted before was another registration's."""
        self.settings.folder.wanted.unlink(missing_ok=True)
        self.reporter.start_over()
        self.activity.start_over()
        self.inventory.report()
        await self.coordinator.connect()

    async def _removed(self) -> None:
        _log.error("%s: its SuperNode is stopped; a new invitation lets this site in again", REMOVED)
        self.identities.mark_removed()
        await self.coordinator.close()
        try:
            await self.supernode.stop(REMOVED)
        except SuperNodeNotRunning:
            _log.info("the SuperNode was stopped before")
