"""Supervision of a node's ClientApps: one process for each message, started, watched, killed, answered for."""

import os
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flower_runtime.activity import Activity
from flower_runtime.clientapp_process import ClientAppProcess
from flower_runtime.environment import child_environment
from flower_runtime.folders import remove_old_folders
from flower_runtime.handover import ClientAppTask, Handover
from flower_runtime.orphans import kill_orphans
from flower_runtime.wanted import WantedFile
from flower_runtime.warm import WarmServer

ForwardLogs = Literal["none", "errors", "all"]

RESTART_ME = 75  # the exit code by which a node says that it ended without being told to
_TICK_S = 0.1
_WANTED_EVERY_S = 0.2
_RUN_STATUS_EVERY_S = 1.0
_KEEP_EVERY_S = 5.0  # a task whose process says nothing for 30 s while starting, 60 s while running, is lost to Flower
_FOLDERS_KEPT = 200


@dataclass(frozen=True)
class NodeSettings:
    """What the supervision of a node must know."""

    state_dir: Path
    wanted_file: Path
    cache_dir: Path
    forward_logs: ForwardLogs
    node_name: str
    runtime_api: str
    is_warm: bool

    @property
    def clientapps_dir(self) -> Path:
        return self.state_dir / "clientapps"

    def clientapp_environment(self) -> dict[str, str]:
        """Build a ClientApp's environment: the allow-list, its cache, and what of its logs leaves the site."""
        ours = {"ESPALIER_CACHE_DIR": str(self.cache_dir), "ESPALIER_FORWARD_LOGS": self.forward_logs}
        return child_environment(os.environ, ours)


class ClientApps:
    """Runs in two threads: one starts and watches processes, one asks SuperLink whether their runs still run."""

    def __init__(self, handover: Handover, settings: NodeSettings) -> None:
        self._handover = handover
        self._settings = settings
        self._wanted_file = WantedFile(settings.wanted_file)
        self._activity = Activity(settings.state_dir / "activity.jsonl")
        environment = settings.clientapp_environment()
        self._warm = WarmServer(settings.state_dir / "warm", settings.runtime_api, environment, settings.cache_dir)
        self._live: list[ClientAppProcess] = []
        self._over: set[int] = set()
        self._closing = threading.Event()
        self._closed = threading.Event()

    def start(self) -> None:
        """Begin to take messages."""
        threading.Thread(target=self._supervise, name="clientapps", daemon=True).start()
        threading.Thread(target=self._ask_for_runs, name="run-status", daemon=True).start()

    def close(self) -> None:
        """Kill what runs, and wait until it is gone."""
        self._closing.set()
        self._handover.message_stored.set()
        self._closed.wait(5)

    def _supervise(self) -> None:
        """Watch until closed. The kernel kills ClientApps when the thread that started them ends, so this one never does."""
        try:
            self._watch()
        except Exception:
            traceback.print_exc()
            print("the supervision of ClientApps has failed; exiting so that the SuperNode is restarted", flush=True)
            os._exit(RESTART_ME)
        self._closed.set()
        threading.Event().wait()

    def _watch(self) -> None:
        wanted_in_s = keep_in_s = 0.0
        if self._settings.is_warm:
            self._warm.start()
        while not self._closing.is_set():
            if self._warm.is_warming:
                self._closing.wait(_TICK_S)  # a message that is there is taken when it is warm
            else:
                self._handover.message_stored.wait(_TICK_S if self._live else None)
                self._handover.message_stored.clear()
                while task := self._handover.acquire():
                    self._begin(task)
            for process in [each for each in self._live if each.poll() is not None]:
                self._end(process)
            wanted_in_s, keep_in_s = wanted_in_s - _TICK_S, keep_in_s - _TICK_S
            if wanted_in_s <= 0:
                wanted_in_s = _WANTED_EVERY_S
                self._kill_unwanted()
            if keep_in_s <= 0:
                keep_in_s = _KEEP_EVERY_S
                for process in self._live:
                    self._handover.keep(process.task)
        for process in list(self._live):
            process.kill("the SuperNode ends")
            self._end(process)
        self._warm.close()

    def _begin(self, task: ClientAppTask) -> None:
        refusal = self._refusal(task)
        run_id = str(task.run_id)
        if refusal:
            self._activity.note("message.cancelled", flower_run_id=run_id, message_id=task.message_id, reason=refusal)
            self._handover.finish(task, f"{self._subject()} was not started: {refusal}")
            return
        settings = self._settings
        folder = settings.clientapps_dir / run_id / task.message_id
        try:
            environment = settings.clientapp_environment()
            process = ClientAppProcess(folder, task, settings.runtime_api, environment, settings.cache_dir, self._warm)
        except OSError as error:
            self._activity.note(
                "clientapp.died", flower_run_id=run_id, message_id=task.message_id, reason=f"could not be started: {error}"
            )
            self._handover.finish(task, f"{self._subject()} could not be started: {error}")
            return
        self._live.append(process)
        self._activity.note("message.started", flower_run_id=run_id, message_id=task.message_id, pid=process.pid)

    def _end(self, process: ClientAppProcess) -> None:
        task = process.task
        code = process.close()
        self._live.remove(process)
        replied = self._handover.has_reply(task)
        how = process.describe_end(code)
        lines = [] if self._settings.forward_logs == "none" or (replied and code == 0) else process.last_lines()
        self._handover.finish(task, "\n".join([f"{self._subject()}: {how}", *lines]))
        cancelled = process.killed_because is not None
        self._activity.note(
            "message.cancelled" if cancelled else "message.ended" if replied else "clientapp.died",
            flower_run_id=str(task.run_id),
            message_id=task.message_id,
            pid=process.pid,
            rc=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            reason=how,
            last_lines=lines,
            seconds=process.seconds,
        )
        print(f"[RUN {task.run_id}] ClientApp pid {process.pid} ended after {process.seconds:.1f} s: {how}", flush=True)
        if not self._live:
            self._end_orphans(process)
            if not self._closing.is_set():
                self._warm.learn(process.folder)
        remove_old_folders(self._settings.clientapps_dir, _FOLDERS_KEPT, {each.folder for each in self._live})

    def _end_orphans(self, process: ClientAppProcess) -> None:
        """Kill what the ClientApp started and left outside its group."""
        killed = kill_orphans([pid for pid in [self._warm.pid] if pid is not None])
        if killed:
            print(f"[RUN {process.task.run_id}] ClientApp pid {process.pid} left processes, killed: {killed}", flush=True)

    def _subject(self) -> str:
        return f"ClientApp of {self._settings.node_name}" if self._settings.node_name else "ClientApp"

    def _refusal(self, task: ClientAppTask) -> str | None:
        wanted = self._wanted_file.read()
        if task.run_id in self._over or str(task.run_id) in wanted.over_runs:
            return "its run is over"
        return "its message was cancelled" if task.message_id in wanted.cancelled_messages else None

    def _kill_unwanted(self) -> None:
        for process in self._live:
            refusal = self._refusal(process.task)
            if refusal:
                process.kill(refusal)

    def _ask_for_runs(self) -> None:
        """Ask SuperLink, in a thread of its own: an outage holds the question up and nothing else."""
        while not self._closing.wait(_RUN_STATUS_EVERY_S):
            for run_id in {process.task.run_id for process in list(self._live)}:
                try:
                    if not self._handover.still_runs(run_id):
                        self._over.add(run_id)
                except Exception as error:
                    print(f"[RUN {run_id}] SuperLink does not say whether it still runs: {error!r:.200}", flush=True)
