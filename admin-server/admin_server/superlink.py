"""The SuperLink and its executor: started, kept, found again after our own restart, and ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from control_plane.environment import child_environment
from control_plane.errors import EspalierError, StartFailed
from control_plane.files import read_json, write_json
from control_plane.probes import Probe, http_ok, log_line
from control_plane.process import SupervisedProcess
from pydantic import ValidationError

from admin_server import flwr_config
from admin_server.background import Background
from admin_server.errors import SuperlinkActive, SuperlinkNotRunning
from admin_server.flower import Flower
from admin_server.kept import Kept, Launch
from admin_server.schemas import SuperlinkStart
from admin_server.settings import Settings
from admin_server.superlink_plan import SuperlinkPlan, plan
from admin_server.superlink_session import SuperlinkSession
from db.errors import DatabaseUnavailable
from db.store import Store

log = logging.getLogger(__name__)
KEEP_S = 0.5
EndRuns = Callable[[str], Awaitable[None]]


class Superlink:
    """One SuperLink with its executor. The last start request is a file, so that another server goes on with it."""

    def __init__(self, settings: Settings, store: Store, node_id: str, background: Background) -> None:
        self._settings = settings
        self._session = SuperlinkSession(store, node_id)
        self._background = background
        self._home = settings.espalier_home
        self._request_path = self._home / "superlink" / "start.json"
        superlink = SupervisedProcess("superlink", self._home / "superlink", ready_timeout_s=60, on_change=self._session.note)
        self._superlink = Kept(superlink, self._superlink_launch)
        executor = SupervisedProcess("executor", self._home / "executor", ready_timeout_s=60)
        self._executor = Kept(executor, self._executor_launch)
        self._request: SuperlinkStart | None = None
        self._plan: SuperlinkPlan | None = None
        self._flower: Flower | None = None
        self._phase: str | None = None

    @property
    def flower(self) -> Flower:
        """The client of the Control API. Raises SuperlinkNotRunning."""
        if self._flower is None:
            raise SuperlinkNotRunning(state=self.state)
        return self._flower

    @property
    def plan(self) -> SuperlinkPlan:
        """What the SuperLink was started with. Raises SuperlinkNotRunning."""
        if self._plan is None or self._flower is None:
            raise SuperlinkNotRunning(state=self.state)
        return self._plan

    @property
    def state(self) -> str:
        """The state of its process; starting or stopping also while the steps before and after it are done."""
        return self._phase or str(self._superlink.process.state)

    def view(self) -> dict[str, Any]:
        made = self._plan
        return {
            **self._superlink.view(),
            "state": self.state,
            "address": made.address if made else None,
            "public_address": made.public_address if made else None,
            "insecure": made.insecure if made else None,
            "session_id": self._session.id,
            "log_path": str(self._superlink.process.log_path),
            "executor": self._executor.view(),
        }

    async def begin(self) -> None:
        """Find again what an earlier server left, or start it again when it was to run; then keep it."""
        self._request = request = self._last_request()
        if request is not None:
            try:
                self._plan = await asyncio.to_thread(plan, request, self._settings)
            except EspalierError as refused:
                log.error("the SuperLink is ended, since it cannot be started again as it was: %s", refused)
                self._background.once("end of the SuperLink", self._end_leftovers())
            else:
                self._session.id = (read_json(self._request_path) or {}).get("session_id")
                self._flower = Flower(self._plan.address, self._plan.ca_pem)
                self._phase = "starting"
                self._background.once("adoption of the SuperLink", self._adopt(self._plan))
        self._background.repeat("supervision of the SuperLink", self._keep, KEEP_S)
        self._background.repeat("sessions of the SuperLink", self._session.tell, KEEP_S)

    async def start(self, request: SuperlinkStart) -> None:
        """Check the request and begin to start. Raises SuperlinkActive and what a plan refuses."""
        if self._phase is not None or self._superlink.wanted or self._superlink.process.is_alive:
            raise SuperlinkActive(f"The SuperLink is {self.state} already.", state=self.state)
        self._phase = "starting"
        try:
            self._plan = await asyncio.to_thread(plan, request, self._settings)
            await self._session.open(self._plan)
            self._request = request
            self._remember()
        except BaseException:
            self._phase = None
            raise
        self._background.once("start of the SuperLink", self._bring_up(self._plan))

    async def stop(self, end_runs: EndRuns) -> None:
        """Begin to stop: runs first, then the executor, then the SuperLink. Raises SuperlinkNotRunning."""
        if not (self._superlink.wanted or self._superlink.process.is_alive) or self._phase == "stopping":
            raise SuperlinkNotRunning(f"The SuperLink is {self.state}.", state=self.state)
        self._phase = "stopping"
        self._background.once("stop of the SuperLink", self.take_down(end_runs))

    async def take_down(self, end_runs: EndRuns) -> None:
        """End it all, and wait until it is over."""
        self._phase = "stopping"
        try:
            self._superlink.wanted = self._executor.wanted = False
            self._request_path.unlink(missing_ok=True)
            if self._flower is not None:
                await end_runs("stop asked: the SuperLink is stopped")
            await self._executor.stop()
            if self._flower is not None:
                # With TLS an idle connection of ours would hold the SuperLink's end up.
                flower, self._flower = self._flower, None
                await flower.close()
            await self._superlink.stop()
        finally:
            self._phase = None
        try:
            await self._session.tell()
        except DatabaseUnavailable as away:
            log.warning("the end of the SuperLink's session is not in the database: %s", away)

    async def _adopt(self, made: SuperlinkPlan) -> None:
        try:
            found = await self._superlink.adopt(self._probe(made))
            log.info("the SuperLink that the server before left is %s", "running" if found else "gone")
            found = await self._executor.adopt()
            log.info("the executor that the server before left is %s", "running" if found else "gone")
            flwr_config.write(self._home, made.address, made.ca)
        finally:
            if self._phase == "starting":
                self._phase = None

    async def _end_leftovers(self) -> None:
        self._request_path.unlink(missing_ok=True)
        for kept in (self._executor, self._superlink):
            await kept.adopt()
            await kept.stop()

    async def _bring_up(self, made: SuperlinkPlan) -> None:
        try:
            await self._superlink.start()
            if self._phase != "starting":
                return
            self._flower = Flower(made.address, made.ca_pem)
            flwr_config.write(self._home, made.address, made.ca)
            await self._executor.start()
        except StartFailed:
            if self._phase == "starting":
                self._request_path.unlink(missing_ok=True)
                self._superlink.wanted = False
                await self._superlink.process.stop()
                self._flower = None
            raise
        finally:
            if self._phase == "starting":
                self._phase = None

    async def _keep(self) -> None:
        """Start again what died unasked: the SuperLink first, since the executor cannot do without it."""
        if self._phase is None and self._superlink.wanted and await self._superlink.look():
            await self._executor.look()

    async def _superlink_launch(self) -> Launch:
        made = self._made()
        if self._session.id is None:
            try:
                await self._session.open(made)
                self._remember()
            except DatabaseUnavailable as away:
                log.warning("the SuperLink starts without a row for its session: %s", away)
        return Launch(made.superlink_argv(), self._environment(), self._probe(made))

    async def _executor_launch(self) -> Launch:
        process = self._executor.process
        ready = log_line(process.log_path, "executor ready", process.log_size())
        return Launch(self._made().executor_argv(), self._environment() | self._settings.handed_on, ready)

    def _environment(self) -> dict[str, str]:
        return child_environment({"FLWR_HOME": str(self._home / "superlink" / "flwr-home")})

    def _probe(self, made: SuperlinkPlan) -> Probe:
        return http_ok(made.health_url, made.ca)

    def _made(self) -> SuperlinkPlan:
        if self._plan is None:
            raise SuperlinkNotRunning(state=self.state)
        return self._plan

    def _last_request(self) -> SuperlinkStart | None:
        try:
            told = read_json(self._request_path)
            return None if told is None else SuperlinkStart.model_validate(told["request"])
        except (ValueError, KeyError, TypeError, ValidationError) as broken:
            log.warning("%s cannot be read, so the SuperLink is not started again: %s", self._request_path, broken)
            return None

    def _remember(self) -> None:
        """Keep what the SuperLink was started with, and its session, for a server after this one."""
        if self._request is not None:
            write_json(self._request_path, {"request": self._request.model_dump(), "session_id": self._session.id})
