"""The one task that starts the SuperNode's process, watches it, writes its end, and starts it again."""

import asyncio
import logging
import re
import signal
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from control_plane.errors import EspalierError, StartFailed, StopFailed
from control_plane.identity import ProcessRecord
from control_plane.logfiles import Tail
from control_plane.probes import log_line
from control_plane.process import SupervisedProcess
from control_plane.states import Exit, State

from client_server.backoff import Backoff
from client_server.deactivation import deactivate
from client_server.errors import SuperLinkUnreachable
from client_server.identity import IdentityStore
from client_server.launch import Commands, Target, choose_port, deactivate_argv, resolve, supernode_argv, supernode_environment
from client_server.leftovers import kill_clientapps
from client_server.plan import PlanStore
from client_server.reach import check_superlink, superlink_answers
from client_server.sessions import Sessions
from client_server.settings import Settings
from client_server.silence import until_silent

_log = logging.getLogger(__name__)
Result = TypeVar("Result")

READY_LINE = "SuperNode ID: "
_FLOWER_NODE_ID = re.compile(re.escape(READY_LINE) + r"(\d+)")
_FLOWERS_REASON = re.compile(r"\[code: \d+\].*|SSL/TLS .*|Exit Code: \d+.*")
MAIN_LOOP_ENDED = 75


@dataclass(frozen=True)
class Patience:
    """How long the supervision waits for what, in seconds; after steady_s of life a death counts as the first again."""

    ready_s: float = 60.0
    grace_s: float = 10.0
    first_backoff_s: float = 0.5
    longest_backoff_s: float = 30.0
    steady_s: float = 60.0
    superlink_retry_s: float = 2.0
    silence_s: float = 30.0
    look_every_s: float = 3.0


