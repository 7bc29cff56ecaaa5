"""A process that is started, watched, stopped, and found again after our own restart."""

import asyncio
import logging
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from control_plane.errors import IllegalTransition, StartFailed, StopFailed
from control_plane.gate import start_at_gate
from control_plane.identity import ProcessRecord
from control_plane.logfiles import last_lines, rotate_in_place
from control_plane.probes import Probe
from control_plane.states import TRANSITIONS, Exit, State, say_exit

__all__ = ["Exit", "State", "SupervisedProcess"]

_log = logging.getLogger(__name__)

_PROBE_EVERY_S = 0.05
_LOOK_AT_LOG_EVERY_S = 10.0
_KILL_WAIT_S = 5.0
_CALLBACK_S = 5.0


class SupervisedProcess:
    """One process, with its group, its log and its proc.json in a state folder.

    ```text
     stopped ──start()──▶ starting ──ready──▶ running ──stop()──▶ stopping ──▶ stopped
                             │ └──stop()──▶ stopping │
                             │                       ├── exit 0 ──────────────▶ exited
                             │                       ├── other exit, signal ──▶ failed
                             └── exit, or not ready  └── end of an adopted one, which no wait() tells us ──▶ lost
                                 in time ──▶ failed
     at rest (stopped, exited, failed, lost): start() again, or
     adopt() ── proc.json's process lives ──▶ running       is gone, or its pid is another's ──▶ lost
    ```

    The child leads a session of its own. stop() sends TERM to its group, after grace_s KILL; whenever the leader has ended,
    the rest of its group is killed. One watcher task alone writes the end. The log is opened for append, never a pipe: our
    death breaks no child. It is rotated in place beyond log_cap_bytes.

    on_change is awaited after each transition, in order, for 5 s at most; what it raises is logged. It may not call start,
    stop or adopt of the same process (RuntimeError): let it set an event or make a task.
    """

    def __init__(
        self,
        name: str,
        state_dir: Path,
        *,
        ready_timeout_s: float = 30.0,
        grace_s: float = 10.0,
        log_cap_bytes: int = 256 * 2**20,
        on_change: "Callable[[SupervisedProcess], Awaitable[None]] | None" = None,
    ) -> None:
        self.name = name
        self.log_path = state_dir / f"{name}.log"
        self.record_path = state_dir / "proc.json"
        self.state = State.STOPPED
        self.exit: Exit | None = None
        self._ready_timeout_s = ready_timeout_s
        self._grace_s = grace_s
        self._log_cap_bytes = log_cap_bytes
        self._on_change = on_change
        self._turn = asyncio.Lock()
        self._notifying: asyncio.Task[object] | None = None
        self._record: ProcessRecord | None = None
        self._log_from = 0
        self._gone = asyncio.Event()
        self._why: str | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._termination: asyncio.Task[None] | None = None

    @property
    def is_alive(self) -> bool:
        """Is it starting, running or stopping?"""
        return self.state in (State.STARTING, State.RUNNING, State.STOPPING)

    @property
    def pid(self) -> int | None:
        """The pid while it is alive."""
        return self._record.pid if self._record and self.is_alive else None

    @property
    def started_at(self) -> datetime | None:
        """When it was last started, by us or before we came."""
        return datetime.fromisoformat(self._record.started_at) if self._record else None

    def last_lines(self, n: int = 20) -> list[str]:
        """Give the last lines of its log, since its start when that was ours."""
        return last_lines(self.log_path, n, self._log_from)

    def log_size(self) -> int:
        """Give the size of its log now: the since_offset of probes.log_line for the next start."""
        return self.log_path.stat().st_size if self.log_path.exists() else 0

    async def start(self, argv: Sequence[str], env: Mapping[str, str], *, ready: Probe, cwd: Path | None = None) -> None:
        """Start it and wait until ready says yes.

        env: the whole environment (child_environment). Raises StartFailed with the facts rc, signal and last_lines when it
        ends, is stopped or is not ready in time; IllegalTransition when it is alive already.
        """
        self._refuse_inside_callback()
        async with self._turn:
            self._check(State.STARTING)
            rotate_in_place(self.log_path, self._log_cap_bytes)
            self._log_from = self.log_size()
            child, self._record = start_at_gate(self.name, argv, env, self.log_path, self.record_path, cwd)
            await self._enter(State.STARTING, self._watch(child))
        await self._become_ready(ready)

    async def adopt(self, ready: Probe | None = None) -> bool:
        """Take over the process of proc.json; False when there is none, or it is gone (state lost).

        ready: for a process that may have been left before it was ready; it must become so in time, as in start.
        """
        self._refuse_inside_callback()
        async with self._turn:
            self._check(State.RUNNING)
            record = ProcessRecord.read(self.record_path)
            if record is None:
                return False
            self._record, self._log_from = record, 0
            if not record.is_alive():
                await self._clear_group(record)
                self.exit = Exit(None, None, "it was gone when its supervisor came back", self.last_lines())
                self.record_path.unlink(missing_ok=True)
                await self._enter(State.LOST)
                return False
            await self._enter(State.RUNNING if ready is None else State.STARTING, self._watch(None))
        if ready is not None:
            try:
                await self._become_ready(ready)
            except StartFailed as error:
                _log.warning("adopted process is of no use: %s", error)
                return False
        return True

    async def stop(self) -> None:
        """End it and its group; returns when the end is written. Nothing happens when it is not alive.

        Raises StopFailed when it is still there 5 s after KILL.
        """
        self._refuse_inside_callback()
        async with self._turn:
            if not self.is_alive:
                return
            if self.state is not State.STOPPING:
                await self._enter(State.STOPPING)
        await self._terminated()
        await self.wait()

    async def wait(self) -> Exit:
        """Wait for its end, for which it must have been started or adopted once."""
        if self._watcher is not None:
            await asyncio.shield(self._watcher)
        if self.exit is None:
            raise IllegalTransition(f"{self.name} was never started.", name=self.name, state=str(self.state))
        return self.exit

    async def _become_ready(self, ready: Probe) -> None:
        assert self._record is not None
        try:
            async with asyncio.timeout(self._ready_timeout_s):
                while not self._gone.is_set() and not await ready():
                    await self._gone_within(_PROBE_EVERY_S)
        except TimeoutError:
            self._why = f"not ready within {self._ready_timeout_s:g} s"
            await self._terminated()
        except BaseException as error:
            self._why = f"its start was given up ({type(error).__name__})"
            self._record.signal_group(signal.SIGKILL)
            raise
        async with self._turn:
            if self.state is State.STARTING and not self._gone.is_set():
                await self._enter(State.RUNNING)
                return
        end = await self.wait()
        raise StartFailed(
            f"{self.name} did not start: {end.reason}.",
            name=self.name,
            rc=end.rc,
            signal=end.signal,
            last_lines=end.last_lines,
        )

    async def _watch(self, child: subprocess.Popen[bytes] | None) -> None:
        """Wait for the end of the leader, clear its group, and write the end: nobody else does."""
        record = self._record
        assert record is not None
        while not await record.ends_within(_LOOK_AT_LOG_EVERY_S):
            await asyncio.to_thread(rotate_in_place, self.log_path, self._log_cap_bytes)
        # Our own child is a zombie until we wait for it, which keeps the number of its group from being given away.
        await self._clear_group(record)
        code = child.wait() if child is not None else None
        self._gone.set()
        async with self._turn:
            self.exit = Exit(
                rc=code if code is not None and code >= 0 else None,
                signal=-code if code is not None and code < 0 else None,
                reason=self._reason(code),
                last_lines=self.last_lines(),
            )
            self.record_path.unlink(missing_ok=True)
            await self._enter(self._end_of(code))

    def _end_of(self, code: int | None) -> State:
        if self.state is State.STOPPING:
            return State.STOPPED
        if self.state is State.STARTING:
            return State.FAILED
        if code is None:
            return State.LOST
        return State.EXITED if code == 0 else State.FAILED

    def _reason(self, code: int | None) -> str:
        if self.state is State.STOPPING:
            return f"stopped{f', {self._why}' if self._why else ''}"
        if self._why:
            return self._why
        how = say_exit(code)
        return f"{how} before it was ready" if self.state is State.STARTING else how

    async def _terminated(self) -> None:
        """Have it ended, by one task for all who ask: a caller who is cancelled takes no KILL back."""
        if self._termination is None:
            self._termination = asyncio.create_task(self._terminate(), name=f"end {self.name}")
        await asyncio.shield(self._termination)

    async def _terminate(self) -> None:
        assert self._record is not None
        self._record.signal_group(signal.SIGTERM)
        if await self._gone_within(self._grace_s):
            return
        self._why = f"{f'{self._why}, ' if self._why else ''}killed after {self._grace_s:g} s"
        self._record.signal_group(signal.SIGKILL)
        if not await self._gone_within(_KILL_WAIT_S):
            self._termination = None
            raise StopFailed(f"{self.name} is still there after SIGKILL.", name=self.name, pid=self._record.pid)

    async def _gone_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._gone.wait()
        except TimeoutError:
            return False

    async def _clear_group(self, record: ProcessRecord) -> None:
        """Kill what is left of a group whose leader has ended, and see it gone."""
        deadline = asyncio.get_running_loop().time() + _KILL_WAIT_S
        while members := record.group_members():
            record.signal_group(signal.SIGKILL)
            if asyncio.get_running_loop().time() > deadline:
                _log.error("%s left processes that do not die: %s", self.name, members)
                return
            await asyncio.sleep(0.02)

    def _check(self, to: State) -> None:
        if to not in TRANSITIONS[self.state]:
            raise IllegalTransition(f"{self.name} is {self.state}: it cannot become {to}.", name=self.name, state=str(self.state))

    async def _enter(self, to: State, watch: Awaitable[None] | None = None) -> None:
        """Make a transition, in our turn; a start or an adoption brings its watcher along."""
        self._check(to)
        if watch is not None:
            self._gone, self._why, self._termination, self.exit = asyncio.Event(), None, None, None
            self._watcher = asyncio.ensure_future(watch)
        self.state = to
        _log.info("%s is %s", self.name, to, extra={"pid": self._record.pid if self._record else None})
        if self._on_change is None:
            return
        self._notifying = asyncio.current_task()
        try:
            async with asyncio.timeout(_CALLBACK_S):
                await self._on_change(self)
        except Exception:
            _log.exception("what should follow when %s became %s failed", self.name, to)
        finally:
            self._notifying = None

    def _refuse_inside_callback(self) -> None:
        if self._notifying is not None and self._notifying is asyncio.current_task():
            raise RuntimeError("on_change may not start, stop or adopt the process that it is told about: make a task")
