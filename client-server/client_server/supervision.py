"""The one task that starts the SuperNode's process, watches it, writes its end, and starts it again."""

import asyncio
import logging
import signal
from collections.abc import Callable

from control_plane.errors import EspalierError, StartFailed, StopFailed
from control_plane.identity import ProcessRecord
from control_plane.probes import log_line
from control_plane.process import SupervisedProcess
from control_plane.states import Exit, State

from client_server.backoff import Backoff
from client_server.deactivation import deactivate
from client_server.errors import SuperLinkUnreachable
from client_server.halting import unless, unless_ended
from client_server.identity import IdentityStore
from client_server.launch import Commands, Target, choose_port, deactivate_argv, resolve, supernode_argv, supernode_environment
from client_server.leftovers import kill_clientapps, remove_unpacked_apps
from client_server.patience import Patience
from client_server.plan import PlanStore
from client_server.reach import check_superlink, superlink_answers
from client_server.sessions import Session, Sessions
from client_server.settings import Settings
from client_server.silence import until_silent
from client_server.supernode_words import READY, explain, find_flower_node_id

_log = logging.getLogger(__name__)

FAILURES_SHOWN = 3
"""After so many starts in a row that did not get ready the SuperNode is shown as failed, though it is still tried again."""


class Supervision:
    """Follows the plan.

    ```text
     stopped ──▶ starting ──ready──▶ running ──halt──▶ stopping ──▶ stopped
                  ▲   │ │                │
                  │   │ └─ not ready ────┤ it leaves by itself (rc 0 and 75 too), is killed, or falls silent
                  │   └─ waits while the ▼
                  │      SuperLink    exited, failed, lost
                  │      is away         │
                  └── back-off ◀─────────┘ told, its ClientApps killed, deactivated with its own key
    ```
    Each process is a session. After a kill of ours the process is found again, or its session is lost. While it waits to be
    started again it is starting; failed, if it was not ready FAILURES_SHOWN times in a row.
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
        self._failures = 0
        self._is_closing = self._is_running = self._is_left_online = False
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
        """Say where the SuperNode stands."""
        if self.process.is_alive:
            return "stopping" if self._halted.is_set() else str(self.process.state)
        if self._halted.is_set():
            return "stopped"
        return "failed" if self._failures >= FAILURES_SHOWN else "starting"

    def follow_plan(self) -> None:
        """Take note that the plan has changed."""
        if self._plans.plan.want == "run" and not self._is_closing:
            self._backoff.reset()
            self._failures = 0
            self._halted.clear()
            self._wanted.set()
        else:
            self._wanted.clear()
            self._halted.set()

    async def close(self) -> None:
        """End the process whatever the plan says; the plan stays, so that our next start goes on with it."""
        self._is_closing = True
        self.follow_plan()
        if self._is_running:
            await self._idle.wait()

    async def find_again(self) -> None:
        """Adopt the process of our last life at once, if it was ready then; run() sees to all else."""
        last = self._sessions.last
        if last is not None and last.status in ("running", "stopping") and await self.process.adopt():
            self._target = self._known_target()
            # The same words again are harmless to the coordinator; from stopping there is no way back to running.
            self._sessions.move(last.status, pid=self.process.pid)

    async def run(self) -> None:
        """Follow the plan for ever."""
        self._is_running = True
        alive = self.process.is_alive or await self._adopt()
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
        ready = log_line(self.process.log_path, READY, last.log_offset) if last and last.status == "starting" else None
        self._target = self._known_target()
        adopted = await unless_ended(self._halted, self.process.adopt(ready), self._stop_process)
        if adopted and last is not None:
            self._is_ready(last)
        elif self._sessions.is_open:
            gone = Exit(None, None, "it was gone when the client server came back", self.process.last_lines())
            status = str(self.process.state) if self.process.exit else "lost"
            await self._end(self.process.exit or gone, status)
        return adopted

    async def _until_wanted(self) -> None:
        if self._halted.is_set():
            self._idle.set()
            await self._wanted.wait()
        self._idle.clear()

    async def _begin(self) -> bool:
        """Start the process; False when it was no longer wanted, or did not become ready."""
        self._target = await unless(self._halted, self._reachable_target())
        plan = self._plans.plan
        if self._target is None or plan.request is None:
            return False
        if self._is_left_online:  # the SuperLink was away, as after a power cut, and would refuse the start for up to 60 s
            await self._deactivate(self._target)
        port = choose_port(plan.request, plan.port)
        self._plans.change(port=port)
        await asyncio.to_thread(kill_clientapps, self._folder.clientapps)
        await asyncio.to_thread(remove_unpacked_apps, self._folder.flwr_home)
        log_offset = self.process.log_size()
        config = {**plan.request.model_dump(mode="json"), "superlink_address": self._target.superlink, "port": port}
        session = self._sessions.open({**config, "forward_logs": self._settings.forward_logs}, log_offset)
        argv = supernode_argv(self._commands.supernode, plan.request, self._target, port, self._settings)
        ready = log_line(self.process.log_path, READY, log_offset)
        starting = self.process.start(argv, supernode_environment(self._settings), ready=ready)
        try:
            await unless_ended(self._halted, starting, self._stop_process)
        except StartFailed:
            self._failures += 1
            await self._end(await self.process.wait(), str(self.process.state))
            return False
        self._is_ready(session)
        return True

    def _is_ready(self, session: Session) -> None:
        self._failures = 0
        flower_node_id = session.flower_node_id or find_flower_node_id(self.process.log_path, session.log_offset)
        self._sessions.move("running", pid=self.process.pid, flower_node_id=flower_node_id)

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
                silent.result()
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
        reason = why or (self._why_halted() if asked else explain(end))
        self._sessions.move(status, pid=None, reason=reason, last_lines=end.last_lines)
        if not asked:
            _log.warning("the SuperNode ended: %s", reason, extra={"status": status})
        await asyncio.to_thread(kill_clientapps, self._folder.clientapps)
        self._when_ended()
        # One that was stopped and left with rc 0 has set itself offline.
        if self._target is not None and self._target.key is not None and not (asked and end.rc == 0):
            await self._deactivate(self._target)

    async def _deactivate(self, target: Target) -> None:
        identity, last = self._identities.identity, self._sessions.last
        flower_node_id = (identity.flower_node_id if identity else None) or (last.flower_node_id if last else None)
        if flower_node_id is not None:
            argv = deactivate_argv(self._commands.deactivate, target, flower_node_id)
            self._is_left_online = not await deactivate(argv, supernode_environment(self._settings))

    async def _back_off(self) -> None:
        wait_s = self._backoff.next_s()
        self.restart_at = asyncio.get_running_loop().time() + wait_s
        await unless(self._halted, asyncio.sleep(wait_s))
        self.restart_at = None
        if not self._halted.is_set():
            self._plans.change(restarts=self._plans.plan.restarts + 1)

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
        silence_s, look_every_s = self._patience.silence_s, self._patience.look_every_s
        await until_silent(pid, target.port, lambda: superlink_answers(target), silence_s=silence_s, look_every_s=look_every_s)

    def _known_target(self) -> Target | None:
        """Find the SuperLink of a process that an earlier life of ours started."""
        request = self._plans.plan.request
        try:
            return None if request is None else resolve(request, self._identities.identity, self._settings)
        except EspalierError as error:
            _log.warning("what was asked for last cannot be started again: %s", error.detail)
            return None

    def _why_halted(self) -> str:
        return "the client server was stopped" if self._is_closing else self._plans.plan.reason or "stopped by request"