class Supervision:
    """Follows the plan.

    ```text
     stopped ──▶ starting ──ready──▶ running ──stop──▶ stopping ──▶ stopped
                 ▲ │  ▲ └ waits while │
        back-off │ │  │   the Super-  │ it ends by itself (rc 0 and 75 too), is killed, or falls silent
                 │ │  │   Link is     ▼
                 │ └──│─ away     exited, failed, lost ──▶ deactivated with its own key
                 └────┴────────────────────┘
    ```
    A session stands for each process. Killed ourselves, we find the process again, or its session is lost.
    """

    def __init__(
        self,
        settings: Settings,
        identities: IdentityStore,
        plans: PlanStore,
        sessions: Sessions,
        commands: Commands,
        patience: Patience,
        when_ended: Callable[[], None],
    ) -> None:
        """when_ended: called after each end of the process, when no ClientApp of it lives any more."""
        self._settings = settings
        self._folder = settings.folder
        self._identities = identities
        self._plans = plans
        self._sessions = sessions
        self._commands = commands
        self._patience = patience
        self._when_ended = when_ended
        self._backoff = Backoff(patience.first_backoff_s, patience.longest_backoff_s)
        self._halted, self._wanted, self._idle = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._target: Target | None = None
        self._is_closing = self._is_running = False
        self.waits_because: str | None = None
        self.restart_at: float | None = None
        self.process = SupervisedProcess(
            "supernode",
            self._folder.supernode,
            ready_timeout_s=patience.ready_s,
            grace_s=patience.grace_s,
            log_cap_bytes=settings.log_cap_bytes,
        )
        self.follow_plan()

    @property
    def state(self) -> str:
        """Say where the SuperNode stands; while it waits to be started again, what its last end was."""
        if self.process.is_alive:
            return "stopping" if self._halted.is_set() else str(self.process.state)
        if self._halted.is_set():
            return "stopped"
        if self.restart_at is not None and self._sessions.last is not None:
            return self._sessions.last.status
        return "starting"

    def follow_plan(self) -> None:
        """Take note that the plan has changed."""
        wanted = self._plans.plan.want == "run" and not self._is_closing
        for event, holds in ((self._wanted, wanted), (self._halted, not wanted)):
            if holds:
                event.set()
            else:
                event.clear()
        if wanted:
            self._backoff.reset()

    async def close(self) -> None:
        """End the process whatever the plan says; the plan stays, so that our next start goes on with it."""
        self._is_closing = True
        self.follow_plan()
        if self._is_running:
            await self._idle.wait()

    async def run(self) -> None:
        """Follow the plan for ever."""
        self._is_running = True
        alive = await self._adopt()
        while True:
            if not alive:
                await self._until_wanted()
                alive = await self._begin()
            if alive:
                await self._watch()
                alive = False
            if not self._halted.is_set():
                await self._back_off()

    async def _adopt(self) -> bool:
        """Find the process of our last life; a session whose process is gone is lost, and what it left is cleared."""
        last = self._sessions.last
        ready = log_line(self.process.log_path, READY_LINE, last.log_offset) if last and last.status == "starting" else None
        self._target = self._known_target()
        if await self._unless_halted_stop(self.process.adopt(ready)):
            self._sessions.move("running", pid=self.process.pid, flower_node_id=self._said_flower_node_id())
            return True
        if self._sessions.is_open:
            gone = Exit(None, None, "it was gone when the client server came back", self.process.last_lines())
            end = self.process.exit
            await self._end(end or gone, str(self.process.state) if end else "lost")
        return False

    async def _until_wanted(self) -> None:
        if self._halted.is_set():
            self._idle.set()
            await self._wanted.wait()
        self._idle.clear()

    async def _begin(self) -> bool:
        """Start the process; False when it was no longer wanted, or did not become ready."""
        self._target = await self._unless_halted(self._reachable_target())
        plan = self._plans.plan
        if self._target is None or plan.request is None:
            return False
        port = choose_port(plan.request, plan.port)
        self._plans.change(port=port)
        await asyncio.to_thread(kill_clientapps, self._folder.clientapps)
        log_offset = self.process.log_size()
        config = {**plan.request.model_dump(mode="json"), "superlink_address": self._target.superlink, "port": port}
        self._sessions.open(config | {"forward_logs": self._settings.forward_logs}, log_offset)
        argv = supernode_argv(self._commands.supernode, plan.request, self._target, port, self._settings)
        ready = log_line(self.process.log_path, READY_LINE, log_offset)
        try:
            await self._unless_halted_stop(self.process.start(argv, supernode_environment(self._settings), ready=ready))
        except StartFailed:
            await self._end(await self.process.wait(), str(self.process.state))
            return False
        self._sessions.move("running", pid=self.process.pid, flower_node_id=self._said_flower_node_id())
        return True

    async def _reachable_target(self) -> Target | None:
        """Wait for the SuperLink; None when what was asked for cannot be started any more, which ends the plan."""
        while (request := self._plans.plan.request) is not None:
            try:
                target = resolve(request, self._identities.identity, self._settings)
                await check_superlink(target)
            except SuperLinkUnreachable as error:
                if self.waits_because is None:
                    _log.warning("the SuperNode waits: %s", error.detail)
                self.waits_because = error.detail
                await asyncio.sleep(self._patience.superlink_retry_s)
            except EspalierError as error:
                _log.error("the SuperNode cannot be started any more: %s", error.detail)
                self._plans.change(want="stop", reason=error.detail)
                self.follow_plan()
                return None
            else:
                self.waits_because = None
                return target
        return None

    async def _watch(self) -> None:
        """Wait until the process ends, is no longer wanted, or falls silent."""
        clock = asyncio.get_running_loop().time
        began = clock()
        ended = asyncio.ensure_future(self.process.wait())
        halted = asyncio.ensure_future(self._halted.wait())
        silent = asyncio.ensure_future(self._until_silent())
        why = None
        try:
            await asyncio.wait({ended, halted, silent}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done() and halted.done():
                self._sessions.move("stopping")
                await self._stop_process()
            elif not ended.done():
                why = f"it had not talked to the SuperLink for {self._patience.silence_s:g} s"
                self._kill_process()
            end = await ended
        finally:
            for task in (ended, halted, silent):
                task.cancel()
        if clock() - began >= self._patience.steady_s:
            self._backoff.reset()
        await self._end(end, str(self.process.state), why)

    async def _end(self, end: Exit, status: str, why: str | None = None) -> None:
        """Tell of an end, clear what it left, and free the node's place at the SuperLink."""
        asked = status == State.STOPPED
        reason = why or (self._why_halted() if asked else _explain(end))
        self._sessions.move(status, pid=None, reason=reason, last_lines=end.last_lines)
        if not asked:
            _log.warning("the SuperNode ended: %s", reason, extra={"status": status})
        await asyncio.to_thread(kill_clientapps, self._folder.clientapps)
        self._when_ended()
        # One that was stopped and left with rc 0 has set itself offline.
        if self._target is not None and self._target.key is not None and not (asked and end.rc == 0):
            flower_node_id = self._sessions.last.flower_node_id if self._sessions.last else None
            argv = deactivate_argv(self._commands.deactivate, self._target, flower_node_id)
            await deactivate(argv, supernode_environment(self._settings))

    async def _back_off(self) -> None:
        wait_s = self._backoff.next_s()
        self.restart_at = asyncio.get_running_loop().time() + wait_s
        await self._unless_halted(asyncio.sleep(wait_s))
        self.restart_at = None
        if not self._halted.is_set():
            self._plans.change(restarts=self._plans.plan.restarts + 1)

    async def _unless_halted(self, work: Coroutine[Any, Any, Result]) -> Result | None:
        """Do the work, but give it up when the SuperNode is no longer wanted."""
        doing, halted = asyncio.ensure_future(work), asyncio.ensure_future(self._halted.wait())
        try:
            await asyncio.wait({doing, halted}, return_when=asyncio.FIRST_COMPLETED)
            return await doing if doing.done() else None
        finally:
            for task in (doing, halted):
                task.cancel()
            await asyncio.gather(doing, halted, return_exceptions=True)

    async def _unless_halted_stop(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do work that waits for the process, and stop the process when it is no longer wanted."""
        doing, halted = asyncio.ensure_future(work), asyncio.ensure_future(self._halted.wait())
        try:
            while not doing.done():
                await asyncio.wait({doing, halted}, return_when=asyncio.FIRST_COMPLETED)
                if not doing.done():
                    await self._stop_process()
                    await asyncio.wait({doing}, timeout=0.1)
            return await doing
        finally:
            for task in (doing, halted):
                task.cancel()

    async def _stop_process(self) -> None:
        try:
            await self.process.stop()
        except StopFailed as error:
            _log.error("%s", error.detail)

    def _kill_process(self) -> None:
        record = ProcessRecord.read(self.process.record_path)
        if record is not None:
            record.signal_group(signal.SIGKILL)

    async def _until_silent(self) -> None:
        pid, target = self.process.pid, self._target
        if pid is None or target is None:
            await asyncio.Event().wait()
            return
        await until_silent(
            pid,
            target.port,
            lambda: superlink_answers(target),
            silence_s=self._patience.silence_s,
            look_every_s=self._patience.look_every_s,
        )

    def _known_target(self) -> Target | None:
        """Find the SuperLink of a process that an earlier life of ours started."""
        request = self._plans.plan.request
        try:
            return None if request is None else resolve(request, self._identities.identity, self._settings)
        except EspalierError as error:
            _log.warning("what was asked for last cannot be started again: %s", error.detail)
            return None

    def _said_flower_node_id(self) -> str | None:
        """Find in the log under which id Flower knows the process."""
        last = self._sessions.last
        if last is None or last.flower_node_id is not None:
            return last.flower_node_id if last else None
        tail = Tail(self.process.log_path, last.log_offset)
        while lines := tail.read():
            for line in lines:
                if found := _FLOWER_NODE_ID.search(line.text):
                    return found[1]
        return None

    def _why_halted(self) -> str:
        return "the client server was stopped" if self._is_closing else self._plans.plan.reason or "stopped by request"


def _explain(end: Exit) -> str:
    """Say why it ended, with the reason that Flower gave in its last lines, if any."""
    if end.rc == MAIN_LOOP_ENDED:
        return f"Flower's main loop ended by itself ({end.reason})"
    said = next((found[0] for line in end.last_lines if (found := _FLOWERS_REASON.search(line))), None)
    return end.reason if said is None else f"{end.reason}: {said.strip()}"
